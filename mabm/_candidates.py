"""Candidates for a ranking, from a float32 matrix product and a bound on its rounding error.

The product is taken of centred rows. With ``x_j = m + d_j`` for any vector ``m``,

    x_i . x_j             = d_i . d_j + m . d_j     + a term of row i alone
    - |x_i - x_j|^2 / 2   = d_i . d_j - |d_j|^2 / 2 + a term of row i alone

so one product and one bias for each column order the columns of a row as the exact scores do. With
``m`` the mean of the rows the products are small where all rows lie close together, and so is their
rounding error, which is what would blur the order of such rows otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mabm._arrays import row_blocks

# One tile of scores, 64 MB: enough rows and columns to keep a matrix product at full speed and the
# centring of its operands cheap beside it.
_TILE = 4096
# Memory for the candidates of one row block; many groups make the block shorter.
_CANDIDATE_BYTES = 64 << 20


@dataclass(frozen=True)
class ListLayout:
    """Which list of a row a column falls into, from the groups of the two.

    Attributes:
        groups: (N,) int32, numbered from 0 without gaps.
        list_of_group: (G, G) int32: the list that a row of one group keeps another group in.
        widths: Length of each list.
    """

    groups: Tensor
    list_of_group: Tensor
    widths: list[int]


class Candidates(NamedTuple):
    """Candidates of B rows for each of L lists, as ``mabm::rank_candidates`` takes them.

    Attributes:
        scores: (B, L, C) float32, approximate.
        indices: (B, L, C) int32.
        counts: (B, L) int32, how many of the C places are taken.
        thresholds: (B, L) float32, no sample that was left out scored more; -inf if none was.
        error_bounds: (B,) float64, how far an approximate score may lie from the exact one, up to a
            constant of the row.
    """

    scores: Tensor
    indices: Tensor
    counts: Tensor
    thresholds: Tensor
    error_bounds: Tensor


def propose_candidates(
    x: Tensor, layout: ListLayout, euclidean: bool
) -> Iterator[tuple[Tensor, Candidates]]:
    """Yields row numbers (B,), block after block, with the candidates of these rows.

    Args:
        x: (N, D) float32, contiguous, N > 0.
        layout: The lists of each row.
        euclidean: Whether rows are compared by distance instead of inner product.
    """
    count = len(x)
    mean = x.mean(dim=0)
    bias, bounds = _bias_and_error_bounds(x, mean, euclidean)
    # Twice what is kept, which is twice the list and some: the proof needs a gap behind the list.
    capacity = 2 * (2 * max(layout.widths) + 16)
    lists = len(layout.widths)
    block = max(1, min(_TILE, count, _CANDIDATE_BYTES // (8 * lists * capacity)))
    tile = torch.empty(block * min(_TILE, count), dtype=torch.float32, device=x.device)
    for start in range(0, count, block):
        rows = torch.arange(start, min(start + block, count), device=x.device)
        own = x[start : start + block] - mean
        shape = (len(rows), lists)
        candidates = Candidates(
            torch.empty((*shape, capacity), dtype=torch.float32, device=x.device),
            torch.empty((*shape, capacity), dtype=torch.int32, device=x.device),
            torch.zeros(shape, dtype=torch.int32, device=x.device),
            torch.full(shape, -torch.inf, dtype=torch.float32, device=x.device),
            bounds[start : start + block],
        )
        for first in range(0, count, _TILE):
            others = x[first : first + _TILE] - mean
            scores = tile[: len(own) * len(others)].view(len(own), len(others))
            torch.addmm(bias[first : first + _TILE], own, others.T, out=scores)
            torch.ops.mabm.collect_candidates_(
                scores,
                layout.groups[start : start + block],
                layout.groups[first : first + _TILE],
                layout.list_of_group,
                first,
                *candidates[:4],
            )
        yield rows, candidates


def _bias_and_error_bounds(x: Tensor, mean: Tensor, euclidean: bool) -> tuple[Tensor, Tensor]:
    """Bias of each column, (N,) float32, and error bound of each row, (N,) float64.

    In whatever order a product of D terms is summed, ``|fl(a . b) - a . b| <= g |a| |b|`` with
    ``g = n u / (1 - n u)``, u the unit roundoff and n = D (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). Centring rounds each operand once more, and the bias and its
    addition are rounded once each: n = D + 8 and 4 u of the largest bias are on the safe side.
    Infinite where the product could overflow.
    """
    norms, biases = [], []
    wide_mean = mean.to(torch.float64)
    for block in row_blocks(x):
        centred = block.to(torch.float64) - wide_mean
        squares = torch.linalg.vector_norm(centred, dim=1)
        norms.append(squares)
        biases.append(-squares.square() / 2 if euclidean else centred @ wide_mean)
    norm, bias = torch.cat(norms), torch.cat(biases)
    roundoff = 2.0**-24
    steps = (x.shape[1] + 8) * roundoff
    growth = steps / (1 - steps) if steps < 1 else torch.inf
    if _reduced_precision():
        growth += 2.0**-7  # operands cut to bfloat16: 2^-9 each, twice that to be safe
    greatest, greatest_bias = norm.max(), bias.abs().max()
    magnitude = norm * greatest
    underflow = x.shape[1] * 2.0**-126 * (1 + norm + greatest)  # denormals may become zero
    bounds = growth * magnitude + 4 * roundoff * (magnitude + greatest_bias) + underflow
    fits = (magnitude < 1e37) & (greatest_bias < 1e37)
    return bias.to(torch.float32), torch.where(fits, bounds, torch.inf)


def _reduced_precision() -> bool:
    """Whether PyTorch may round the operands of a float32 product on the CPU."""
    mkldnn: Any = torch.backends.mkldnn  # PyTorch does not annotate it
    chosen = mkldnn.matmul.fp32_precision
    return chosen not in ("none", "ieee") or "DNNL_DEFAULT_FPMATH_MODE" in os.environ
