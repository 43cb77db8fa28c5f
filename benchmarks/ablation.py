"""The ablation of the paper on open data: what each part of the method adds (``make ablation``).

The data is Emoji-XM: drawings, not photographs. The protocol is in docs/evidence/ablation.md. There
are two tables: from encoders trained on other identities, each in one modality only, and from a
weak encoder trained on few. For each seed stage 1 runs once; each arm continues from it with its
own stage 2, all with the same number of optimizer steps. The result is the last epoch, on
test identities by which nothing is selected. Finished runs are kept: if the command is stopped and
started again, it resumes.

    python benchmarks/ablation.py --output ablation_output            # both tables
    python benchmarks/ablation.py --output ablation_output --choose   # what chose the settings
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from scipy.stats import t as student

from mabm.train import load_config
from mabm.train.config_files import to_toml
from mabm.train.records.files import CONFIG, HISTORY, RESULT

SETTINGS = Path(__file__).with_suffix(".toml")
PRETRAINING = Path(__file__).with_name("pretraining.py")

Entry: TypeAlias = dict[str, Any]

START, STAGE_1 = "start", "stage 1"
INTRA_ONLY, NAIVE, AWARE = "intra only", "naive global clustering", "modality-aware clustering"
WHOLE = "+ split and contrast"
# Name -> what it changes. Without the split, a global cluster has one prototype for all its images.
ARMS = {
    INTRA_ONLY: ("clustering.association=off", "clustering.eps=0.5"),
    NAIVE: ("clustering.association=naive", "contrast.split=false", "clustering.eps=0.6"),
    AWARE: ("contrast.split=false", "clustering.eps=0.7"),
    WHOLE: ("clustering.eps=0.5",),
}
DIFFERENCES = (
    (START, STAGE_1),
    (STAGE_1, INTRA_ONLY),
    (START, INTRA_ONLY),
    (INTRA_ONLY, NAIVE),
    (NAIVE, AWARE),
    (AWARE, WHOLE),
    (NAIVE, WHOLE),
)
TASKS = ("infrared-to-visible", "visible-to-infrared")
CONFIDENCE = 0.95

# Name -> options of pretraining.py. Seed s of a table starts from number s modulo their number.
USUAL = {"start-0": ("--seed", "0"), "start-1": ("--seed", "1")}
WEAK = {
    f"weak-{seed}": ("--seed", str(seed), "--identities", "20", "--epochs", "40")
    for seed in range(2)
}
TABLES = {"usual": USUAL, "weak": WEAK}

# What --choose compares, each on training identities held out, from the first usual start and with
# a seed of its own: stage 1 first, then the arms from the stage 1 of the settings above.
HELD_OUT = ("data.held_out=60",)
CHOICE_SEED = 100
SHORT = ("stage2.epochs=2",)  # enough to tell radii apart
STAGE_1_CHOICES = {
    "as set": (),
    "random erasing": ("augmentation.erasing=0.5",),
    "no second view": ("augmentation.second_view=false",),
    "rate drops": ("stage1.step=2",),
    "eps 0.5": ("clustering.eps=0.5",),
    "eps 0.7": ("clustering.eps=0.7",),
}
EPS_CHOICES = (0.5, 0.6, 0.7)
SCHEDULE_CHOICES = {
    "rate drops": ("stage2.epochs=5", "stage2.step=2", "clustering.eps=0.6"),
    "one rate": ("stage2.epochs=5", "stage2.step=5", "clustering.eps=0.6"),
}


@dataclass(frozen=True)
class Bench:
    """Where runs are kept, and how they are executed."""

    output: Path
    threads: int
    changes: tuple[str, ...]

    def start(self, name: str, options: Sequence[str]) -> Path:
        """The weights of a start encoder; trains them if they are not there."""
        weights = (self.output / "starts" / f"{name}.npz").resolve()
        if not weights.exists():
            weights.parent.mkdir(parents=True, exist_ok=True)
            size = str(load_config(SETTINGS, self.changes).data.height)
            self._execute(
                f"start encoder {name}",
                [str(PRETRAINING), *options, "--size", size, "--output", str(weights)],
            )
        return weights

    def run(self, group: str, name: str, settings: Sequence[str]) -> list[Entry]:
        """The history of a run; trains or resumes it if it is not finished.

        A folder with a run of other settings is refused.
        """
        words = "".join(c if c.isalnum() or c == "." else " " for c in name).split()
        folder = (self.output / group / "-".join(words)).resolve()
        given = [*settings, *self.changes]
        if not (folder / RESULT).exists() or (folder / CONFIG).read_text() != to_toml(
            load_config(SETTINGS, given)
        ):
            command = ["-m", "mabm", "--quiet", "train", str(SETTINGS), "--output", str(folder)]
            for setting in given:
                command += ["--set", setting]
            self._execute(f"{group}, {name}", command)
        return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]

    def _execute(self, what: str, command: Sequence[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *command], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Trains what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("ablation_output"))
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N - 1 of each table")
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), default=tuple(TABLES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--choose", action="store_true", help="compare settings on held-out data")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change it in every run"
    )
    chosen = parser.parse_args()
    bench = Bench(chosen.output, chosen.threads, tuple(chosen.set))
    with ThreadPoolExecutor(chosen.jobs) as pool:
        if chosen.choose:
            text = choose(bench, pool)
            (chosen.output / "choice.md").write_text(text + "\n")
            print(text)
            return
        for name in chosen.tables:
            rows = train_arms(bench, pool, name, chosen.seeds)
            text = f"{tabulate(rows)}\n\n{tabulate_differences(rows)}"
            (chosen.output / f"{name}.md").write_text(text + "\n")
            (chosen.output / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
            print(f"\n{name} starts, {chosen.seeds} seeds\n\n{text}\n", flush=True)


def train_arms(
    bench: Bench, pool: ThreadPoolExecutor, table: str, num_seeds: int
) -> dict[str, list[Entry]]:
    """The entries of the start, of stage 1 and of the last epoch of each arm, seed by seed."""
    starts = list(TABLES[table].items())
    weights = [pool.submit(bench.start, *start) for start in starts]
    firsts = []
    for seed in range(num_seeds):
        start = weights[seed % len(starts)].result()
        firsts.append(pool.submit(bench.run, f"{table}/seed-{seed}", STAGE_1, stage_1(seed, start)))
    arms: dict[str, list[Future[list[Entry]]]] = {arm: [] for arm in ARMS}
    for seed, first in enumerate(firsts):  # the arms of a seed wait only for its stage 1
        first.result()
        group = f"{table}/seed-{seed}"
        trained = (bench.output / group / "stage-1" / "stage1.pt").resolve()
        for arm, changes in ARMS.items():
            settings = stage_2(bench, seed, trained, arm, changes)
            arms[arm].append(pool.submit(bench.run, group, arm, settings))
    return {
        START: [first.result()[0] for first in firsts],
        STAGE_1: [first.result()[-1] for first in firsts],
        **{arm: [run.result()[-1] for run in runs] for arm, runs in arms.items()},
    }


def stage_1(seed: int, start: Path) -> tuple[str, ...]:
    """Settings of stage 1 only, from the weights of a start encoder."""
    return f"run.seed={seed}", f'model.weights="{start}"', "stage2.epochs=0"


def stage_2(
    bench: Bench, seed: int, trained: Path, arm: str, changes: Sequence[str]
) -> tuple[str, ...]:
    """Settings of the stage 2 of an arm, from the weights of stage 1.

    Without the contrast across modalities an iteration takes one step where others take two; such
    an arm gets twice the iterations.
    """
    given = (f"run.seed={seed}", f'model.weights="{trained}"', "stage1.epochs=0", *changes)
    if arm != INTRA_ONLY:
        return given
    iterations = load_config(SETTINGS, bench.changes).stage2.iterations
    return *given, f"stage2.iterations={2 * iterations}"


def choose(bench: Bench, pool: ThreadPoolExecutor) -> str:
    """A table of the settings compared on training identities that no run trains on."""
    start = bench.start(*next(iter(USUAL.items())))
    common = stage_1(CHOICE_SEED, start)
    runs = {
        f"stage 1: {name}": pool.submit(
            bench.run, "choice", f"stage 1 {name}", (*common, *HELD_OUT, *changes)
        )
        for name, changes in STAGE_1_CHOICES.items()
    }
    first = next(iter(runs.values())).result()
    trained = (bench.output / "choice" / "stage-1-as-set" / "stage1.pt").resolve()
    for arm, changes in ARMS.items():
        settings = stage_2(bench, CHOICE_SEED, trained, arm, changes)
        for eps in EPS_CHOICES:
            runs[f"{arm}: eps {eps}"] = pool.submit(
                bench.run,
                "choice",
                f"{arm} eps {eps}",
                (*settings, *HELD_OUT, *SHORT, f"clustering.eps={eps}"),
            )
    settings = stage_2(bench, CHOICE_SEED, trained, WHOLE, ARMS[WHOLE])
    for name, changes in SCHEDULE_CHOICES.items():
        runs[f"{WHOLE}, whole length: {name}"] = pool.submit(
            bench.run, "choice", f"{WHOLE} {name}", (*settings, *HELD_OUT, *changes)
        )
    rows = {START: [first[0]], **{name: [run.result()[-1]] for name, run in runs.items()}}
    return tabulate(rows)


def score(entry: Entry) -> float:
    """Mean mAP across modalities over both directions."""
    return statistics.mean(entry["evaluation"][task]["mean"]["mAP"] for task in TASKS)


def within(entry: Entry) -> float:
    """Mean mAP within the two modalities."""
    return statistics.mean(scores["mAP"] for scores in entry["within_modality"].values())


def tabulate(rows: dict[str, list[Entry]]) -> str:
    """Tabulates mean and sample deviation over the seeds, in percent.

    Pairs are the cross-modality pairs within clusters: "pair precision" is the share of one
    identity, and "pair recall" the share of all pairs of one identity.
    """
    head = [f"{task} {name}" for task in TASKS for name in ("R1", "mAP")]
    head += ["within visible mAP", "within infrared mAP", "pair precision", "pair recall"]
    lines = [f"| | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for name, entries in rows.items():
        columns = [
            [entry["evaluation"][task]["mean"][key] for entry in entries]
            for task in TASKS
            for key in ("rank1", "mAP")
        ]
        columns += [
            [entry["within_modality"][modality]["mAP"] for entry in entries]
            for modality in ("visible", "infrared")
        ]
        joined = [entry for entry in entries if "global" in entry.get("clusters", ())]
        for rate in ("pair_precision", "pair_recall"):  # no precision without pairs
            found = [entry["diagnostics"]["all"][rate] for entry in joined]
            columns.append([value for value in found if value is not None])
        lines.append(f"| {name} | " + " | ".join(map(spread, columns)) + " |")
    return "\n".join(lines)


def tabulate_differences(rows: dict[str, list[Entry]]) -> str:
    """Tabulates paired differences in mAP, in points, with confidence intervals over the seeds."""
    percent = f"{100 * CONFIDENCE:.0f} %"
    lines = [
        f"| difference in mAP | across modalities, {percent} interval | within, {percent} interval "
        "| seeds above 0, across |",
        "|---|---|---|---|",
    ]
    for before, after in DIFFERENCES:
        pairs = list(zip(rows[before], rows[after], strict=True))
        across = [score(second) - score(first) for first, second in pairs]
        inside = [within(second) - within(first) for first, second in pairs]
        above = sum(value > 0 for value in across)
        lines.append(
            f"| {before} → {after} | {interval(across)} | {interval(inside)} "
            f"| {above} of {len(across)} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Returns mean and deviation in percent, as text."""
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def interval(values: list[float]) -> str:
    """Returns the mean in points with Student's interval of confidence, as text."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{100 * mean:+.1f}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return f"{100 * mean:+.1f} ({100 * (mean - reach):+.1f} to {100 * (mean + reach):+.1f})"


if __name__ == "__main__":
    main()
