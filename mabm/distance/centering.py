"""Centering: removes each modality's mean before samples are compared (optional)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mabm._core.arrays import ArrayT, check_features, like, row_blocks
from mabm._core.columns import Column, check_modality

Joining = Literal["max", "sum"]

# Sums are of int64 and stay below this, so that their bits depend on no order of the addends.
_INTEGER_BITS = 62


def center_modalities(features: ArrayT, modality: Column) -> ArrayT:
    """Subtracts the mean of its modality from each row, and scales the rest to unit length.

    What all images of a modality have in common does not tell people apart, but it separates the
    modalities. This removes it before the distance; the published method does not. On
    drawings it joined more right pairs across modalities (``docs/evidence/demo.md``); on people it
    has not been tried. The means are those of the rows given, so cluster the rows that you center,
    and center queries and gallery together. Identities should be spread alike over the modalities:
    where they differ much, their means differ because of that.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, read as float32.
        modality: (N,) integers >= 0, bool or words, the group of each row: any number of groups in
            any order.

    Returns:
        (N, D) float32 of the same kind, on the same device: rows of unit length, and zeros where a
        row equals its mean (up to 2**-24 of the greatest number in ``features``), as the only row
        of a modality does. The same bits on every device by design, and for any number of
        threads. Without gradient.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Features are not finite or not (N, D), or the modality is not (N,), lacks a
            value, or contains a negative number.

    Example:
        >>> import torch, mabm
        >>> people = torch.eye(4).repeat_interleave(10, dim=0)
        >>> modality = torch.arange(40) % 2
        >>> apart = people + 5.0 * modality[:, None]
        >>> mabm.pseudo_labels(apart, k1=10, k2=2).num_clusters  # ignores modality
        8
        >>> mabm.pseudo_labels(mabm.center_modalities(apart, modality), k1=10, k2=2).num_clusters
        4
    """
    x = check_features(features)
    return like(center_groups(x, check_modality(modality, len(x), x.device, "modality")), features)


def center_groups(x: Tensor, groups: Tensor) -> Tensor:
    """:func:`center_modalities` for tensors that are checked already."""
    if not len(x):
        return x.clone()
    group_of, counts = torch.unique(groups, return_inverse=True, return_counts=True)[1:]
    return center_share(x, group_of, counts, lambda values, _: values)


def center_share(
    x: Tensor, group_of: Tensor, counts: Tensor, join: Callable[[Tensor, Joining], Tensor]
) -> Tensor:
    """Centers the rows of one of several processes by the means of all rows.

    The bits are those of :func:`center_groups` for all rows at once.

    Args:
        x: (M, D) float32, the rows here.
        group_of: (M,) int64, the group of each of them, numbered from 0.
        counts: (G,) int64, the number of all rows of each group; none is 0.
        join: Takes a tensor from each process that has rows, and returns their maximum or sum.

    Returns:
        (M, D) float32.
    """
    highest = [block.abs().max() for block in row_blocks(x) if len(block)]
    greatest = float(join(torch.stack([x.new_zeros(()), *highest]).max(), "max"))
    # A power of two: numbers are scaled without rounding, and N of them sum to less than 2**62.
    unit = 2.0 ** (math.frexp(greatest)[1] + int(counts.sum()).bit_length() - _INTEGER_BITS)
    sums = torch.zeros(len(counts), x.shape[1], dtype=torch.int64, device=x.device)
    for block, numbers in zip(row_blocks(x), row_blocks(group_of), strict=True):
        sums.index_add_(0, numbers, (block.double() / unit).round().to(torch.int64))
    sums = join(sums, "sum")
    means = sums.double() * unit / counts[:, None]
    return torch.cat(
        [
            _unit_rows(block.double() - means[numbers], least=greatest * 2.0**-24)
            for block, numbers in zip(row_blocks(x), row_blocks(group_of), strict=True)
        ]
    )


def _unit_rows(rows: Tensor, least: float) -> Tensor:
    """(N, D) float64 as float32 of unit length; rows of numbers up to ``least`` become zeros."""
    greatest = rows.abs().amax(dim=1, keepdim=True)
    is_zero = greatest <= least
    rows = (rows / greatest.where(~is_zero, 1)).where(~is_zero, 0)  # in [-1, 1]
    scale = 2.0 ** (_INTEGER_BITS - rows.shape[1].bit_length())
    squares = (rows * rows * scale).round().to(torch.int64).sum(dim=1, keepdim=True)
    lengths = (squares.double() / scale).sqrt()
    return (rows / lengths.where(~is_zero, 1)).float()
