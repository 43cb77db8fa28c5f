"""The rungs of a ranking on the CPU: cheap scores of all pairs, with a bound on each error.

A rung is one way to score all pairs. A ranking begins with a fast one; the rows for which its
bounds leave too many candidates go to the next rung, which is slower and has smaller errors.

A rung gives each sample i an operand, a bias and a few numbers. It scores a pair by the product of
both operands, plus ``bias_j``. The score is off by at most

    residual_i residual_j + lost_i length_j + length_i lost_j + margin_j + slack_i

from ``d_i . d_j + bias_j``, which orders the columns of a row as exact scores do:

- residual: length of what the operand leaves out, with the rounding of the product;
- lost, length: of what rounding to int8 took away, and of the row (0 for float32 operands);
- margin, slack: errors that depend on the column alone, and on the row alone.

Twice this bound is the *gap* of the pair: its exact score lies between ``u - gap`` and ``u``, where
``u``, the upper bound, is the score plus the error bound. With
``x_j = m + d_j``, ``m`` the mean of the rows,

    x_i . x_j             = d_i . d_j + m . d_j     + a term that depends only on row i
    - |x_i - x_j|^2 / 2   = d_i . d_j - |d_j|^2 / 2 + a term that depends only on row i

Everything is in units of a power of two in which the longest centered row is about 1. For the
rounding of products see ``rounding.py``; sums of terms of two samples each become one product by
Cauchy-Schwarz: ``a_i a_j + b_i b_j <= sqrt(a_i^2 + b_i^2) sqrt(a_j^2 + b_j^2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mabm._core.arrays import row_blocks
from mabm.distance.projection import Projection
from mabm.distance.quantization import quantize_rows
from mabm.distance.rounding import growth

# Rounding of a score beside its product: the centering of both operands, the addition of the error
# bound and of the bias, each one roundoff of the magnitude, and one to spare.
_ROUNDINGS = 8 * 2.0**-24
# A row this many times as long as the median would draw the mean away from all others.
_FAR_LONGER = 8.0
# Centered rows that are longer could overflow float32; those that are not centered are finite.
_LONGEST = 2.0**127


@dataclass(frozen=True, eq=False)
class Measures:
    """What the bounds of every rung are made of, measured in float64.

    Attributes:
        center: (D,) float32, the mean of the rows but for outliers.
        unit: The power of two that rows are multiplied by.
        lengths: (N,) float64, lengths of the rows times ``unit``.
        centered: (N,) float64, lengths of the centered rows times ``unit``.
        biases: (N,) float64, in units of the product.
        bias_magnitudes: (N,) float64: what the errors of the biases are relative to.
        offsets: (N,) float64: an exact score ``s`` of a row is ``area * s - offset`` in the scores
            of a rung, or less by the rounding of both.
        area: What exact scores are multiplied by in units of the product.
        euclidean: Whether samples are compared by Euclidean distance.
    """

    center: Tensor
    unit: float
    lengths: Tensor
    centered: Tensor
    biases: Tensor
    bias_magnitudes: Tensor
    offsets: Tensor
    area: float
    euclidean: bool

    @property
    def dim(self) -> int:
        """Number of dimensions, D."""
        return len(self.center)


def measure(x: Tensor, euclidean: bool) -> Measures:
    """Measures the rows of x (N, D) float32, N > 0, in three passes."""
    center = _center(x)
    squares, centered_squares, products = torch.ops.mabm.measure_rows(x, center).T
    greatest = math.sqrt(float(centered_squares.max()))
    if not greatest < _LONGEST:
        center = torch.zeros_like(center)
        squares, centered_squares, products = torch.ops.mabm.measure_rows(x, center).T
        greatest = math.sqrt(float(centered_squares.max()))
    exponent = -math.frexp(greatest)[1] if 0 < greatest < math.inf else 0
    unit = 2.0 ** max(-100, min(100, exponent))
    area = unit * unit
    lengths, centered = squares.sqrt() * unit, centered_squares.sqrt() * unit
    if euclidean:
        biases = centered_squares * (-0.5 * area)
        magnitudes = centered.square()
        constants = biases
    else:
        length = torch.linalg.vector_norm(center, dtype=torch.float64) * unit
        biases = products * area
        magnitudes = centered * length
        constants = biases + length.square()
    # Rounding of the constants and of what they are compared with.
    rounding = 2.0**-52 * (len(center) + 8) * (lengths * lengths.max() + magnitudes)
    offsets = constants + rounding + _tiny(len(center))
    scale = area / 2 if euclidean else area
    return Measures(center, unit, lengths, centered, biases, magnitudes, offsets, scale, euclidean)


def _center(x: Tensor) -> Tensor:
    """(D,) float32: the mean of the rows, without the few that are far longer than the others."""
    lengths = torch.cat([torch.linalg.vector_norm(block, dim=1) for block in row_blocks(x)])
    kept = lengths <= _FAR_LONGER * lengths.median()
    center = (kept / kept.sum()).to(torch.float32) @ x
    if not bool(center.isfinite().all()):  # sums of huge numbers
        center = torch.zeros_like(center)
    return center


def _tiny(dim: int) -> float:
    """What sums of ``dim`` terms lose at most to numbers that are flushed to zero."""
    return (dim + 8) * 2.0**-120


@dataclass(frozen=True, eq=False)
class Rung:
    """Operands of N samples, and the numbers that bound the errors of their products.

    Attributes:
        name: What is multiplied, for the log.
        operands: (N, d) float32, or int8 with the last three attributes.
        center: (D,) float32 that is subtracted from operands, which are multiplied by ``unit``
            thereafter; ``None`` if both have been done.
        unit: A power of two.
        biases: (N,) float32, with the margins added.
        margins: (N,) float32, errors of a column.
        residuals: (N,) float32, errors as a product of both samples.
        slacks: (N,) float32, errors of a row.
        scales: (N,) float32 that products of int8 are multiplied by.
        lost: (N,) float32, length of what was lost by rounding to int8.
        lengths: (N,) float32, what it is multiplied by.
        is_coarse: Whether bounds are so wide that lists may overflow before thresholds have risen:
            all pairs are then scored twice, to raise thresholds and to collect candidates.
    """

    name: str
    operands: Tensor
    center: Tensor | None
    unit: float
    biases: Tensor
    margins: Tensor
    residuals: Tensor
    slacks: Tensor
    scales: Tensor | None = None
    lost: Tensor | None = None
    lengths: Tensor | None = None
    is_coarse: bool = True

    def parts(self) -> tuple[Tensor | float | None, ...]:
        """The operands and their numbers, in the order of ``mabm::screen_pairs_``."""
        return (
            self.operands,
            self.center,
            self.unit,
            self.biases,
            self.margins,
            self.residuals,
            self.slacks,
            self.scales,
            self.lost,
            self.lengths,
        )

    def narrowed(self, share: float) -> Rung:
        """The same with this share of each error bound, which proves nothing."""
        margins = self.margins * share
        return replace(
            self,
            biases=self.biases - self.margins + margins,
            margins=margins,
            residuals=self.residuals * math.sqrt(share),  # of both samples of a pair
            slacks=self.slacks * share,
            lost=None if self.lost is None else self.lost * share,
        )


def float_rung(x: Tensor, measures: Measures) -> Rung:
    """The centered rows in float32, centered as they are read."""
    relative = product_error(measures.dim)
    terms = _terms(measures, relative, torch.zeros_like(measures.centered))
    return Rung("float32", x, measures.center, measures.unit, *terms, is_coarse=False)


def projected_rung(x: Tensor, measures: Measures, projection: Projection) -> Rung:
    """The centered rows projected on a few directions, in float32."""
    operands = projection.project(x, measures.center, measures.unit)
    squares = torch.cat(
        [
            torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
            for block in row_blocks(operands)
        ]
    ).square()
    # The length of the rest from those of the row and of its projection, which are both inexact.
    inexact = projection_error(projection) * measures.centered.square()
    rest = (measures.centered.square() - squares).clamp(min=0) + inexact
    width = operands.shape[1]
    relative = product_error(width) + projection_error(projection)
    name = f"{width} of {measures.dim} directions"
    return Rung(name, operands, None, 1.0, *_terms(measures, relative, rest))


def quantized_rung(x: Tensor, measures: Measures, *, rotate: bool) -> Rung:
    """The centered rows as int8 with a scale for each row (``quantization.py``).

    Sums of products of int8 are exact. The other roundings of a score, of which the sum as float32,
    the scales and their product are three, are relative to what is kept of both rows.
    """
    rows = quantize_rows(x, measures.center, rotate=rotate)
    change = measures.unit / rows.unit  # a power of two
    lost, lengths = rows.lost * change, rows.lengths * change
    kept = (lengths + lost).square() * (growth(4, 2.0**-24) + _ROUNDINGS)
    biases, margins, residuals, slacks = _terms(measures, 0.0, kept)
    depth = rows.values.shape[1]
    return Rung(
        "int8 of rotated features" if rotate else "int8",
        rows.values,
        None,
        1.0,
        biases,
        margins,
        residuals,
        slacks + depth * 2.0**-110,  # sums below 2**14 for each dimension, times flushed numbers
        (rows.scales * change).to(torch.float32),
        rounded_up(lost),
        rounded_up(lengths + lost / 2),  # the products of both lost parts, halved
    )


def quantization_error(x: Tensor, measures: Measures, *, rotate: bool) -> float:
    """The typical error of a product of int8 rows relative to both lengths, from a sample."""
    rows = quantize_rows(x, measures.center, rotate=rotate)
    share = float((rows.lost / rows.lengths).nanmedian())
    return 2 * share + share * share


def product_error(terms: int) -> float:
    """Bound on the error of a float32 product of centered rows, relative to both lengths."""
    return growth(terms + 8, 2.0**-24) * (1 + 2.0**-10) + _ROUNDINGS


def projection_error(projection: Projection) -> float:
    """Bound on the error of ``w_i . w_j`` and of ``|w_i|^2``, relative to both lengths.

    From ``|P'P - I| <= skewness`` and projections that are off by ``rounding``.
    """
    rounding, skewness = projection.rounding, projection.skewness
    return 1.01 * (1 + skewness) * (2 * rounding + rounding**2 + 2 * skewness)


def _terms(
    measures: Measures, relative: float, rest: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Biases, margins, residuals and slacks of float32 operands.

    Args:
        measures: Those of the rows.
        relative: Bound on the errors relative to the lengths of both centered rows.
        rest: (N,) float64, squared lengths of what the operands leave out.
    """
    dim = measures.dim
    exact = growth(dim + 8, 2.0**-53)  # of the exact scores and of the biases
    tiny = _tiny(dim)
    squares = rest + relative * measures.centered.square()
    slacks = torch.full_like(squares, tiny)
    margins = 4 * 2.0**-24 * measures.biases.abs() + 2 * exact * measures.bias_magnitudes + tiny
    if measures.euclidean:
        slacks += 2 * exact * measures.centered.square()
        margins += 2 * exact * measures.centered.square()
    else:
        squares += exact * measures.lengths.square()
    biases = measures.biases + margins
    return (
        biases.to(torch.float32),
        rounded_up(margins),
        rounded_up(squares.sqrt()),
        rounded_up(slacks),
    )


def rounded_up(bounds: Tensor) -> Tensor:
    """Bounds >= 0 as float32, none smaller than before."""
    return (bounds * (1 + 2.0**-22)).to(torch.float32)
