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

# Numbers that are compared at a time to see which neighbors are reciprocal.
_COMPARED = 1 << 22


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
        near = Numbering(shard.total, ranks)
        fetch = Fetch(team, shard, near.samples)
        own = torch.arange(shard.first, shard.first + len(shard), device=ranks.device)
        mask = _is_reciprocal(ranks, own, near, fetch.rows(ranks.to(torch.int32)))
        half = half_list(ranking)
        if half is None:
            halves = ranks.new_full((len(near), 0), -1, dtype=torch.int32)
        else:
            listed = fetch.rows(half.to(torch.int32))
            kept = half.where(_is_reciprocal(half, own, near, listed), -1)
            del listed
            halves = fetch.rows(kept.to(torch.int32))
        return _expand(ranks, mask, near, halves, shard.total)


def _is_reciprocal(lists: Tensor, own: Tensor, near: Numbering, listed: Tensor) -> Tensor:
    """(n, K) bool: whether a sample in the list of a row has the row in its own list.

    Args:
        lists: (n, K) int64, -1 for none.
        own: (n,) int64, the numbers of the rows.
        near: Numbers the samples in the lists.
        listed: (M, K) int32, the lists of these samples.
    """
    mask = torch.zeros_like(lists, dtype=torch.bool)
    block = max(1, _COMPARED // max(lists.shape[1] ** 2, 1))
    for part, numbers, found in zip(
        torch.split(lists, block), torch.split(own, block), torch.split(mask, block), strict=True
    ):
        lists_of_listed = listed[near.places(part).clamp(min=0)]
        found.copy_((lists_of_listed == numbers[:, None, None]).any(dim=2) & (part >= 0))
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
