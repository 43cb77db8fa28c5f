"""The leading directions of features, and what of each row they leave out.

Features have few effective dimensions: most of a centered row ``d_i`` is in the span of a few
orthonormal directions ``P`` (D, d). With ``w_i = P' d_i`` and the rest ``r_i = d_i - P w_i``,

    d_i . d_j = w_i . w_j + r_i . r_j + terms as small as P'P - I,    |r_i . r_j| <= |r_i| |r_j|

so products of d numbers and one length bound those of D numbers (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mabm._core.arrays import row_blocks
from mabm.distance.rounding import float32_rounding, growth

# Columns that are multiplied at a time: errors grow with the terms of a sum.
_TERMS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Projection:
    """Orthonormal directions, and bounds on the errors of projecting rows on them.

    Attributes:
        directions: (D, d) float32, by descending variance.
        skewness: Bound on the spectral norm of ``P'P - I``.
        rounding: Bound on the error of a projected row, relative to the length of the row.
    """

    directions: Tensor
    skewness: float
    rounding: float

    def project(self, rows: Tensor, center: Tensor, unit: float) -> Tensor:
        """(N, d) float32: the centered rows times ``unit``, projected.

        Args:
            rows: (N, D) float32.
            center: (D,) float32, subtracted from each row.
            unit: A power of two.
        """
        projected = rows.new_empty(len(rows), self.directions.shape[1])
        for block, out in zip(row_blocks(rows), row_blocks(projected), strict=True):
            centered = (block - center) * unit
            out.zero_()
            for columns, part in zip(
                torch.split(centered, _TERMS_AT_ONCE, dim=1),
                torch.split(self.directions, _TERMS_AT_ONCE),
                strict=True,
            ):
                out.addmm_(columns, part)
        return projected


def projection_on(directions: Tensor) -> Projection:
    """Measures how far directions (D, d) are from orthonormal, and bounds the rounding of a row.

    A projected row is off by at most ``g |P|' |d|`` per entry, ``g`` the growth of its sums
    (``rounding.py``), so by ``g`` times the spectral norm of ``|P|`` times ``|d|``. That norm is at
    most the geometric mean of the greatest sums of its rows and columns.
    """
    wide = directions.to(torch.float64)
    dim, width = wide.shape
    gram = wide.T @ wide - torch.eye(width, dtype=torch.float64, device=wide.device)
    skewness = float(torch.linalg.matrix_norm(gram)) + growth(dim, 2.0**-53) * width
    sums = wide.abs().sum(0).max() * wide.abs().sum(1).max()
    terms = _TERMS_AT_ONCE + math.ceil(dim / _TERMS_AT_ONCE) + 8
    roundoff = growth(terms, 2.0**-24) + float32_rounding(directions.device)
    return Projection(directions, skewness, roundoff * math.sqrt(float(sums)) * 1.01 + 2.0**-23)


def leading_directions(sample: Tensor, width: int) -> Tensor | None:
    """The directions (D, width) float32 in which rows (M, D) point most, the first ones first.

    From the eigenvectors of the (M, M) cosines of the rows. How close they come to the directions
    of all rows decides how fast a ranking is, never what it finds. ``None`` if the rows have none
    that can be computed, because they are not finite.
    """
    lengths = torch.linalg.vector_norm(sample, dim=1, keepdim=True)
    rows = sample / lengths.clamp(min=torch.finfo(torch.float32).tiny)
    try:
        _, vectors = torch.linalg.eigh(rows @ rows.T)
        basis: Tensor = torch.linalg.qr((rows.T @ vectors[:, -width:].flip(1)).double()).Q
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # PyTorch does not export it
        return None
    return basis.to(torch.float32)
