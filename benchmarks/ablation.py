"""The ablation of the paper on open data: what each part of the method adds (``make ablation``).

The data is Emoji-XM, drawings and not photographs: 350 unlabeled identities to train on, and 234
others to test on, by which nothing is selected. Every run starts from the shipped encoder, which
has seen other identities, and each of them in one modality only. For each seed stage 1 runs once;
each arm continues from it with a stage 2 of its own, all with the same number of optimizer steps.
The result is the last epoch. Finished runs are kept: if the command is stopped and started again,
it resumes.

    python benchmarks/ablation.py --output ablation_output
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mabm.train import load_config

CONFIG = "emoji_xm"

INTRA_ONLY = "intra only"
# Name -> what it changes. Without the split, a global cluster has one prototype for all its images.
ARMS = {
    INTRA_ONLY: ("clustering.association=off",),
    "naive global clustering": ("clustering.association=naive", "contrast.split=false"),
    "cluster matching (Hungarian)": ("clustering.association=hungarian", "contrast.split=false"),
    "modality-aware global clustering": ("contrast.split=false",),
    "+ split and contrast": (),
}
TASKS = ("infrared-to-visible", "visible-to-infrared")


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("ablation_output"))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N - 1")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change it in every run"
    )
    chosen = parser.parse_args()
    iterations = load_config(CONFIG, chosen.set).stage2.iterations
    started = time.perf_counter()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        seeds = range(chosen.seeds)
        firsts = {
            seed: pool.submit(run, chosen, seed, "stage 1", ("stage2.epochs=0",)) for seed in seeds
        }
        runs = {}
        for seed in seeds:  # a seed's arms wait for its stage 1 alone
            weights = firsts[seed].result() / "stage1.pt"
            start = (f'model.weights="{weights}"', "stage1.epochs=0")
            for arm, changes in ARMS.items():
                # One step an iteration where the others take two: twice the iterations.
                more = (f"stage2.iterations={2 * iterations}",) if arm == INTRA_ONLY else ()
                runs[arm, seed] = pool.submit(run, chosen, seed, arm, (*start, *changes, *more))
        folders = {key: future.result() for key, future in runs.items()}
    first_folders = [future.result() for future in firsts.values()]
    histories = {arm: [read(folders[arm, seed]) for seed in range(chosen.seeds)] for arm in ARMS}
    rows = {
        "start": [read(folder)[0] for folder in first_folders],
        "stage 1": [read(folder)[-1] for folder in first_folders],
        **{arm: [entries[-1] for entries in each] for arm, each in histories.items()},
    }
    table = tabulate(rows)
    print(table)
    print(f"\n{time.perf_counter() - started:.0f} s in this call")
    (chosen.output / "ablation.md").write_text(table + "\n")
    (chosen.output / "ablation.json").write_text(json.dumps(rows, indent=1) + "\n")


def run(chosen: argparse.Namespace, seed: int, name: str, changes: tuple[str, ...]) -> Path:
    """Trains or resumes one run, and returns its folder.

    A finished run is not trained again; a folder with a run of other settings is refused.
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    folder = (chosen.output / f"seed-{seed}" / "-".join(words)).resolve()
    # Tested at the start and the end alone: nothing in between chooses anything.
    common = (f"run.seed={seed}", "run.evaluate_every=0", "run.report=false")
    settings = [*common, *chosen.set, *changes]
    command = [sys.executable, "-m", "mabm", "--quiet", "train", CONFIG]
    command += ["--output", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads)}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    print(f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s", flush=True)
    return folder


def read(folder: Path) -> list[dict]:
    """Returns the history of a run, the entry before training first."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def tabulate(rows: dict[str, list[dict]]) -> str:
    """Tabulates mean and sample deviation over the seeds, in percent.

    Pairs are the cross-modality pairs within clusters: "pairs right" is their precision, the share
    of one identity, and "pairs found" their recall, the share of all pairs of one identity.
    """
    head = [f"{task} {score}" for task in TASKS for score in ("R1", "mAP")]
    head += ["pairs right", "pairs found"]
    lines = [
        "| | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
    ]
    for name, entries in rows.items():
        columns = [
            [entry["evaluation"][task]["mean"][score] for entry in entries]
            for task in TASKS
            for score in ("rank1", "mAP")
        ]
        joined = [entry for entry in entries if "global" in entry.get("clusters", ())]
        columns += [
            [entry["diagnostics"]["all"][rate] for entry in joined]
            for rate in ("pair_precision", "pair_recall")
        ]
        lines.append(f"| {name} | " + " | ".join(map(spread, columns)) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Returns mean and deviation in percent, as text."""
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f}"


if __name__ == "__main__":
    main()
