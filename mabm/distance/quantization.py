"""Rows of features as 8-bit integers, with proven bounds on what that loses.

With ``d_i = unit (x_i - mean)`` for any vector ``mean`` and a power of two ``unit``, an orthogonal
matrix R (the identity, or a rotation), integers ``q_i`` in [-127, 127] and a scale ``s_i`` for each
row:

    h_i = s_i q_i,    |R d_i - h_i| <= lost_i,    |d_i| <= length_i

    d_i . d_j - h_i . h_j = (R d_i - h_i) . R d_j + h_i . (R d_j - h_j)
    |d_i . d_j - h_i . h_j| <= lost_i length_j + length_i lost_j + lost_i lost_j

since ``R d_i . R d_j = d_i . d_j`` and ``|h_i| <= length_i + lost_i``. A sum of products of 8-bit
integers is exact in int32, so this is the whole error of the product, and it is measured: ``lost``
is the length of what rounding to integers took away, plus bounds on the roundings on the way.

The scale of a row is its largest entry divided by 127. So a row with few large entries loses much
of the others. A rotation spreads them: ``R = (A_m x A_p) diag(signs)``, the Kronecker product of
two orthogonal matrices (discrete Hartley transforms) after random signs. Entries of R d are nearly
Gaussian, whatever those of d are, and two small matrix products for each row compute them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mabm._core.arrays import row_blocks
from mabm._core.padding import padded_size
from mabm._core.precision import without_autocast
from mabm.distance.rounding import MATRIX_UNIT_ROUNDOFF, float32_rounding, growth

_LARGEST = 127
# Dimensions up to which sums of products fit in int32, padding included: 127^2 2^17 < 2^31.
MOST_DIMENSIONS = 1 << 17
# Columns are padded with zeros to a multiple of this, or of the next constant where that is little:
# rows start at addresses that matrix units and vector loads take, and rotations have two factors.
_STEP = 16
# The largest first factor of a rotation; the other is the rest.
_FACTOR = 64
_ROUNDOFF = 2.0**-24
# An operation on numbers that float32 flushes to zero is wrong by at most 2^-125; D of them per
# entry, in the product that rotates, are covered by this for each dimension.
_FLUSHED = 2.0**-116
# Smaller scales are zero at once, far above the numbers that a processor may flush to zero.
_SMALLEST_SCALE = 2.0**-100
# A rotation costs passes over all features: worth it from a loss this much smaller.
_WORTHWHILE = 0.6
_SAMPLE = 256


class QuantizedRows(NamedTuple):
    """Integers and scales of N rows, and the lengths that bound the error of their products.

    Attributes:
        values: (N, P) int8 in [-127, 127]; P is D, padded with zeros to a multiple of 16, from
            D = 1024 on of 64. A rotation mixes the padding in, too.
        padded: (N', P): the same memory, and rows of zeros up to a multiple of 64.
        scales: (N,) float32, zero or at least 2**-100.
        lost: (N,) float64, at least ``|R d - scale * values|``; infinite where float32 overflows:
            values are 0 there, and the row cannot be compared.
        lengths: (N,) float64, at least ``|d|``; infinite where ``lost`` is.
        unit: Scalar float64, a power of two: rows are multiplied by it, so that the largest number
            is in [1/2, 1] and products of scales stay in the range of float32.
    """

    values: Tensor
    padded: Tensor
    scales: Tensor
    lost: Tensor
    lengths: Tensor
    unit: Tensor


def quantize_rows(x: Tensor, mean: Tensor, *, rotate: bool) -> QuantizedRows:
    """Centers rows, rotates them if asked, and rounds them to integers with a scale for each row.

    Memory beyond the result is that of some blocks of rows. Any device; no random state is used,
    and equal rows get equal results up to the rounding of the device's matrix product.

    Args:
        x: (N, D) float32, finite, N > 0.
        mean: (D,) float32, finite.
        rotate: Whether to rotate, see :func:`rotation_helps`.

    Returns:
        The integers with their scales and bounds.
    """
    count, dim = x.shape
    depth = _depth(dim)
    padded = torch.empty((padded_size(count), depth), dtype=torch.int8, device=x.device)
    values = padded[:count]
    padded[count:].zero_()
    if rotate:
        rotation = _Rotation(depth, x.device)
        drift = rotation.error_bound
        parts = [
            torch.ops.mabm.round_rows_(rotation.turn(rows, mean), None, integers)
            for rows, integers in zip(row_blocks(x), row_blocks(values), strict=True)
        ]
    else:
        drift = 2 * _ROUNDOFF
        parts = [torch.ops.mabm.round_rows_(x, mean, values)]
    inverse, left, length = torch.cat(parts, dim=1).to(torch.float64)
    scales, lost, lengths, unit = _bounds(inverse, left, length, depth, drift)
    if not drift < 1:  # nothing bounds the rotation of any row
        values.zero_()
    overflowed = ~(lost < torch.inf)  # rows that are zeros
    scales = scales.masked_fill(overflowed, 0)
    lost, lengths = (part.masked_fill(overflowed, torch.inf) for part in (lost, lengths))
    return QuantizedRows(values, padded, scales, lost, lengths, unit)


def _depth(dim: int) -> int:
    """Number of columns with their padding."""
    step = _STEP if dim < _FACTOR * _STEP else _FACTOR
    return padded_size(dim, step)


def rotation_helps(x: Tensor, mean: Tensor) -> bool:
    """Whether a rotation makes what rounding loses much smaller, judged by a sample of rows.

    That is so where the largest entry of a row is far larger than those of a Gaussian vector of the
    same length: features with few active dimensions, or a dimension that outweighs the others.

    Args:
        x: (N, D) float32, finite, N > 0.
        mean: (D,) float32, finite.
    """
    size = min(_SAMPLE, len(x))
    sample = torch.arange(size, device=x.device) * len(x) // size
    rows = x[sample]
    depth = _depth(x.shape[1])
    rotation = _Rotation(depth, x.device)
    integers = torch.empty((size, depth), dtype=torch.int8, device=x.device)
    losses = []
    for each, center in ((rows, mean), (rotation.turn(rows, mean), None)):
        _, left, length = torch.ops.mabm.round_rows_(each, center, integers)
        losses.append((left / length).nanmedian())  # NaN for rows of zeros, or too large ones
    plain, turned = losses
    return bool(turned + rotation.error_bound < _WORTHWHILE * plain)


def _bounds(
    inverse: Tensor, left: Tensor, length: Tensor, depth: int, drift: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scales, what is lost, lengths and the unit, from what the op ``round_rows_`` measures.

    Write y for the exact row R (x - mean), y' for the computed one, t for ``fl(y' inverse)``, q for
    the rounded t, and u for 2^-24. All arithmetic here is in float64, and the last factor covers
    its roundings. The errors are, with references to Higham, Accuracy and Stability of Numerical
    Algorithms:

    - ``|y' - y| <= drift |y|``: the centering and the rotation.
    - ``y' inverse = t (1 + e)`` with ``|e| <= 2 u`` entry by entry (section 2.2), so that
      ``y' - s q = (t - q) / inverse + (1 / inverse - s) q + e t / inverse``. ``t - q`` is exact.
    - A length that float32 sums in any order is short by a factor of at most
      ``1 + growth(P + 4, u)`` (section 3.1, and the roundings of squares and root).
    - Numbers that underflow: squares, ``P 2^-126`` in a sum of them, so ``sqrt(P) 2^-63`` in a
      length in units of the scale; rows, ``_FLUSHED`` for each dimension.
    """
    largest = _LARGEST / torch.where(inverse > 0, inverse, torch.inf).amin()
    exponent = torch.frexp(largest).exponent.to(torch.int64)
    unit = (1023 - exponent << 52).view(torch.float64)  # a device's pow need not be exact
    step = unit / inverse
    scales = step.to(torch.float32)
    scales = scales.masked_fill(scales < _SMALLEST_SCALE, 0)
    short, underflow = 1 + growth(depth + 4, _ROUNDOFF), math.sqrt(depth) * 2.0**-60
    flushed = depth * _FLUSHED * unit
    left, length = left * short + underflow, length * short + underflow
    rounding = step * left + (step - scales).abs() * (length + left) + 2 * _ROUNDOFF * step * length
    if not drift < 1:
        return scales, torch.full_like(step, torch.inf), step * length, unit
    true_length = (step * length * (1 + 2 * _ROUNDOFF) + flushed) / (1 - drift)
    lost = rounding + drift * true_length + flushed
    return scales, lost * (1 + 2.0**-48), true_length * (1 + 2.0**-48), unit


class _Rotation:
    """A fixed rotation of P dimensions: random signs, then two orthogonal matrices.

    Attributes:
        error_bound: Of a centered and rotated row, relative to its length, in float32.
    """

    def __init__(self, depth: int, device: torch.device) -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        signs = torch.randint(0, 2, (depth,), generator=generator, device="cpu") * 2 - 1
        self._depth = depth
        self._signs = signs.to(torch.float32).to(device, non_blocking=True)
        inner = math.gcd(depth, _FACTOR)
        sizes = (inner, depth // inner)
        # Nothing writes to these copies on the CPU: there is no need to wait for the device.
        self._inner, self._outer = (
            _hartley_matrix(size).to(device, non_blocking=True) for size in sizes
        )
        # A computed product with A is wrong by growth(n + 4) |A| |y| in the entries of |A| and |y|
        # (Higham, section 3.5; the rounding of A itself is among the four), so by sqrt(n) times
        # growth(n + 4) in length: no sum of squares of |A| exceeds n, as A is orthogonal.
        roundoff = MATRIX_UNIT_ROUNDOFF if device.type == "cuda" else _ROUNDOFF
        kept = 1 + 2 * _ROUNDOFF  # the centering; signs are exact
        for size in sizes:
            part = growth(size + 4, roundoff) + float32_rounding(device)
            kept *= 1 + math.sqrt(size) * part
        self.error_bound = (kept - 1) * (1 + 2.0**-40)

    def turn(self, rows: Tensor, mean: Tensor) -> Tensor:
        """(B, P) centered and rotated rows of (B, D)."""
        dim = rows.shape[1]
        signs = self._signs[:dim]
        padded = rows.new_empty((len(rows), self._depth))
        torch.addcmul(-mean * signs, rows, signs, out=padded[:, :dim])  # rounds once
        padded[:, dim:].zero_()
        with without_autocast(rows.device):
            first = padded.view(-1, len(self._inner)) @ self._inner
            grid = first.view(len(rows), len(self._outer), len(self._inner))
            return torch.matmul(self._outer, grid).view(len(rows), self._depth)


def _hartley_matrix(size: int) -> Tensor:
    """(n, n) float32 on the CPU, symmetric and orthogonal.

    Entry jk is ``(cos a + sin a) / sqrt(n)``, with a = 2 pi jk / n.

    Source:
        Bracewell, Discrete Hartley transform, JOSA 73 (1983).
    """
    steps = torch.arange(size, device="cpu")
    angle = (torch.outer(steps, steps) % size).to(torch.float64) * (2 * math.pi / size)
    return ((angle.cos() + angle.sin()) / math.sqrt(size)).to(torch.float32)
