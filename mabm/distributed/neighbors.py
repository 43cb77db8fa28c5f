"""Reciprocity and expansion of the rows of each process (method steps 2 and 3).

A process fetches the neighbor lists of the neighbors of its rows, and later what is left of their
half lists: memory is that of its rows and of the samples near them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Work
from mabm.distance.neighbors import half_list
from mabm.distance.ranking import Ranking
from mabm.distance.rows import NeighborSets
from mabm.distributed.fetching import Fetch
from mabm.distributed.numbering import Numbering
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team


def find_neighbors_of_shard(
    team: Team, shard: Shard, ranking: Ranking[Tensor], work: Work = QUIET
) -> NeighborSets[Tensor]:
    """The expanded k-reciprocal neighbors of the rows of a process.

    Args:
        team: The processes.
        shard: The rows of this process.
        ranking: Their neighbor lists; ranks are numbers among the samples of all processes.
        work: Reports progress.

    Returns:
        A set for each row of this process; ``indices`` are numbers among all samples, ascending.
    """
    with (
        team.stage("neighbors"),
        work.stage("neighbors", len(shard)),
        running_ops(f"finding the neighbors of {len(shard)} samples", "lower k1"),
    ):
        ranks = ranking.ranks
        own = torch.arange(shard.first, shard.first + len(shard), device=ranks.device)
        near = Numbering(shard.total, ranks, own)
        fetch = Fetch(team, shard, near.samples)
        mask = _is_reciprocal(fetch, near, own, ranks)
        half = half_list(ranking)
        kept = ranks[:, :0]
        if half is not None:
            kept = half.where(_is_reciprocal(fetch, near, own, half), -1)
        return _expand(ranks, mask, near, fetch.rows(kept.to(torch.int32)), shard.total)


def _is_reciprocal(fetch: Fetch, near: Numbering, own: Tensor, lists: Tensor) -> Tensor:
    """(n, K) bool: whether a sample in the list of a row has the row in its own list.

    Args:
        fetch: Of the samples in the lists, and of the rows.
        near: Numbers these samples.
        own: (n,) int64, the numbers of the rows.
        lists: (n, K) int64, -1 for none.
    """
    lists_of_near = near.places(fetch.rows(lists.to(torch.int32))).long()
    mask: Tensor = torch.ops.mabm.reciprocal_mask(lists_of_near, near.places(own).long())
    return mask


def _expand(
    ranks: Tensor, mask: Tensor, near: Numbering, halves: Tensor, total: int
) -> NeighborSets[Tensor]:
    """The sets of the rows of a process.

    Args:
        ranks: (n, K) int64, -1 for none.
        mask: (n, K) bool, which of them are reciprocal.
        near: Numbers the samples in ``ranks``.
        halves: (M, H) int32, their reciprocal neighbors in half lists, -1 for none.
        total: Number of samples of all processes.
    """
    # The op needs half lists of all members of half lists, too; those of strangers stay empty.
    members = Numbering(total, near.samples, halves)
    half = ranks.new_full((len(members), halves.shape[1]), -1)
    half[members.places(near.samples).long()] = members.places(halves).long()
    indptr, indices = torch.ops.mabm.expand_neighbors(
        members.places(ranks).long(), mask, half, half >= 0
    )
    return NeighborSets.unchecked(indptr, members.samples[indices.long()].to(torch.int32))
