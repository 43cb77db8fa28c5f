"""Inner products and squared distances that are the same bits on every device.

A product of float32 rows depends on the order in which a device adds. So each row is rounded first,
to whole numbers of a unit of its own, a power of two such that the row is at most ``2^26.5`` units
long. By Cauchy and Schwarz, no sum of some of the products of two such rows exceeds ``2^53`` units:
float64 adds them exactly, in any order. What rounding loses is at most half a unit per entry, some
2^-27 of the row's length. In a squared distance that is about what rounding it to float32 loses,
unless rows are far longer than the distances between them.

Many GPUs multiply float64 at a small part of their other rates: GeForce at 1/64 of that of float32.
There the whole numbers are split into four digits of base 256, and matrix units multiply these as
8-bit integers, exactly, too. With ``q = sum of d_i 256^i`` and ``r = sum of e_j 256^j``,

    q . r = sum over k of 256^k T_k,    T_k = sum of d_i . e_j over i + j = k

Added from the highest k down, ``t_k = 256 t_(k+1) + T_k``, every ``t_k`` is exact in float64: a
whole number below 2^53. ``t_0`` is ``q . r``. For other k, ``256^k t_k`` is a sum of at most 15
products of rows ``d_i 256^i`` and ``e_j 256^j``, whose entries are at most three times those of q
and r: so it is below ``15 * 9 * 2^53 < 2^61``.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from mabm._core.arrays import row_blocks
from mabm._core.padding import padded_size

# Whole numbers up to 2^53 are exact in float64.
_EXACT_BITS: Final = 53
_MOST_LENGTH: Final = 2.0 ** (_EXACT_BITS / 2)
# Adding this many units to a smaller number leaves no bits below a unit; ties go to even ones.
_ROUNDING: Final = 1.5 * 2.0**52
# Whole numbers are at most 2^26.5; each digit but the last is in [-128, 127].
_NUM_DIGITS: Final = 4
# In each byte but the highest of an int32.
_HALVES: Final = 0x00808080
# By compute capability, the cards with 2 results of float64 per multiprocessor and clock that are
# fast at 8-bit integers (CUDA programming guide, arithmetic instructions): Turing, GeForce and
# workstation cards of Ampere, Ada, GeForce of Blackwell. A100, H100 and B200 have matrix units for
# float64: by count, 16 products of 8-bit integers and the sum of their results take as long there.
_SLOW_FLOAT64: Final = {(7, 5), (8, 6), (8, 9), (12, 0)}
# Below, writing and adding the seven results costs more than a float64 product. From the other
# bound on, sums of four products of digits could exceed int32: 4 * 2^15 * 128^2 = 2^31.
_LEAST_DIMENSIONS: Final = 128
_DIMENSIONS_END: Final = 1 << 15
# The matrix product of CUDA takes at least 17 rows, and columns by the eight; 16 entries of a row
# are as many as a vector load takes.
_LEAST_ROWS: Final = 32
_STEP: Final = 8
_DEPTH_STEP: Final = 16
# Columns of a partial result, which is written and read once for each sum of two digits' places:
# with the 256 rows of re-ranking, it and its sum are 24 MiB.
_COLUMNS_AT_ONCE: Final = 8192
_ROWS_AT_ONCE: Final = 1024


def has_slow_float64(capability: tuple[int, int]) -> bool:
    """Whether products in 8-bit digits are faster than float64 on GPUs of a compute capability."""
    return capability in _SLOW_FLOAT64


def wants_digits(x: Tensor) -> bool:
    """Whether products of the rows of ``x`` (N, D) are taken in 8-bit digits on its device."""
    return (
        x.is_cuda
        and has_slow_float64(torch.cuda.get_device_capability(x.device))
        and _LEAST_DIMENSIONS <= x.shape[1] < _DIMENSIONS_END
    )


class WholeRows:
    """Rows rounded to whole numbers of a unit each, ready to be multiplied.

    Attributes:
        units: (N,) float64, powers of two.
        squares: (N,) float64, squared lengths of the rounded rows, exact.
    """

    def __init__(self, x: Tensor) -> None:
        """Rounds the rows of ``x`` (N, D), float32 and finite."""
        count, dim = x.shape
        self.units, self.squares = (x.new_empty(count, dtype=torch.float64) for _ in range(2))
        if wants_digits(x):
            shape = padded_size(count, _STEP), _NUM_DIGITS, padded_size(dim, _DEPTH_STEP)
            self._values = x.new_zeros(shape, dtype=torch.int8)
        else:
            self._values = x.new_empty((count, dim), dtype=torch.float64)
        blocks = (row_blocks(part) for part in (x, self.units, self.squares, self._values[:count]))
        for rows, units, squares, values in zip(*blocks, strict=True):
            _fill(rows, units, squares, values)

    def multiply(
        self, others: WholeRows, rows: slice = slice(None), out: Tensor | None = None
    ) -> Tensor:
        """Computes exact inner products.

        Args:
            others: M rows of as many dimensions on the same device.
            rows: Which of these rows, B of them, a slice of step 1.
            out: (B, M) float64 to write to.

        Returns:
            (B, M) float64, ``out`` where it is given.
        """
        units = self.units[rows, None]
        if out is None:
            out = units.new_empty((len(units), len(others.units)))
        if self._values.dtype != torch.int8:
            return torch.mm(self._values[rows], others._values.T, out=out)
        _multiply_digits(self._values[: len(self.units)][rows], others._values, out)
        return out.mul_(units).mul_(others.units)

    def squared_distances(
        self, others: WholeRows, rows: slice = slice(None), out: Tensor | None = None
    ) -> Tensor:
        """Computes squared Euclidean distances, at least 0, and 0 between equal rows.

        ``|a|^2``, ``2 a . b`` and ``|b|^2`` are exact, and ``|a|^2 - 2 a . b >= -|b|^2``: rounding
        to float64 keeps this order.

        Args:
            others: M rows of as many dimensions on the same device.
            rows: Which of these rows, B of them, a slice of step 1.
            out: (B, M) float64 to write to.

        Returns:
            (B, M) float64, ``out`` where it is given.
        """
        found = self.multiply(others, rows, out)
        return torch.add(self.squares[rows, None], found, alpha=-2, out=found).add_(others.squares)


def inner_products(x: Tensor, y: Tensor) -> Tensor:
    """(Q, G) float64 inner products of the rounded rows, the same bits on every device.

    Args:
        x: (Q, D) float32, finite.
        y: (G, D) float32, finite, on the same device.
    """
    others = WholeRows(y)
    found = x.new_empty((len(x), len(y)), dtype=torch.float64)
    for rows, out in zip(
        torch.split(x, _ROWS_AT_ONCE), torch.split(found, _ROWS_AT_ONCE), strict=True
    ):
        WholeRows(rows).multiply(others, out=out)
    return found


def whole_rows_bytes(x: Tensor, num_rows: int, num_multiplied: int) -> int:
    """Peak memory of :class:`WholeRows` and of its products, except where these are written.

    Args:
        x: (any, D) float32, of the device and the dimensions of the rows.
        num_rows: Number of rows.
        num_multiplied: Number of these rows that are multiplied at once.
    """
    dim = x.shape[1]
    block = len(row_blocks(x.new_empty(num_rows, 0))[0]) * dim
    if not wants_digits(x):
        return 8 * num_rows * (dim + 2) + 16 * block
    depth = _NUM_DIGITS * padded_size(dim, _DEPTH_STEP)
    columns = padded_size(num_rows, _STEP)
    multiplied = padded_size(max(num_multiplied, _LEAST_ROWS), _STEP)
    partial = multiplied * (2 * depth + 4 * min(columns, _COLUMNS_AT_ONCE))
    return columns * depth + 16 * num_rows + max(24 * block, partial)


def _fill(x: Tensor, units: Tensor, squares: Tensor, values: Tensor) -> None:
    """Writes what is kept of (B, D) rows: (B,), (B,) and (B, D) float64 or (B, 4, P) int8."""
    in_digits = values.dtype == torch.int8
    rounded = squares.new_empty(x.shape) if in_digits else values
    _round(x, units, rounded)
    torch.sum(rounded.square(), dim=1, out=squares)
    if in_digits:
        values[:, :, : x.shape[1]] = _digits(rounded, units)


def _round(x: Tensor, units: Tensor, out: Tensor) -> None:
    """Writes (B, D) float64 rows rounded to multiples of a unit each, and the (B,) units.

    The unit follows from the length, which float64 would add up to different last bits in different
    orders. So rows are rounded twice, the first time so coarsely that the sum of their squares is
    exact, whatever the rows are.
    """
    dim = x.shape[1]
    exponents = torch.frexp(x.abs().amax(dim=1)).exponent
    bits = (_EXACT_BITS - max(dim - 1, 1).bit_length()) // 2
    coarse = _power_of_two(exponents - bits)
    lengths = _to_multiples(x, coarse, out).square_().sum(dim=1).sqrt_()
    lengths += coarse * (math.sqrt(dim) / 2)  # at most half a unit per entry
    # As much is left for the second rounding, and again for those of these few operations.
    units.copy_(
        _power_of_two(torch.frexp(lengths * (1 / (_MOST_LENGTH - math.sqrt(dim)))).exponent)
    )
    _to_multiples(x, units, out)


def _to_multiples(x: Tensor, units: Tensor, out: Tensor) -> Tensor:
    """Writes (B, D) float64 rows of at most 2^51 units rounded to whole numbers, ties to even."""
    added = units[:, None] * _ROUNDING
    return torch.add(x, added, out=out).sub_(added)


def _power_of_two(exponents: Tensor) -> Tensor:
    """2 to the power of integers, float64, set through its bits: ``pow`` may be inexact."""
    return (exponents.to(torch.int64) + 1023 << 52).view(torch.float64)


def _digits(rounded: Tensor, units: Tensor) -> Tensor:
    """(B, 4, D) int8 digits of base 256, lowest first, of (B, D) whole numbers of units.

    A byte b of ``q + 128 (1 + 256 + 256^2)`` stands for the digit ``b - 128``: the same eight bits
    with the highest one flipped.
    """
    whole = rounded.mul(units.reciprocal()[:, None]).to(torch.int32)
    flipped = whole.add_(_HALVES).bitwise_xor_(_HALVES)
    return flipped.view(torch.int8).view(*rounded.shape, _NUM_DIGITS).transpose(1, 2)


def _multiply_digits(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes the (B, M) float64 products of whole numbers, of which each has four digits.

    Args:
        left: (B, 4, P) int8, P a multiple of 16.
        right: (M', 4, P) int8, M' a multiple of 8 and at least M; rows past M are not used.
        out: (B, M) float64.
    """
    count, _, depth = left.shape
    # With the digits of one side reversed, those of a place are next to each other on both.
    reversed_left = left.new_zeros((padded_size(max(count, _LEAST_ROWS), _STEP), *left.shape[1:]))
    reversed_left[:count] = left.flip(1)
    a, b = reversed_left.flatten(1), right.flatten(1)
    partial = out.new_empty(len(a) * min(len(b), _COLUMNS_AT_ONCE), dtype=torch.int32)
    last = _NUM_DIGITS - 1
    for start in range(0, out.shape[1], _COLUMNS_AT_ONCE):
        total = out[:, start : start + _COLUMNS_AT_ONCE]
        columns = b[start : start + _COLUMNS_AT_ONCE]
        place = partial[: len(a) * len(columns)].view(len(a), len(columns))
        for k in range(2 * last, -1, -1):
            lowest, highest = max(k - last, 0), min(k, last)
            of_b = slice(lowest * depth, (highest + 1) * depth)
            of_a = slice((last - k + lowest) * depth, (last - k + highest + 1) * depth)
            torch._int_mm(a[:, of_a], columns[:, of_b].T, out=place)
            found = place[:count, : total.shape[1]]
            if k == 2 * last:
                total.copy_(found)
            else:
                torch.add(found, total, alpha=256, out=total)
