"""The product of rows in 8-bit integers, where a GPU multiplies these faster than float16."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm._core.padding import OPERAND_STEP
from mabm.distance.products import padded_operand
from mabm.distance.quantization import MOST_DIMENSIONS, quantize_rows, rotation_helps
from mabm.distance.rounding import growth

# By compute capability, the cards whose rate for 8-bit integers is at least twice that of float16
# with float32 sums: Turing, Ampere, Ada, Hopper, Blackwell (B200 and GeForce). On Blackwell Ultra
# (10.3) it is a small part of it: NVIDIA specifies, for HGX with sparsity, 2 POPS with B300 and 72
# with B200, and 36 PFLOPS in float16 with both.
_FAST_CAPABILITIES = {(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)}
# Exponent of the largest number of x in the units of the product.
_MOST_MAGNITUDE = 30
# A sum below 2^31 times a scale that is flushed to zero, 2^-126, times one of at most 1.
_FLUSHED = 2.0**-95


def has_fast_integers(capability: tuple[int, int]) -> bool:
    """Whether GPUs of a compute capability multiply int8 at twice the rate of float16 or more."""
    return capability in _FAST_CAPABILITIES


def wants_integers(x: Tensor) -> bool:
    """Whether 8-bit integers are worth a try on the device of ``x`` (N, D) float32."""
    return (
        x.is_cuda
        and has_fast_integers(torch.cuda.get_device_capability(x.device))
        and 0 < x.shape[1] <= MOST_DIMENSIONS
    )


class IntegerProduct:
    """Operands in int8 with a scale for each row, summed exactly in int32.

    The rounding loss of each row is measured (``quantization.py``).
    """

    name = "8-bit integers"
    dtype = torch.int32
    step = OPERAND_STEP
    room = 2

    def __init__(self, x: Tensor) -> None:
        self.mean, *extremes = torch.ops.mabm.measure_columns(x)
        self._rows = quantize_rows(x, self.mean, rotate=rotation_helps(x, self.mean))
        # Rows that are all alike are zeros when centered, and their unit says nothing. The exact
        # scores are sums of numbers as large as those of x; a unit that made their rounding errors
        # overflow float32 would be of no use. Both are powers of two.
        greatest = torch.stack(extremes).abs().amax()
        exponent = torch.frexp(greatest).exponent.to(torch.int64)
        most = (1023 + _MOST_MAGNITUDE - exponent << 52).view(torch.float64)
        unit = torch.minimum(self._rows.unit, most)
        self.unit = unit.square()
        self.scales: Tensor | None = (self._rows.scales * (unit / self._rows.unit)).float()

    def operand(self, rows: slice | Tensor) -> Tensor:
        """The integers of some rows, and of others up to a multiple of 64."""
        return padded_operand(self._rows.padded, rows)

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) int32 products of two operands to ``out``."""
        torch._int_mm(left, right.T, out=out)

    def error_bounds(self, centered_length: Tensor) -> Tensor:
        """(N,) float64: bound on the error of a product of each row; multiply it by ``unit``.

        The loss of both rows; two roundings by scales, and that of the sum to float32; and what is
        flushed to zero.
        """
        lost = self._rows.lost / self._rows.unit
        kept = centered_length + lost
        return (
            (lost * centered_length.max() + kept * lost.max()) * (1 + 2.0**-20)
            + growth(8, 2.0**-24) * kept * kept.max()
            + _FLUSHED / self.unit
        )
