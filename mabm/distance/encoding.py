"""Encoding and local query expansion: sets to distributions (method steps 4 and 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mabm._core.arguments import check_instance
from mabm._core.arrays import ArrayT, check_features
from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Work
from mabm.distance.memory import encoding_bytes, expansion_bytes
from mabm.distance.presets import DEFAULT_K2, Preset, check_k2
from mabm.distance.ranking import Ranking, check_ranking
from mabm.distance.rows import Encoding, NeighborSets


def encode_neighbors(features: ArrayT, neighbors: NeighborSets[Any]) -> Encoding[ArrayT]:
    """Weights every sample's neighbors: ``V_ij = softmax over j in E(i) of -(2 - 2 <x_i, x_j>)``.

    Args:
        features: (N, D) floating point, compared as float32; not normalized here. The exponent is
            minus the squared Euclidean distance of unit vectors.
        neighbors: E(i) of N samples, from :func:`mabm.k_reciprocal_neighbors` or your own.

    Returns:
        The rows V, each summing to one; one-hot at ``i`` if ``E(i)`` is empty. Products and
        exponentials are computed in float64 in a fixed order. No gradient.

    Raises:
        TypeError: ``features`` has the wrong type.
        ValueError: ``features`` is not finite, not (N, D), or has another N than ``neighbors``.

    Source:
        Wang et al., AAAI 2026 (BMIL), after Zhong et al., CVPR 2017, equation 7.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> neighbors = mabm.k_reciprocal_neighbors(mabm.rank_neighbors(features, k1=10))
        >>> encoding = mabm.encode_neighbors(features, neighbors)
        >>> len(encoding)
        60
    """
    check_instance("neighbors", neighbors, NeighborSets)
    x = check_features(features)
    if len(x) != len(neighbors):
        raise ValueError(
            f"features must have {len(neighbors)} rows, one per neighbor set, got {len(x)}"
        )
    encoding: Encoding[ArrayT] = encode(x, neighbors.in_tensors()).in_kind_of(features)
    return encoding


def encode(
    x: Tensor,
    neighbors: NeighborSets[Tensor],
    ranking: Ranking[Tensor] | None = None,
    work: Work = QUIET,
) -> Encoding[Tensor]:
    """:func:`encode_neighbors` for checked tensors.

    Args:
        x: (N, D) float32.
        neighbors: E(i) of N samples.
        ranking: The lists of these features, whose exact scores are not computed again where they
            are inner products; ``None`` to compute all.
        work: Limits and reports.
    """
    known: tuple[Tensor | None, Tensor | None] = (None, None)
    if ranking is not None and ranking.preset.metric == "inner_product":
        known = (ranking.ranks, ranking.scores)
    what, count = f"encoding {len(x)} samples", len(neighbors)
    work.less(encoding_bytes(count, len(neighbors.indices)), what, "lower k1")
    with work.stage("encoding", count), running_ops(what, "lower k1"):
        parts = torch.ops.mabm.encode_neighbors(x, neighbors.indptr, neighbors.indices, *known)
    return Encoding.unchecked(*parts)


def expand_queries(
    encoding: Encoding[ArrayT], ranking: Ranking[Any], *, k2: int = DEFAULT_K2
) -> Encoding[ArrayT]:
    """Averages every row of an encoding with its neighbors' rows (local query expansion).

    With the ``bmil`` preset, ``V'_i`` averages ``V`` over the first ``k2`` entries of each of
    ``i``'s lists (one list per group), and then over the lists, so that both modalities have equal
    weight; see :class:`mabm.Preset` for the other averages.

    Args:
        encoding: The rows V of N samples.
        ranking: The neighbor lists of the same samples; its preset defines the average.
        k2: Number of neighbors to average, 1 to skip the step: per list, and so per group, with
            ``"bmil"``; in total, from the merged list, with ``"spcl"`` and ``"modal_invariant"``.
            If a list is shorter than ``k2``, all its entries are used.

    Returns:
        The rows V', each summing to one. A row without neighbors is unchanged.

    Raises:
        TypeError: ``k2`` is not an integer.
        ValueError: ``k2`` is below 1 or above ``k1``, or the two arguments differ in N.

    Source:
        Wang et al., AAAI 2026 (BMIL); CA-Jaccard: Chen et al., CVPR 2024.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> ranking = mabm.rank_neighbors(features, torch.arange(60) % 2, k1=10)
        >>> encoding = mabm.encode_neighbors(features, mabm.k_reciprocal_neighbors(ranking))
        >>> expanded = mabm.expand_queries(encoding, ranking, k2=3)
        >>> len(expanded.indices) >= len(encoding.indices)
        True
    """
    check_instance("encoding", encoding, Encoding)
    check_ranking(ranking)
    if len(encoding) != len(ranking.ranks):
        raise ValueError(
            f"encoding must have {len(ranking.ranks)} rows, one per ranked sample, "
            f"got {len(encoding)}"
        )
    k2 = check_k2(ranking.preset, k2, ranking.k1)
    averaged = expand(encoding.in_tensors(), ranking.in_tensors(), k2)
    expanded: Encoding[ArrayT] = averaged.in_kind_of(encoding.indices)
    return expanded


def expand(
    encoding: Encoding[Tensor], ranking: Ranking[Tensor], k2: int, work: Work = QUIET
) -> Encoding[Tensor]:
    """:func:`expand_queries` for checked tensors."""
    if not is_expanded(ranking.preset, k2):
        return encoding
    what, count = f"averaging the rows of {len(encoding)} samples", len(encoding)
    with work.stage("query expansion", count), running_ops(what, "lower k2 or k1"):
        rows, weights = averaged_rows(ranking, ranking.groups, k2)
        num_entries = len(encoding.indices)
        needed = expansion_bytes(count, rows.shape[1], num_entries, num_expanded=count)
        work.less(needed, what, "lower k2 or k1")
        averaged = torch.ops.mabm.average_encodings(
            encoding.indptr, encoding.indices, encoding.weights, rows, weights
        )
    return Encoding.unchecked(*averaged)


def is_expanded(preset: Preset, k2: int) -> bool:
    """Whether rows are averaged with any but themselves."""
    return k2 > 1 or preset.query_expansion == "pooled"


def averaged_rows(
    ranking: Ranking[Tensor], groups: Any, k2: int, first_row: int = 0
) -> tuple[Tensor, Tensor]:
    """(B, M) rows to average for each ranked sample, -1 for none, and their (B, M) float64 weights.

    All rows of a part have equal weight, and so do all parts of a sample. Its parts are its lists,
    the groups among its rows, or all its rows as one part. A sample without neighbors keeps its
    row.

    Args:
        ranking: The lists of B samples.
        groups: (N,) int64 tensor, the group of each sample that may be in a list; used where the
            preset averages groups.
        k2: Number of neighbors to average.
        first_row: Number of the first ranked sample among the N.
    """
    preset = ranking.preset
    if preset.query_expansion == "list_means":
        lists = ranking.lists(k2)
        rows = torch.cat(lists, dim=1)
        sizes = torch.cat(
            [(part >= 0).sum(dim=1, keepdim=True).expand_as(part) for part in lists], dim=1
        )
    elif preset.query_expansion == "pooled":
        intra, inter = ranking.lists()
        rows = torch.cat([intra[:, : preset.k2_intra], inter[:, : preset.k2_inter]], dim=1)
        sizes = torch.ones_like(rows)
    else:
        rows = ranking.merged()[:, :k2].clone()
        sizes = torch.ones_like(rows)
        if preset.query_expansion == "merged_group_means":
            of_rows = groups[rows.clamp(min=0)].where(rows >= 0, -1)
            for column, group in enumerate(of_rows.T):
                sizes[:, column] = (of_rows == group[:, None]).sum(dim=1)
    shares = (rows >= 0).to(torch.float64) / sizes.clamp(min=1)
    # The shares of a part sum to one, so the number of parts of a sample is an integer: rounding
    # removes the effect of the order of the sum on its last bits.
    parts = shares.sum(dim=1, keepdim=True).round()
    weights = shares / parts.clamp(min=1)
    alone = (rows < 0).all(dim=1)[:, None]
    itself = first_row + torch.arange(len(rows), device=rows.device)[:, None]
    rows[:, :1] = torch.where(alone, itself, rows[:, :1])
    weights[:, :1] = torch.where(alone, 1.0, weights[:, :1])
    return rows.contiguous(), weights.contiguous()
