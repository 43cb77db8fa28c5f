"""Ranking the samples of all processes: pieces of shards travel along half a ring.

Each process ranks its own rows among themselves. Then it is host to the shards of the next
processes, half of all, piece by piece: at step ``s`` to a piece of shard ``rank + s``, which
process ``rank + 1`` was host to before and sends on. The next piece travels while this one is
compared. A score is the same for both samples of a pair, so that the host finds the neighbors on
both sides, and sends home those of its visitors.

Which of two processes compares which of their rows: ``halves.py``.

Lists are merged by exact scores, ties by lower number among all samples: the result does not depend
on shards and pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Advance, Work
from mabm.distance.list_layout import ListLayout
from mabm.distance.options import DistanceOptions, NamedPrecision
from mabm.distance.ranking import Ranking, rank, rank_lists
from mabm.distance.sides import Sides
from mabm.distributed.halves import compared
from mabm.distributed.neighbor_lists import NeighborLists, send_home
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team, Transfer

# Pieces of a shard, an even number: the half that visits the last host begins with one of them. A
# process has memory for two pieces of another shard: one that is compared, and one that arrives.
_PIECES = 2


def rank_shards(
    team: Team, shard: Shard, options: DistanceOptions, work: Work = QUIET
) -> Ranking[Tensor]:
    """:func:`mabm.rank_neighbors` for the samples of all processes: the lists of this one's rows.

    Args:
        team: The processes, all of which call this.
        shard: The rows of this process.
        options: The preset, ``k1``, and a precision that is no search.
        work: Told how many rows are done.

    Returns:
        Ranks (n, K) and scores of the rows of this process; ranks are numbers among the samples of
        all processes. The same bits as those of one process that has all samples.
    """
    preset, k1, precision = options.preset, options.k1, cast(NamedPrecision, options.precision)
    if team.size == 1:
        return rank(shard.features, shard.groups, preset, k1, precision, work)
    layout = shard.layout(preset, k1)
    with (
        team.stage("ranking"),
        work.stage("ranking", len(shard)) as advance,
        running_ops(
            f"ranking {len(shard)} of {shard.total} samples of {shard.features.shape[1]} "
            "dimensions",
            "lower k1, free memory that other tensors hold, or take more processes",
        ),
    ):
        ring = _Ring(team, shard, layout, preset.metric == "euclidean", precision, work)
        lists = ring.rank_all(advance)
    widths = tuple(layout.widths)
    return Ranking.unchecked(lists.ranks, lists.scores, widths, preset, k1, shard.groups, None)


@dataclass(frozen=True)
class Visit:
    """Rows of one process that are compared with rows of another one, their host.

    Attributes:
        owner: Rank of the process whose rows they are.
        rows: Numbers in the owner's shard; none if the pair of shards is for others to compare.
        hosts: Numbers in the host's shard of the rows that they are compared with.
    """

    owner: int
    rows: slice
    hosts: slice

    @classmethod
    def of(cls, counts: tuple[int, ...], host: int, step: int, piece: int) -> Visit:
        """The piece of the shard ``step`` processes after the host, for shards of these sizes."""
        owner = (host + step) % len(counts)
        hosts, visitors = compared(counts, host, owner)
        rows = _piece(counts[owner], piece)
        start = max(rows.start, visitors.start)
        return cls(owner, slice(start, max(start, min(rows.stop, visitors.stop))), hosts)

    def __len__(self) -> int:
        return len(range(self.rows.start, self.rows.stop))


def _piece(count: int, number: int) -> slice:
    """One of the pieces of ``count`` rows."""
    return slice(-(-count * number // _PIECES), -(-count * (number + 1) // _PIECES))


class _Samples(NamedTuple):
    """What travels of M samples: features, groups and the least scores of their lists."""

    features: Tensor
    groups: Tensor
    least: Tensor

    @classmethod
    def like(cls, shard: Shard, layout: ListLayout, count: int) -> _Samples:
        """Memory for so many samples."""
        x, num_lists = shard.features, len(layout.widths)
        return cls(
            x.new_empty((count, x.shape[1])),
            layout.groups.new_empty(count),
            x.new_empty((count, num_lists), dtype=torch.float64),
        )


class _Ring:
    """The rows of this process, above its visitors, and the visitors that arrive."""

    def __init__(
        self,
        team: Team,
        shard: Shard,
        layout: ListLayout,
        euclidean: bool,
        precision: NamedPrecision,
        work: Work,
    ) -> None:
        self._team, self._shard, self._layout = team, shard, layout
        self._how = euclidean, precision, work
        self._count = count = len(shard)
        most = max(len(self._visit(team.rank, tick)) for tick in self._ticks())
        self._rows = _Samples.like(shard, layout, count + most)
        self._arriving = _Samples.like(shard, layout, most)
        self._rows.features[:count] = shard.features
        self._rows.groups[:count] = layout.groups

    def rank_all(self, advance: Advance) -> NeighborLists:
        """The lists of the rows of this process among the samples of all."""
        ticks, count = self._ticks(), self._count
        own_least = self._rows.least[:count]
        # Features and groups travel while the process ranks its own rows; the scores that other
        # samples must have are known only then.
        transfers = self._start(ticks[0], slice(0, 2))
        ranks, scores = self._rank(count)
        lists = NeighborLists(_moved(ranks, self._shard.first), scores, self._layout.widths)
        own_least.copy_(lists.least())
        transfers += self._start(ticks[0], slice(2, 3))
        for number, tick in enumerate(ticks):
            advance(count * (number + 1) // (len(ticks) + 1) - count * number // (len(ticks) + 1))
            visit = self._visit(self._team.rank, tick)
            for transfer in transfers:
                transfer.wait()
            for rows, arrived in zip(self._rows, self._arriving, strict=True):
                rows[count : count + len(visit)] = arrived[: len(visit)]
            own_least.copy_(lists.least())
            transfers = self._start(ticks[number + 1]) if number + 1 < len(ticks) else []
            self._compare(tick, visit, lists)
        return lists

    def _ticks(self) -> list[tuple[int, int]]:
        """The steps and pieces of all visits, in their order."""
        steps = range(1, self._team.size // 2 + 1)
        return [(step, piece) for piece in range(_PIECES) for step in steps]

    def _visit(self, host: int, tick: tuple[int, int]) -> Visit:
        return Visit.of(self._shard.counts, host, *tick)

    def _start(self, tick: tuple[int, int], parts: slice = slice(None)) -> list[Transfer]:
        """Starts the transfers before a visit: sends rows on, and receives those that come here."""
        rank, size = self._team.rank, self._team.size
        to, source = (rank - 1) % size, (rank + 1) % size
        there, here = self._visit(to, tick), self._visit(rank, tick)
        first = there.rows.start if there.owner == rank else self._count
        pairs = list(zip(self._rows, self._arriving, strict=True))[parts]
        return [
            self._team.start_swap(
                rows[first : first + len(there)], to, source, arriving[: len(here)]
            )
            for rows, arriving in pairs
        ]

    def _compare(self, tick: tuple[int, int], visit: Visit, lists: NeighborLists) -> None:
        """Ranks own rows and visitors among each other, and merges what is found of own rows."""
        step, count, size = tick[0], self._count, self._team.size
        seats = slice(count, count + len(visit))
        sides = Sides((visit.hosts, seats), self._rows.least[: seats.stop])
        ranks, scores = self._rank(seats.stop, sides)
        found = _moved(ranks[:count], self._shard.first_of(visit.owner) + visit.rows.start - count)
        lists.merge(0, found, scores[:count])
        source = (self._team.rank - step) % size
        away = self._visit(source, tick)
        entries = ranks[seats], scores[seats]
        ranks, scores = send_home(self._team, entries, lists.widths, visit.owner, source, len(away))
        lists.merge(away.rows.start, _moved(ranks, self._shard.first_of(source)), scores)

    def _rank(self, count: int, sides: Sides | None = None) -> tuple[Tensor, Tensor]:
        """Ranks so many of the rows: ranks and scores."""
        x, groups, _ = (part[:count] for part in self._rows)
        layout = ListLayout(groups, self._layout.list_of_group, self._layout.widths)
        return rank_lists(x, layout, *self._how, lambda number: None, sides)


def _moved(ranks: Tensor, by: int) -> Tensor:
    """Ranks with another number for the first sample."""
    return torch.where(ranks < 0, ranks, ranks + by)
