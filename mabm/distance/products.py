"""The matrix products that propose candidates, each with a bound on its error (``rounding.py``)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from mabm._core.padding import OPERAND_STEP, padded_size
from mabm.distance.rounding import MATRIX_UNIT_ROUNDOFF, float32_rounding, growth

# Scaled entries stay below this, a quarter of the largest float16.
_HALF_RANGE_EXPONENT = 14
# The least normal float32: what is smaller may be flushed to zero.
_FLUSHED = 2.0**-126
# Multiplications per call, a fraction of a second of work: Python checks for signals between calls.
# That is 1,024 rows of a tile of 2,048 dimensions.
_PRODUCTS_AT_ONCE = 2**33


class Product(Protocol):
    """A product of centered rows.

    Attributes:
        name: What is multiplied, for the log.
        mean: (D,) float32, subtracted from every row.
        unit: Scalar float64: products are in units of its inverse.
        dtype: Of the products, float32 or int32.
        scales: (N,) float32, the scale of each row if products are int32.
        step: Operands have a multiple of so many rows.
        room: Lists have room for so many times the candidates of scores with small errors.
    """

    name: str
    mean: Tensor
    unit: Tensor
    dtype: torch.dtype
    scales: Tensor | None
    step: int
    room: int

    def operand(self, rows: slice | Tensor) -> Tensor:
        """Some of the centered rows, and others up to a multiple of ``step``; (B, P), P >= D.

        A slice starts at a multiple of ``step``.
        """

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) products of two operands to ``out``, contiguous."""

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``."""


def product_of(x: Tensor) -> Product:
    """The fastest product with a known bound on the device of ``x`` (N, D) float32."""
    if x.is_cuda and not torch.backends.cuda.matmul.allow_fp16_accumulation:
        return HalfProduct(x)
    return FloatProduct(x)


def padded_operand(padded: Tensor, rows: slice | Tensor) -> Tensor:
    """Some rows of a matrix of operands, and more up to a multiple of ``OPERAND_STEP``.

    Args:
        padded: (P, D), P a multiple of the step.
        rows: A slice that starts at a multiple of the step, of which the result is a view, or row
            numbers (B,) int64.
    """
    if isinstance(rows, slice):
        start, stop, _ = rows.indices(len(padded))
        return padded[start : start + padded_size(stop - start)]
    missing = padded_size(len(rows)) - len(rows)
    return padded[torch.nn.functional.pad(rows, (0, missing))]  # the first row, again and again


class FloatProduct:
    """Operands in float32, centered on demand, so that no copy of all rows is kept."""

    name = "float32"
    dtype = torch.float32
    scales: Tensor | None = None
    step = 1
    room = 1

    def __init__(self, x: Tensor) -> None:
        self.mean: Tensor = torch.ops.mabm.measure_columns(x)[0]
        self.unit = torch.ones((), dtype=torch.float64, device=x.device)
        self._x = x

    def operand(self, rows: slice | Tensor) -> Tensor:
        """Some of the centered rows, (B, D)."""
        return self._x[rows] - self.mean

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) float32 products of two operands to ``out``, some rows at a time."""
        step = max(1, _PRODUCTS_AT_ONCE // max(1, right.numel()))
        for start in range(0, len(left), step):
            torch.mm(left[start : start + step], right.T, out=out[start : start + step])

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``."""
        roundoff = MATRIX_UNIT_ROUNDOFF if self._x.is_cuda else 2.0**-24
        part = growth(self._x.shape[1] + 8, roundoff) + float32_rounding(self._x.device)
        return part * centered_length * centered_length.max()


class HalfProduct:
    """Operands in float16, summed in float32: the fastest mode of a GPU's matrix units.

    Centered rows are scaled by a power of two, so that their largest entry is a large float16, and
    entries that float16 flushes or rounds coarsely are small in comparison; the rounding loss of
    each row is measured, not estimated.
    """

    name = "float16"
    dtype = torch.float32
    scales: Tensor | None = None
    step = OPERAND_STEP
    room = 1

    def __init__(self, x: Tensor) -> None:
        columns: Tensor = torch.ops.mabm.measure_columns(x)
        self.mean, least, most = columns
        # Of all centered entries: rounding keeps their order.
        greatest = torch.maximum(most - self.mean, self.mean - least).amax()
        exponent = _HALF_RANGE_EXPONENT - torch.frexp(greatest).exponent
        # A power of two from its bits: a device's pow need not be exact.
        self._scale = (exponent.clamp(-100, 100).to(torch.int32) + 127 << 23).view(torch.float32)
        self.unit = self._scale.to(torch.float64).square()
        self._count, self._dim = x.shape
        halved: tuple[Tensor, Tensor] = torch.ops.mabm.halve_rows(x, self.mean, self._scale)
        self._halves, self._lost = halved

    def operand(self, rows: slice | Tensor) -> Tensor:
        """Some of the centered rows, with rows and columns up to multiples of 64."""
        return padded_operand(self._halves, rows)

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) float32 products to ``out``; on a CPU, operands are widened first."""
        if left.is_cuda:
            torch.mm(left, right.T, out_dtype=torch.float32, out=out)
        else:
            torch.mm(left.float(), right.float().T, out=out)

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``.

        With ``d = h + e``, the kept and the lost part of each row:
        ``d_i . d_j - h_i . h_j = e_i . d_j + h_i . e_j``. What is measured as lost leaves out what
        an entry lost that the scale made too small for float32.
        """
        lost = self._lost + math.sqrt(self._dim) * _FLUSHED / self._scale
        kept = centered_length + lost
        greatest_lost, greatest = lost.max(), centered_length.max()
        terms = self._dim + 8
        return (
            growth(terms, MATRIX_UNIT_ROUNDOFF) * kept * kept.max()
            + (lost * greatest + kept * greatest_lost) * (1 + 2.0**-20)
            + growth(8, 2.0**-24) * centered_length * greatest
        )
