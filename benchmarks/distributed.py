"""Several processes against one: seconds, bytes on the wire and memory of the same labels.

    python benchmarks/distributed.py            # about ten minutes; writes docs/evidence/scale.md
    python benchmarks/distributed.py --small    # a dry run on little, into build/scale

Processes of ``torch.distributed`` (gloo) on this machine, one thread each, share the rows of
``features.py``; the baseline is ``mabm.pseudo_labels`` in one process with two threads. Equality
comes first: an untimed pass over all configurations must give the labels of the baseline, and so
must every timed one. Each configuration runs in fresh processes, one after the other; in the next
round all of them run again. Compare ratios, which are taken within rounds.

Time is that of the call in the slowest process, features in memory. Peak memory is what the call
adds to a process that has loaded libraries and its features. Bytes are counted where they are sent.
``docs/evidence/scale.json`` keeps every figure. Linux alone, as memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import machine
import numpy as np
import regions
import torch
import torch.distributed as dist
from features import make_features
from figures import Spread, digits
from measuring import timed, with_peak
from routes import prepare, run_apart, summary_of
from tqdm import tqdm

import mabm
import mabm.distributed
from mabm._core.processes import rows_of
from mabm.distributed.team import Team

ROOT = Path(__file__).resolve().parents[1]
PAGE = "scale.md"

_WARM_UP = 400  # samples with which libraries are loaded, threads started and processes connected
_HOST = "127.0.0.1"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """A number of processes with a number of threads each."""

    processes: int
    threads: int
    plain: bool = False  # whether the function of one process is called

    @property
    def name(self) -> str:
        """As in the table."""
        words = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        words += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"`mabm.pseudo_labels`: {words}" if self.plain else words

    def rows(self, rank: int, count: int) -> slice:
        """The rows of a process."""
        return rows_of(rank, self.processes, count)

    def labels_file(self, folder: Path, rank: int) -> Path:
        """Where a process leaves its labels."""
        kind = "plain" if self.plain else "shared"
        return folder / f"labels_{kind}_{self.processes}_{rank}.npy"


@contextmanager
def counted_bytes() -> Iterator[Counter[str]]:
    """Bytes that this process sends within, by stage; complete at the end."""
    teams: list[Team] = []
    sent: Counter[str] = Counter()
    begin = Team.__init__

    def init(team: Team, *arguments: Any) -> None:
        begin(team, *arguments)
        teams.append(team)

    with patch.object(Team, "__init__", init):
        yield sent
    for team in teams:
        sent.update(team.sent_bytes)


def run_here(setup: Setup, folder: Path, port: int, rank: int) -> dict[str, Any]:
    """One process of a setup: its seconds, its peak memory and the bytes that it sent."""
    torch.set_num_threads(setup.threads)
    label = mabm.pseudo_labels if setup.plain else mabm.distributed.pseudo_labels
    if not setup.plain:
        store = dist.TCPStore(_HOST, port, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=setup.processes)
    try:
        few = setup.rows(rank, _WARM_UP)
        label(*(column[few] for column in make_features(_WARM_UP, 64)))
        features = np.load(folder / "features.npy", mmap_mode="r")
        rows = setup.rows(rank, len(features))
        own = torch.from_numpy(np.array(features[rows]))
        modality = torch.from_numpy(np.load(folder / "modality.npy")[rows])
        if not setup.plain:
            dist.barrier()
        with counted_bytes() as sent:
            peak, (seconds, found) = with_peak(timed, partial(label, own, modality))
        np.save(setup.labels_file(folder, rank), found.labels.numpy())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return {"seconds": seconds, "peak": peak, "features": own.nbytes, "sent": dict(sent)}


def run(setup: Setup, folder: Path) -> list[dict[str, Any]]:
    """The records of all processes of a setup, each of them fresh."""
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor(setup.processes) as starters:
        act = partial(run_apart, run_here, setup, folder, store.port)
        return list(starters.map(act, range(setup.processes)))


def labels_of(setup: Setup, folder: Path) -> np.ndarray:
    """The labels that a setup has left, of all rows."""
    parts = [np.load(setup.labels_file(folder, rank)) for rank in range(setup.processes)]
    return np.concatenate(parts)


def measure_round(setups: list[Setup], folder: Path, label: str) -> dict[str, Any]:
    """All setups, one after the other; the first one's labels are those of all.

    Raises:
        AssertionError: Labels differ.
    """
    found = {}
    for setup in tqdm(setups, desc=label, leave=False):
        found[setup.name] = run(setup, folder)
        expected = labels_of(setups[0], folder)
        np.testing.assert_array_equal(labels_of(setup, folder), expected, err_msg=setup.name)
    return found


def measure(setups: list[Setup], samples: int, dim: int, rounds: int) -> Figures:
    """Equality, then the rounds, at one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_apart(prepare, folder, "usual", samples, dim)
        measure_round(setups, folder, f"N = {samples:,}, equality")
        labels, modality = labels_of(setups[0], folder), np.load(folder / "modality.npy")
        each = [
            measure_round(setups, folder, f"N = {samples:,}, round {number + 1}")
            for number in range(rounds)
        ]
    return {
        "samples": samples,
        "dim": dim,
        "summary": summary_of(labels, modality),
        "rounds": each,
    }


