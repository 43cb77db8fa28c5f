"""The matrix products that propose candidates, each with a bound on its rounding error.

For a product of n terms summed in any order, ``|fl(a . b) - a . b| <= g(u) |a| |b|`` with
``g(u) = n u / (1 - n u)`` and u the unit roundoff (Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1). With n slightly larger than D, this also covers the rounding of the
centering.
"""

from __future__ import annotations

import math
import os
from typing import Any, Protocol

import torch
from torch import Tensor

from mabm._core.arrays import row_blocks

# Matrix units truncate where float32 arithmetic rounds: a step aligns K products and the running
# sum to the largest of them and truncates their sum, K + 2 losses of at most 2^-23 of the
# magnitude. So D products lose (1 + 2 / K) D 2^-23 of it; K is 4 or more.
MATRIX_UNIT_ROUNDOFF = 2.0**-22
# Scaled entries stay below this, a quarter of the largest float16.
_HALF_RANGE_EXPONENT = 14
# Multiplications per call, a fraction of a second of work: Python checks for signals between calls.
# That is 1,024 rows of a tile of 2,048 dimensions.
_PRODUCTS_AT_ONCE = 2**33


def growth(terms: int, roundoff: float) -> float:
    """Bound on the relative error of a sum of ``terms`` rounded additions (Higham's gamma)."""
    return terms * roundoff / (1 - terms * roundoff) if terms * roundoff < 1 else math.inf


class Product(Protocol):
    """A product of centered rows.

    Attributes:
        name: What is multiplied, for the log.
        mean: (D,) float32, subtracted from every row.
        unit: Scalar float64: products are in units of its inverse.
        dtype: Of the products, float32 or int32.
        scales: (N,) float32, the scale of each row if products are int32.
    """

    name: str
    mean: Tensor
    unit: Tensor
    dtype: torch.dtype
    scales: Tensor | None

    def operand(self, rows: slice | Tensor) -> Tensor:
        """Some of the centered rows, (B, D)."""

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) products of two operands to ``out``."""

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``."""


def product_of(x: Tensor) -> Product:
    """The fastest product with a known bound on the device of ``x`` (N, D) float32."""
    if x.is_cuda and not torch.backends.cuda.matmul.allow_fp16_accumulation:
        return HalfProduct(x)
    return FloatProduct(x)


class FloatProduct:
    """Operands in float32, centered on demand, so that no copy of all rows is kept."""

    name = "float32"
    dtype = torch.float32
    scales: Tensor | None = None

    def __init__(self, x: Tensor) -> None:
        self.mean = x.mean(dim=0)
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

    def __init__(self, x: Tensor) -> None:
        self.mean = x.mean(dim=0)
        above, below = x.amax(dim=0) - self.mean, self.mean - x.amin(dim=0)
        greatest = torch.maximum(above, below).amax()  # rounding keeps the order
        exponent = _HALF_RANGE_EXPONENT - torch.frexp(greatest).exponent
        # A power of two from its bits: a device's pow need not be exact.
        self._scale = (exponent.clamp(-100, 100).to(torch.int32) + 127 << 23).view(torch.float32)
        self.unit = self._scale.to(torch.float64).square()
        self._halves = torch.empty(x.shape, dtype=torch.float16, device=x.device)
        lost = []
        for rows, halves in zip(row_blocks(x), row_blocks(self._halves), strict=True):
            scaled = (rows - self.mean) * self._scale
            halves.copy_(scaled)
            scaled -= halves  # exactly the rounding loss
            lost.append(torch.linalg.vector_norm(scaled, dim=1, dtype=torch.float64))
        self._lost = torch.cat(lost) / self._scale

    def operand(self, rows: slice | Tensor) -> Tensor:
        """Some of the centered rows, (B, D)."""
        return self._halves[rows]

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) float32 products to ``out``; on a CPU, operands are widened first."""
        if left.is_cuda:
            torch.mm(left, right.T, out_dtype=torch.float32, out=out)
        else:
            torch.mm(left.float(), right.float().T, out=out)

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``.

        With ``d = h + e``, the kept and the lost part of each row:
        ``d_i . d_j - h_i . h_j = e_i . d_j + h_i . e_j``.
        """
        kept = centered_length + self._lost
        greatest_lost, greatest = self._lost.max(), centered_length.max()
        terms = self._halves.shape[1] + 8
        return (
            growth(terms, MATRIX_UNIT_ROUNDOFF) * kept * kept.max()
            + (self._lost * greatest + kept * greatest_lost) * (1 + 2.0**-20)
            + growth(8, 2.0**-24) * centered_length * greatest
        )


def float32_rounding(device: torch.device) -> float:
    """Bound on the error of a float32 product from rounding its operands, relative to |a| |b|.

    Zero by default. PyTorch's settings and the environment can select bfloat16 or TF32: at most
    2^-8 for each of two operands, doubled to be safe. Other modes have their own range, and no
    bound.
    """
    backends: Any = torch.backends  # PyTorch does not annotate all of it
    if device.type == "cuda":
        modes = {backends.cuda.matmul.fp32_precision, backends.fp32_precision}
        if os.environ.get("NVIDIA_TF32_OVERRIDE") == "1":
            modes.add("tf32")
        if os.environ.get("CUBLAS_EMULATE_SINGLE_PRECISION") == "1":
            modes.add("emulated")
    else:
        names = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")
        modes = {backends.mkldnn.matmul.fp32_precision}
        modes |= {os.environ.get(name, "none") for name in names}
    modes = {mode.lower() for mode in modes} - {"none", "ieee", "strict"}
    if not modes:
        return 0.0
    return 2.0**-6 if modes <= {"bf16", "tf32"} else math.inf
