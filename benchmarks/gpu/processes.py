"""Formulas of several GPUs: bytes on the wire, memory and time; predictions, nothing measured.

Symbols: N samples of D dimensions on R processes, n = N / R rows each, K ranked neighbors in all
lists. Means per row are those that ``counts.py`` counted on one process. Samples are in any order:
rows that a process asks for are spread over all processes. What a device does is predicted by
``work.py`` and ``cards.py``; the rates of networks are in :data:`LINKS`. A function changes
together with its stage in ``mabm/distributed``; its docstring is a cell of the page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, log2

from cards import DEVICES, Device
from counts import Counts
from predictions import predicted_ms
from stages import RANKING, WHOLE
from work import NEAR_SLOTS, PARTS, TILE, Size

from mabm.distance.screening import screen_peak

LINKS = {"A100 80GB": 300e9, "H100 SXM": 450e9, "H200": 450e9}
"""Bytes a second that a GPU sends by NVLink, by data sheet, within a machine."""
_IN_A_MACHINE = 8
# Bytes a second that a GPU sends to other machines: a port of 400 Gb/s InfiniBand each.
_BETWEEN_MACHINES = 50e9
# The part of these rates that is assumed.
_LINK_SHARE = 0.8

# The part of a GPU's memory that results may take; the rest is for its context and for gaps.
_MEMORY_SHARE = 0.9

# Pieces of a visiting shard; one is compared while the next one arrives (distributed/ranking.py).
_PIECES = 2
_PARTS_OF_GRAPH = 4
# The last step of an even ring compares half as many pairs: half of the processes are sent all rows
# of a shard, and the others half of the rows of one.
_MEAN_OF_LAST_STEP = 0.75
# Numbers of samples, weights and distances; exact scores.
_INDEX, _WEIGHT, _SCORE = 4, 4, 8
# A ranked neighbor: its number in int64 and its score.
_RANKED = 16


@dataclass(frozen=True)
class Case:
    """An input on several processes.

    Attributes:
        size: All samples.
        processes: R.
        last_step: Part of a shard that is sent in the last step of an even ring: all of it by the
            process that sends most.
    """

    size: Size
    processes: int
    last_step: float = 1.0

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
        """Shards that visit a process in the half ring, in units of n rows: S."""
        even = self.processes % 2 == 0
        return self.processes // 2 - (1 - self.last_step) * even

    @property
    def sent_home(self) -> float:
        """New neighbors of a row that its hosts find, over K.

        A host sends those that are better than the worst of K that the row's own process knew when
        the row left: K on average, if it knew one shard. The first piece leaves so. The second one
        leaves after S visits of first pieces, and finds K / (1 + S/2) at each of S hosts.
        """
        return self.steps / _PIECES * (1 + 1 / (1 + self.steps / _PIECES))

    @property
    def growth(self) -> float:
        """Entries that enter the lists of a row, over K: by its own process, and from its hosts.

        The own shard fills the lists. After s shards, the next one has K / s better rows on
        average: the sum is harmonic.
        """
        visits = range(1, self.processes // 2 + 1)
        return 1 + sum(1 / step for step in visits) + self.sent_home

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
    """Features, groups and a threshold for each list, of n rows in each step."""
    row = 4 * case.size.dim + _INDEX + _SCORE * case.counts.lists
    return case.steps * case.rows * row


def home(case: Case) -> float:
    """The new neighbors of visiting rows, and how many there are in each list."""
    found = case.rows * case.counts.width * case.sent_home * (_INDEX + _SCORE)
    return found + case.steps * case.rows * case.counts.lists * _INDEX


def ranking(case: Case) -> float:
    """(4 D + 28) n S + 12 n K (S/2 + S / (S + 2)): rows and thresholds; their neighbors come back.

    S = R/2, rounded down. In the last step of an even ring, half of the processes send half of it.
    """
    return ring(case) + home(case)


def neighbors(case: Case) -> float:
    """4 (2 K + 3) for each sample in the lists: its list, and its half list twice.

    A process asks for N (1 - exp(-a n / N)) samples, less its own, where a row asks for a on
    average; here a = K.
    """
    return case.foreign(case.counts.width) * _INDEX * (2 * case.counts.width + 3)


def encoding(case: Case) -> float:
    """4 D + 4 for each sample whose score with a row is not in the row's lists."""
    return case.foreign(case.unlisted) * (4 * case.size.dim + _INDEX)


def expansion(case: Case) -> float:
    """8 + 8 for each entry of V, for each sample that is averaged."""
    row = 2 * _INDEX + case.counts.entries * (_INDEX + _WEIGHT)
    return case.foreign(case.counts.averaged) * row


