"""Reciprocity and expansion: from neighbor lists to neighbor sets (method steps 2 and 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm._core.arrays import ArrayT
from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Work
from mabm.distance.ranking import Ranking, check_ranking
from mabm.distance.rows import NeighborSets


def k_reciprocal_neighbors(ranking: Ranking[ArrayT]) -> NeighborSets[ArrayT]:
    """Computes the expanded k-reciprocal neighbors E(i) of every sample.

    ``R(i) = {j in N(i) : i in N(j)}``, where ``N(i)`` is the union of all lists of ``i``;
    ``R_half`` is the same for the shorter half list. ``E(i)`` starts as ``R(i)``, and every ``q``
    in ``R(i)`` with ``|R_half(q) & R(i)| > 2/3 |R_half(q)|`` (strictly, with the original ``R(i)``)
    adds ``R_half(q)``.

    Args:
        ranking: The neighbor lists, from :func:`mabm.rank_neighbors` or your own. Its preset
            defines whether sets are expanded, and the half list: the first
            ``round_half_even(k1 / 2) + 1`` of the merged list, or that number split over the lists.

    Returns:
        The sets, in ascending order; ``R`` itself without expansion. A set is empty if no neighbor
        is reciprocal, which can happen when norms differ.

    Source:
        Wang et al., AAAI 2026 (BMIL), after Zhong et al., CVPR 2017, equations 3 and 4.

    Example:
        >>> import torch, mabm
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        >>> sets = mabm.k_reciprocal_neighbors(mabm.rank_neighbors(features, k1=2))
        >>> [sets.row(i).tolist() for i in range(4)]
        [[0, 1], [0, 1], [2], [3]]
    """
    check_ranking(ranking)
    found = find_neighbors(ranking.in_tensors())
    neighbors: NeighborSets[ArrayT] = found.in_kind_of(ranking.ranks)
    return neighbors


def find_neighbors(ranking: Ranking[Tensor], work: Work = QUIET) -> NeighborSets[Tensor]:
    """:func:`k_reciprocal_neighbors` for checked tensors."""
    count = len(ranking.ranks)
    with (
        work.stage("neighbors", count),
        running_ops(f"finding the neighbors of {count} samples", "lower k1"),
    ):
        mask = torch.ops.mabm.reciprocal_mask(ranking.ranks)
        half = half_list(ranking)
        half_mask = None if half is None else torch.ops.mabm.reciprocal_mask(half)
        indptr, indices = torch.ops.mabm.expand_neighbors(ranking.ranks, mask, half, half_mask)
    return NeighborSets.unchecked(indptr, indices)


def half_list(ranking: Ranking[Tensor]) -> Tensor | None:
    """(N, H) int64, the shorter list of each sample that expands sets; ``None`` without expansion.

    Its entries are ranks of the lists, -1 for none.
    """
    if ranking.preset.half_list is None:
        return None
    length = round(ranking.k1 / 2) + 1  # Python rounds half to even
    if ranking.preset.half_list == "merged":
        return ranking.merged()[:, :length].contiguous()
    share = max(length // len(ranking.widths), 1)
    return torch.cat(ranking.lists(share), dim=1)