def tables(figures: Figures) -> list[str]:
    """The machine, and two tables for each size."""
    conditions = figures["conditions"]
    words = [
        f"{conditions['processor']}, {conditions['cores']} cores",
        *(f"{name} {conditions[name]}" for name in ("python", "mabm", "torch")),
    ]
    use = figures["use_by_others"]
    line = f"{', '.join(words)}. Before the measurement, other work used {use:.0%} of the processor"
    lines = [line + (": **times are too high, ratios rough.**" if use > machine.BUSY else ".")]
    for cell in figures["cells"]:
        lines += ["", *_size_lines(cell), *_stage_lines(cell)]
    return lines


def _size_lines(cell: Figures) -> list[str]:
    rounds, summary = cell["rounds"], cell["summary"]
    setups = list(rounds[0])
    seconds = {name: [_most(each[name], "seconds") for each in rounds] for name in setups}
    lines = [
        f"N = {cell['samples']:,}, D = {cell['dim']}, rounds: {len(rounds)}, medians (least to "
        f"most); {summary['clusters']:,} clusters, {summary['noise']:,} samples in none:",
        "",
        "| | seconds | relative to one process | peak memory of a process | its features "
        "| sent by a process | sent in all |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in setups:
        pairs = zip(seconds[name], seconds[setups[0]], strict=True)
        ratio = "1" if name == setups[0] else Spread.of(a / b for a, b in pairs).text()
        peak = Spread.of(_most(each[name], "peak") / 1e6 for each in rounds)
        sent = [sum(record["sent"].values()) for record in rounds[0][name]]
        cells = [name, Spread.of(seconds[name]).text(), ratio, f"{peak.text()} MB"]
        cells += [_megabytes(_most(rounds[0][name], "features"))]
        cells += [_megabytes(max(sent)), _megabytes(sum(sent))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stage_lines(cell: Figures) -> list[str]:
    """Bytes of the process that sends most of each stage."""
    records = {name: found for name, found in cell["rounds"][0].items() if len(found) > 1}
    stages = dict.fromkeys(
        stage for found in records.values() for record in found for stage in record["sent"]
    )
    lines = ["", f"| sent by a process, at most | {' | '.join(records)} |"]
    lines += ["|---|" + "---|" * len(records)]
    for stage in stages:
        most = [max(each["sent"].get(stage, 0) for each in found) for found in records.values()]
        lines.append(f"| {stage or 'other'} | {' | '.join(map(_megabytes, most))} |")
    return lines if stages else []


def _most(records: list[dict[str, Any]], name: str) -> float:
    return float(max(record[name] for record in records))


def _megabytes(count: float) -> str:
    return f"{digits(count / 1e6)} MB" if count else "-"


def parse_options() -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[23_200, 100_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=2, help="of the one process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a dry run on little")
    parser.add_argument("--docs", type=Path, help="folder to write to, by default docs")
    options = parser.parse_args()
    if options.small:
        options.samples, options.dim, options.rounds = [600, 900], 32, 1
        options.docs = options.docs or ROOT / "build" / "scale"
    return options


def main() -> None:
    """Measures everything, and writes the page."""
    options = parse_options()
    evidence = (options.docs or ROOT / "docs") / "evidence"
    evidence.mkdir(parents=True, exist_ok=True)
    setups = [Setup(1, options.threads, plain=True), *(Setup(n, 1) for n in options.processes)]

    machine.pin(options.threads)
    conditions = run_apart(machine.describe, options.threads)
    figures: Figures = {"conditions": conditions, "use_by_others": machine.use_by_others()}
    figures["cells"] = [
        measure(setups, samples, options.dim, options.rounds) for samples in options.samples
    ]
    saved, page = evidence / PAGE.replace(".md", ".json"), evidence / PAGE
    saved.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = (ROOT / "docs" / "evidence" / PAGE).read_text(encoding="utf-8")
    page.write_text(regions.fill(text, {"processes": tables(figures)}), encoding="utf-8")
    print(f"wrote {page} and {saved}")


if __name__ == "__main__":
    main()