def graph(case: Case) -> float:
    """At most (12 + 8 for each entry of V') n S + N / 8 a step; 12 for each pair found.

    Bits ask for columns; only rows that share enough weight with them are sent, and of these only
    entries in such columns.
    """
    c = case.counts
    row = 3 * _INDEX + c.expanded * (_INDEX + _WEIGHT)
    pairs = case.rows * c.near / 2 * (1 - 1 / case.processes) * (2 * _INDEX + _WEIGHT)
    return case.steps * case.rows * row + case.processes // 2 * case.size.count / 8 + pairs


def clustering(case: Case) -> float:
    """N + 4 N log2(R), rounded up: core flags to all others; from the first process, all roots."""
    flags = case.rows * (case.processes - 1)
    return flags + 4 * case.size.count * ceil(log2(case.processes))


def whole_clustering(case: Case) -> float:
    """Core flags, joined samples up the tree (at most N at each level), roots down the tree."""
    others = case.processes - 1
    joined = 2 * _INDEX * case.size.count * ceil(log2(case.processes))
    return case.size.count * others * (1 + _INDEX) + joined


WIRE = {
    "ranking": ranking,
    "neighbors": neighbors,
    "encoding": encoding,
    "query expansion": expansion,
    "graph": graph,
    "clustering": clustering,
}
"""Bytes that a process sends, by the stage in which the library counts them."""


def wire(case: Case) -> float:
    """Bytes that the process sends that sends most."""
    return sum(part(case) for part in WIRE.values())


def whole_wire(case: Case) -> float:
    """Bytes that all processes send."""
    mean = replace(case, last_step=_MEAN_OF_LAST_STEP)
    return (wire(mean) - clustering(mean)) * case.processes + whole_clustering(case)


# Bytes of memory of a process


def features(case: Case) -> float:
    """4 n D, the rows of the process, all the time."""
    return 4 * case.rows * case.size.dim


def _while_ranking(case: Case) -> float:
    """8 n D + 48 n K: a copy, visitors that are compared, visitors on their way; lists."""
    return 2 * features(case) + 3 * _RANKED * case.rows * case.counts.width


def of_ranking(case: Case) -> float:
    """8 n D + 48 n K + 1.5 n (D + 2,960) + 0.3 GB.

    A copy of the rows, visitors that are compared, and those on their way; lists; 8-bit integers
    and 184 candidates a list, for own rows and half a shard; a tile of products.
    """
    places = case.counts.lists * (8 * case.counts.capacity + 8)
    compared = case.rows * (1 + 1 / _PIECES)
    return _while_ranking(case) + compared * (case.size.dim + places) + 4 * TILE**2


def of_neighbors(case: Case) -> float:
    """16 n K + (6.5 K + 8) for each of n + n K samples, N at most; 10 N.

    Lists, half lists of the samples in them, and compact numbers of all samples.
    """
    width = case.counts.width
    listed = case.rows + case.foreign(width)
    return _RANKED * case.rows * width + listed * (6.5 * width + 8) + 10 * case.size.count


def of_graph(case: Case) -> float:
    """(2,148 + 50 for each entry of V') n + 6 N: own rows and columns, visitors, near pairs.

    Visitors come in four parts: as they leave, as they arrive, and by own columns.
    """
    of_own = case.counts.expanded * (8 + 4 + 12 + 12 + 8) + NEAR_SLOTS * 8 + 100
    visitors = case.counts.expanded * (_INDEX + _WEIGHT) * 3 / _PARTS_OF_GRAPH
    return case.rows * (of_own + visitors) + 6 * case.size.count


def of_clustering(case: Case) -> float:
    """12 for each near pair + 14 N: core flags, roots, and numbers of all samples and clusters."""
    return 12 * case.rows * case.counts.near + 14 * case.size.count


MEMORY = {
    "features": features,
    "ranking": of_ranking,
    "neighbors": of_neighbors,
    "graph": of_graph,
    "clustering": of_clustering,
}
"""Bytes of memory of a process: features, and what each stage has beside them."""


def memory(case: Case) -> float:
    """Features, and the stage that takes most."""
    own, *stages = (part(case) for part in MEMORY.values())
    return own + max(stages)


def memory_on_cpu(case: Case) -> float:
    """The same on a CPU, beyond the features: its ranking has lists of other sizes."""
    c = case.counts
    widths = [round(c.width / c.lists)] * round(c.lists)
    compared = round(case.rows * (1 + 1 / _PIECES))
    ranked = _while_ranking(case) + screen_peak(compared, case.size.dim, widths)
    return max(ranked, of_neighbors(case), of_graph(case), of_clustering(case))


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


def devices() -> list[Device]:
    """Those whose links are known, by memory."""
    return sorted((d for d in DEVICES if d.name in LINKS), key=lambda d: (d.memory, d.bandwidth))
