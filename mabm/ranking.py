"""Ranking: the nearest samples of every sample, exactly, list by list (method step 1).

The ranks are those of exact scores (``csrc/common/scores.h``: float64 sums in a fixed order), ties
by lower index, whatever the hardware makes of a float32 matrix product: the product only proposes
candidates, and a bound on its rounding error proves that none is missing. A row where that proof
fails is ranked by exact scores alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mabm._arrays import Array, check_features, check_modality, like, row_norms, to_tensor
from mabm.presets import DEFAULT_K1, Preset, check_k1, resolve_preset

logger = logging.getLogger(__name__)

# One tile of scores: enough rows and columns to keep a matrix product at full speed, in 64 MB.
_TILE_ROWS = 1024
_TILE_COLUMNS = 16384
# Memory for the candidates of one row block; many groups make the block shorter.
_CANDIDATE_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Ranking:
    """Neighbour lists of N samples, nearest first, with the preset that made them.

    Build one yourself to use a ranking of your own with the later stages, for example
    ``Ranking(ranks, scores, (k,), PRESETS["spcl"], k1=k)``.

    Attributes:
        ranks: (N, K) int64, the lists side by side, each nearest first; -1 where a list ends
            early. A sample is in its own lists.
        scores: (N, K) float64, greatest first: inner products, or minus squared Euclidean
            distances; -inf where ``ranks`` is -1.
        widths: Length of each list; they sum to K.
        preset: The choices of the pipeline.
        k1: The list length that was asked for; the half list is cut by it.
        groups: (N,) int64, the group of each sample, or ``None`` where the preset reads none.
    """

    ranks: Array
    scores: Array
    widths: tuple[int, ...]
    preset: Preset
    k1: int = DEFAULT_K1
    groups: Array | None = None

    def __post_init__(self) -> None:
        """Refuses ranks that point outside, or parts that do not fit together."""
        ranks, scores = to_tensor(self.ranks, "ranks"), to_tensor(self.scores, "scores")
        if ranks.dim() != 2 or ranks.dtype != torch.int64:
            raise ValueError(f"ranks must be (N, K) int64, got {tuple(ranks.shape)} {ranks.dtype}")
        if scores.shape != ranks.shape or scores.dtype != torch.float64:
            raise ValueError(
                f"scores must be {tuple(ranks.shape)} float64, got "
                f"{tuple(scores.shape)} {scores.dtype}"
            )
        if sum(self.widths) != ranks.shape[1]:
            raise ValueError(f"widths must sum to {ranks.shape[1]}, got {self.widths}")
        if ranks.numel() and not -1 <= int(ranks.min()) <= int(ranks.max()) < len(ranks):
            raise ValueError(
                f"ranks must be in [-1, {len(ranks)}), got {int(ranks.min())} to {int(ranks.max())}"
            )
        if self.groups is not None:
            check_modality(self.groups, len(ranks), ranks.device, "groups")

    def lists(self, count: int | None = None) -> list[Array]:
        """The first ``count`` columns of each list (all of them by default)."""
        ends = [sum(self.widths[: n + 1]) for n in range(len(self.widths))]
        return [
            self.ranks[:, end - width : end][:, :count]
            for end, width in zip(ends, self.widths, strict=True)
        ]

    def merged(self) -> Array:
        """(N, K) all lists as one by descending score, ties by lower index, -1 last."""
        if len(self.widths) == 1:
            return self.ranks
        ranks, by_index = to_tensor(self.ranks, "ranks").sort(dim=1)
        scores = to_tensor(self.scores, "scores").gather(1, by_index)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        return like(ranks.gather(1, order), self.ranks)


def rank_neighbors(
    features: Array,
    modality: Array | None = None,
    *,
    k1: int = DEFAULT_K1,
    preset: str | Preset | None = None,
) -> Ranking:
    """Ranks, for every sample, its nearest samples: the lists that the other stages work on.

    Args:
        features: (N, D) float16, bfloat16, float32 or float64, compared as float32; never
            normalised here.
        modality: (N,) integers, the group of each row, in any order; ``None`` for one group.
        k1: Length of the lists together: ``k1 // G`` for each of G groups, or ``k1`` of one list.
        preset: Which lists and which metric; by default ``"bmil"`` with a modality (a list for
            each group, inner product), ``"spcl"`` without (one list, Euclidean distance).

    Returns:
        The lists as a :class:`Ranking`. A sample takes part in its own lists where it belongs; a
        group smaller than its share contributes all it has; ties go to the lower index. The same
        for any number of threads. Without gradient.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range; the message names it, the range and the value.

    Source:
        Wang et al., AAAI 2026 (BMIL); with ``preset="spcl"`` Zhong et al., CVPR 2017.

    Example:
        >>> import torch, mabm
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        >>> mabm.rank_neighbors(features, k1=2).ranks.tolist()
        [[0, 1], [1, 0], [2, 1], [3, 2]]
    """
    x = check_features(features)
    groups = None if modality is None else check_modality(modality, len(x), x.device, "modality")
    chosen = resolve_preset(preset, has_modality=groups is not None)
    ranking = rank(x, groups, chosen, check_k1(chosen, k1, count_groups(groups)))
    return replace(
        ranking,
        ranks=like(to_tensor(ranking.ranks, "ranks"), features),
        scores=like(to_tensor(ranking.scores, "scores"), features),
    )


def count_groups(groups: Tensor | None) -> int:
    """Number of groups that share ``k1``: 1 without a modality or without a sample."""
    return 1 if groups is None else max(len(torch.unique(groups)), 1)


def rank(x: Tensor, groups: Tensor | None, preset: Preset, k1: int) -> Ranking:
    """:func:`rank_neighbors` on checked arguments, in tensors."""
    layout = _list_layout(len(x), groups, preset, k1)
    euclidean = preset.metric == "euclidean"
    shape = (len(x), sum(layout.widths))
    ranks = torch.empty(shape, dtype=torch.int64, device=x.device)
    scores = torch.empty(shape, dtype=torch.float64, device=x.device)
    unproven = []
    if ranks.numel():
        for rows, proposed in _propose(x, layout, euclidean):
            found, exact, certified = torch.ops.mabm.rank_candidates(
                x, rows, *proposed, layout.widths, euclidean
            )
            ranks[rows[0] : rows[-1] + 1] = found
            scores[rows[0] : rows[-1] + 1] = exact
            unproven.append(rows[~certified])
    redo = torch.cat(unproven) if unproven else torch.empty(0, dtype=torch.int64, device=x.device)
    if len(redo):
        logger.info("ranking %d of %d rows by exact scores alone", len(redo), len(x))
        ranks[redo], scores[redo] = torch.ops.mabm.rank_exactly(
            x, redo, layout.groups, layout.list_of_group, layout.widths, euclidean
        )
    return Ranking(ranks, scores, tuple(layout.widths), preset, k1, groups)


@dataclass(frozen=True)
class _ListLayout:
    """Which list of a row a column falls into, from the groups of the two.

    Attributes:
        groups: (N,) int32, numbered from 0 without gaps.
        list_of_group: (G, G) int32: the list that a row of one group keeps another group in.
        widths: Length of each list.
    """

    groups: Tensor
    list_of_group: Tensor
    widths: list[int]


def _list_layout(count: int, groups: Tensor | None, preset: Preset, k1: int) -> _ListLayout:
    if groups is None or preset.lists == "single":
        numbered = torch.zeros(count, dtype=torch.int32)
        sizes = [count]
    else:
        _, inverse, counts = torch.unique(groups, return_inverse=True, return_counts=True)
        numbered = inverse.to(torch.int32)
        sizes = counts.tolist() or [0]
    numbers = torch.arange(len(sizes), dtype=torch.int32)
    if preset.lists == "intra_inter":
        list_of_group = (numbers[:, None] != numbers).to(torch.int32)
        widths = [
            min(preset.k1_intra + 1, max(sizes)),
            min(preset.k1_inter + 1, count - min(sizes)),
        ]
    else:
        list_of_group = numbers.expand(len(sizes), -1).contiguous()
        widths = [min(k1 // len(sizes), size) for size in sizes]
    return _ListLayout(numbered, list_of_group, widths)


def _propose(
    x: Tensor, layout: _ListLayout, euclidean: bool
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]]:
    """Yields each block of rows with its candidates, by a float32 product in tiles."""
    count = len(x)
    norms = row_norms(x)
    bounds = _error_bounds(norms, x.shape[1], euclidean)
    half_squares = (norms.square() / 2).to(torch.float32)
    # Twice what is kept, which is twice the list and some: the proof needs a gap behind the list.
    capacity = 2 * (2 * max(layout.widths) + 16)
    lists = len(layout.widths)
    block = max(1, min(_TILE_ROWS, count, _CANDIDATE_BYTES // (8 * lists * capacity)))
    tile = torch.empty(block * min(_TILE_COLUMNS, count), dtype=torch.float32, device=x.device)
    for start in range(0, count, block):
        rows = torch.arange(start, min(start + block, count), device=x.device)
        own = x[start : start + block]
        shape = (len(rows), lists)
        candidate_scores = torch.empty((*shape, capacity), dtype=torch.float32, device=x.device)
        candidates = torch.empty((*shape, capacity), dtype=torch.int32, device=x.device)
        counts = torch.zeros(shape, dtype=torch.int32, device=x.device)
        thresholds = torch.full(shape, -torch.inf, dtype=torch.float32, device=x.device)
        for first in range(0, count, _TILE_COLUMNS):
            others = x[first : first + _TILE_COLUMNS]
            scores = tile[: len(own) * len(others)].view(len(own), len(others))
            if euclidean:  # x . y - |y|^2 / 2 orders one row's columns as minus the distance does
                bias = -half_squares[first : first + _TILE_COLUMNS]
                torch.addmm(bias, own, others.T, out=scores)
            else:
                torch.mm(own, others.T, out=scores)
            torch.ops.mabm.collect_candidates_(
                scores,
                layout.groups[start : start + block],
                layout.groups[first : first + _TILE_COLUMNS],
                layout.list_of_group,
                first,
                candidate_scores,
                candidates,
                counts,
                thresholds,
            )
        yield rows, (candidate_scores, candidates, counts, thresholds, bounds[rows])


def _error_bounds(norms: Tensor, dim: int, euclidean: bool) -> Tensor:
    """(N,) float64: how far a row's scores from the product may lie from the exact ones.

    For any order of summation ``|fl(x . y) - x . y| <= g |x| |y|`` with ``g = n u / (1 - n u)``,
    ``u`` the unit roundoff and ``n = D`` operations (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1); four more cover the rounding of ``|y|^2 / 2``, its subtraction and
    that of the norms. Infinite where the product could overflow.
    """
    steps = (dim + 4) * 2.0**-24
    growth = steps / (1 - steps) if steps < 1 else torch.inf
    if _reduced_precision():
        growth += 2.0**-7  # operands cut to bfloat16: 2^-9 each, twice that to be safe
    greatest = norms.max()
    magnitude = norms * greatest + (greatest.square() if euclidean else 0.0)
    underflow = dim * 2.0**-126 * (1 + norms + greatest)  # denormals may be flushed to zero
    bounds = growth * magnitude + underflow
    return torch.where(magnitude < 1e37, bounds, torch.inf)


def _reduced_precision() -> bool:
    """Whether PyTorch may round the operands of a float32 product on the CPU."""
    mkldnn: Any = torch.backends.mkldnn  # PyTorch does not annotate it
    chosen = mkldnn.matmul.fp32_precision
    return chosen not in ("none", "ieee") or "DNNL_DEFAULT_FPMATH_MODE" in os.environ
