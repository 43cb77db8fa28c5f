"""Several GPUs on paper: bytes on the wire, memory and time by formula, none of it measured.

    python benchmarks/gpu/scale.py            # writes the tables of docs/evidence/scale.md
    python benchmarks/gpu/scale.py --check    # exits with 1 if they are not current

Symbols of the formulas: N samples of D dimensions on R processes, n = N / R rows each, K ranked
neighbors in all lists. Means per row are those that ``counts.py`` counted on one process. Samples
are in any order: rows that a process asks for are spread over all processes. What a device does is
predicted by ``work.py`` and ``cards.py``; the rates of networks are in :data:`LINKS`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from math import exp, log2
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for regions.py

import regions
from cards import DEVICES, Device
from counts import Counts
from figures import digits
from predictions import likely_size, predicted_ms
from stages import RANKING, WHOLE
from work import NEAR_SLOTS, PARTS, TILE, Size

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "scale.md"

SAMPLES = (4_180_000, 10_000_000, 1_000_000_000)
DIMS = (2048, 256)
PROCESSES = (8, 64, 256)

LINKS = {"A100 80GB": 300e9, "H100 SXM": 450e9, "H200": 450e9}
"""Bytes a second that a GPU sends by NVLink, by data sheet, within a machine."""
_IN_A_MACHINE = 8
# Bytes a second that a GPU sends to other machines: a port of 400 Gb/s InfiniBand each.
_BETWEEN_MACHINES = 50e9
# The part of these rates that is assumed.
_LINK_SHARE = 0.8

# The part of a GPU's memory that results may take; the rest is for its context and for gaps.
_MEMORY_SHARE = 0.9

# Shards in memory during the ranking: the own one, the one compared with, the one on its way.
_SHARDS = 3
# The last step of an even ring compares half as many pairs, by sending all rows of half of the
# shards and half of the rows of the others.
_LAST_STEP = 0.75
# Bytes of an entry of a list: a sample, a row, and an exact score in float64.
_LIST_ENTRY = 16
_SCORE, _INDEX, _WEIGHT = 8, 4, 4
# Arrays of N on each process: compact numbers of samples, and new ones in the making; or parents of
# the union-find, those of another process, and core flags.
_BYTES_OF_N = 4 + 4 + 1


@dataclass(frozen=True)
class Case:
    """An input on several processes.

    Attributes:
        size: All samples.
        processes: R.
    """

    size: Size
    processes: int

    @property
    def rows(self) -> float:
        """Rows of a process, n."""
        return self.size.count / self.processes

    @property
    def counts(self) -> Counts:
        """Means per row."""
        return self.size.counts

    @property
    def steps(self) -> float:
        """Shards that visit a process in the half ring, in units of n rows."""
        even = self.processes % 2 == 0
        return self.processes // 2 - (1 - _LAST_STEP) * even

    @property
    def growth(self) -> float:
        """Entries that enter a list of K, over K, if shards come one after the other.

        The own shard fills it. After s shards, the next one has K / s better rows on average:
        the sum is harmonic.
        """
        return 1 + sum(1 / step for step in range(1, self.processes // 2 + 1))

    @property
    def unlisted(self) -> float:
        """Members of E(i) that are not in the lists of row i."""
        return self.counts.members * (1 - self.counts.listed)

    def foreign(self, asked: float) -> float:
        """Different rows of other processes among n times ``asked`` random samples."""
        others = self.size.count - self.rows
        return others * (1 - exp(-asked * self.rows / self.size.count))


# Bytes that a process sends


def ring(case: Case) -> float:
    """(4 D + 24) n S: features, the group and a threshold for each list, in S steps.

    S = R/2, rounded down; the last step of an even ring counts 3/4.
    """
    return case.steps * case.rows * (4 * case.size.dim + _SCORE * (1 + case.counts.lists))


def lists_home(case: Case) -> float:
    """16 n K (1 + 1/2 + ... + 1/S): new neighbors of visiting rows; 16 n K S at most."""
    return case.rows * case.counts.width * (case.growth - 1) * _LIST_ENTRY


def scores(case: Case) -> float:
    """(4 D + 4) for each sample asked for: features, for scores that the row's lists do not have.

    A process asks for N (1 - exp(-a n / N)) samples, less its own, where rows ask for a on average.
    """
    return case.foreign(case.unlisted) * (4 * case.size.dim + _INDEX)


def fetched(case: Case) -> float:
    """4 (2 K + 1) for each sample in the lists, 8 + 8 for each entry of V of those averaged.

    Lists, their first halves, and which of these are reciprocal.
    """
    c = case.counts
    lists = case.foreign(c.width) * _INDEX * (2 * c.width + 1)
    return lists + case.foreign(c.averaged) * (2 * _INDEX + c.entries * (_INDEX + _WEIGHT))


def graph(case: Case) -> float:
    """At most (8 + 8 for each entry of V') n + N / 8 a step: averaged rows, and bits that ask.

    Only rows that share enough weight with columns of the other shard are sent. The pairs found go
    back, 12 bytes each.
    """
    c = case.counts
    row = 2 * _INDEX + c.expanded * (_INDEX + _WEIGHT)
    pairs = case.rows * c.near / 2 * (1 - 1 / case.processes) * (2 * _INDEX + _WEIGHT)
    return case.steps * case.rows * row + case.processes // 2 * case.size.count / 8 + pairs


def clusters(case: Case) -> float:
    """N + 4 N log2(R): core flags to all others; the forest of the union-find, from the first."""
    flags = case.rows * (case.processes - 1)
    return flags + 4 * case.size.count * log2(case.processes)


def all_clusters(case: Case) -> float:
    """The same of all processes: the union-find goes up the tree and back."""
    flags = case.size.count * (case.processes - 1)
    return flags + 2 * 4 * case.size.count * (case.processes - 1)


WIRE = {
    "ring": ring,
    "lists home": lists_home,
    "scores": scores,
    "fetched rows": fetched,
    "graph": graph,
    "DBSCAN": clusters,
}
"""Bytes that a process sends, by part."""


def wire(case: Case) -> float:
    """Bytes that the process sends that sends most."""
    return sum(part(case) for part in WIRE.values())


def whole_wire(case: Case) -> float:
    """Bytes that all processes send."""
    return (wire(case) - clusters(case)) * case.processes + all_clusters(case)


# Bytes of memory of a process


def shards(case: Case) -> float:
    """12 n D: the own shard, the one compared with, the one on its way."""
    return _SHARDS * 4 * case.rows * case.size.dim


def ranks(case: Case) -> float:
    """16 n K: neighbors and their scores."""
    return _LIST_ENTRY * case.rows * case.counts.width


def ranking(case: Case) -> float:
    """2 n (D + places of candidates) + 0.3 GB: 8-bit integers of two shards, lists, a tile.

    Two lists of 184 candidates take 2,960 bytes a row.
    """
    places = case.counts.lists * (8 * case.counts.capacity + 8)
    return 2 * case.rows * (case.size.dim + places) + 4 * TILE**2


def fetched_rows(case: Case) -> float:
    """(6.5 K + 8) for each sample in the lists, N at most; or 16 + 12 for each entry of V averaged.

    The greater of the two.
    """
    c = case.counts
    lists = (case.rows + case.foreign(c.width)) * (6.5 * c.width + 8)
    return max(lists, (case.rows + case.foreign(c.averaged)) * (16 + 12 * c.entries))


def entries(case: Case) -> float:
    """(2,148 + 52 for each entry of V') n: own rows and columns, rows compared with, near pairs."""
    of_own = case.counts.expanded * (8 + 4 + 12 + 12 + 8) + NEAR_SLOTS * 8 + 100
    return case.rows * (of_own + case.counts.expanded * (_INDEX + _WEIGHT))


def of_all_samples(case: Case) -> float:
    """9 N: the numbers of all samples on this process; later two forests and core flags."""
    return _BYTES_OF_N * float(case.size.count)


MEMORY = {
    "shards": shards,
    "ranks": ranks,
    "ranking": ranking,
    "fetched rows": fetched_rows,
    "averaged rows": entries,
    "of all samples": of_all_samples,
}
"""Bytes of memory of a process, by part; not all at once."""


def memory(case: Case) -> float:
    """The worse of two moments: the ranking, and the graph with all that was fetched."""
    own = 4 * case.rows * case.size.dim + ranks(case)
    after = own + fetched_rows(case) + entries(case) + of_all_samples(case)
    return max(shards(case) + ranks(case) + ranking(case), after)


def fits(case: Case, device: Device) -> bool:
    """Whether a process fits on a device."""
    return memory(case) <= _MEMORY_SHARE * device.memory


# Seconds


def computing(case: Case, device: Device) -> tuple[float, float]:
    """Predicted seconds of a process: of the ranking, and of all that follows.

    1/R of each part of one process. Each visiting shard is prepared again; exact scores grow with
    the lists that candidates pass through.
    """
    again = {"preparation": 1 + case.steps, "exact scores": case.growth}
    found = [0.0, 0.0]
    for part in PARTS:
        if WHOLE in part.stages and part.runs_on(device.slow_float64):
            taken, _ = predicted_ms(part.work(case.size), device)
            share = again.get(part.name, 1.0) / case.processes
            found[RANKING not in part.stages] += taken / 1e3 * share
    return found[0], found[1]


def link(case: Case, device: Device) -> float:
    """Bytes a second that a process sends: the slowest link of the ring sets the pace."""
    inside = case.processes <= _IN_A_MACHINE
    return _LINK_SHARE * (LINKS[device.name] if inside else _BETWEEN_MACHINES)


def seconds(case: Case, device: Device) -> float:
    """The ranking overlaps with its ring; all other bytes are waited for."""
    ranked, rest = computing(case, device)
    beside = ring(case) / link(case, device)
    waited = (wire(case) - ring(case)) / link(case, device)
    return max(ranked, beside) + rest + waited


# Tables


def cases() -> list[Case]:
    """All of them, ordered by N, D and R."""
    return [
        Case(likely_size(count, dim), processes)
        for count in SAMPLES
        for dim in DIMS
        for processes in PROCESSES
    ]


def tables() -> dict[str, list[str]]:
    """The lines of each region of the page."""
    return {
        "formulas": _formula_table(),
        "counts": _count_line(),
        "wire": _wire_table(),
        "memory": _memory_table(),
        "time": _time_table(),
    }


def _formula_table() -> list[str]:
    lines = ["| | bytes of a process |", "|---|---|"]
    for title, parts in (("sent", WIRE), ("memory", MEMORY)):
        for name, part in parts.items():
            lines.append(f"| {title}: {name} | {' '.join((part.__doc__ or '').split())} |")
    return lines


def _count_line() -> list[str]:
    c = cases()[0].counts
    return [
        f"K = {c.width:.0f} in {c.lists:.0f} lists, {c.averaged:.0f} averaged rows. Means per row: "
        f"{c.entries:.1f} entries of V, {c.expanded:.0f} of V', {c.near:.1f} near rows, "
        f"{cases()[0].unlisted:.2f} scores that its lists do not have."
    ]


def _wire_table() -> list[str]:
    lines = [
        f"| N | D | GPUs | {' | '.join(WIRE)} | **a process** | **all** |",
        "|---|---|---|" + "---|" * (len(WIRE) + 2),
    ]
    for case in cases():
        cells = [_bytes(part(case)) for part in WIRE.values()]
        cells += [f"**{_bytes(each)}**" for each in (wire(case), whole_wire(case))]
        lines.append(f"| {_head(case)} | {' | '.join(cells)} |")
    return lines


def _memory_table() -> list[str]:
    lines = [
        f"| N | D | GPUs | {' | '.join(MEMORY)} | **at most** | fits in |",
        "|---|---|---|" + "---|" * (len(MEMORY) + 2),
    ]
    for case in cases():
        cells = [_bytes(part(case)) for part in MEMORY.values()]
        sizes = sorted({round(device.memory / 1e9) for device in _devices() if fits(case, device)})
        words = " and ".join(f"{each} GB" for each in sizes) or "none"
        lines.append(
            f"| {_head(case)} | {' | '.join(cells)} | **{_bytes(memory(case))}** | {words} |"
        )
    return lines


def _time_table() -> list[str]:
    names = [device.name for device in _devices()]
    h200 = _devices()[-1]
    lines = [
        f"| N | D | GPUs | {h200.name}: ranking | after it | wire | "
        + " | ".join(f"**{name}**" for name in names)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for case in cases():
        parts = [*computing(case, h200), wire(case) / link(case, h200)]
        totals = [
            f"**{_duration(seconds(case, device))}**" if fits(case, device) else "does not fit"
            for device in _devices()
        ]
        cells = [*map(_duration, parts), *totals]
        lines.append(f"| {_head(case)} | {' | '.join(cells)} |")
    return lines


def _devices() -> list[Device]:
    """Those whose links are known, by memory."""
    return sorted((d for d in DEVICES if d.name in LINKS), key=lambda d: (d.memory, d.bandwidth))


def _head(case: Case) -> str:
    return f"{case.size.count:,} | {case.size.dim:,} | {case.processes}"


def _bytes(count: float) -> str:
    """In GB, or TB from a thousand."""
    return f"{digits(count / 1e12)} TB" if count >= 1e12 else f"{digits(count / 1e9)} GB"


def _duration(taken: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if taken >= 1.5 * length:
            return f"{digits(taken / length)} {unit}"
    return f"{digits(taken)} s"


def main() -> int:
    """Writes the tables, or checks them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    wanted = regions.fill(text, tables())
    if options.check:
        return int(wanted != text)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
