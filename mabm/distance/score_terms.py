"""What each row adds to the scores of a product: a bias, an error, and what its scores share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mabm.distance.products import Product
from mabm.distance.rounding import growth


class ScoreTerms(NamedTuple):
    """The terms of N rows, in the units of a product.

    Attributes:
        biases: (N,) float32: a score is a product plus the bias of its column.
        bounds: (N,) float64, bounds on the errors of the scores of a row; infinite if a product
            could overflow.
        offsets: (N,) float64: an exact score ``s`` of a row is at most ``(score + offset) / area``.
        area: Scalar float64, positive.
    """

    biases: Tensor
    bounds: Tensor
    offsets: Tensor
    area: Tensor


def score_terms(x: Tensor, product: Product, euclidean: bool) -> ScoreTerms:
    """The terms of the rows of ``x`` (N, D) float32; does not wait for a device.

    A bound is the sum of the following errors, in the order of the terms below: the product of
    centered rows; the rounding of the bias and of its addition; the float64 sums of the bias and of
    the exact score that it is compared with (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1); and numbers so small that they may be flushed to zero.

    With ``x_i = m + d_i``, an offset is the constant of its row, ``m . d_i + |m|^2`` or
    ``-|d_i|^2 / 2`` by Euclidean distance; the bound; and as much again of the third of the errors,
    for the rounding of the constant and of what it is compared with.
    """
    squares, centered_squares, mean_products = torch.ops.mabm.measure_rows(x, product.mean).T
    bias = -centered_squares / 2 if euclidean else mean_products
    length, centered_length = squares.sqrt(), centered_squares.sqrt()
    greatest, greatest_bias = centered_length.max(), bias.abs().max()
    mean_length = torch.linalg.vector_norm(product.mean, dtype=torch.float64)
    if euclidean:
        wide_magnitude = (centered_length + greatest).square() + greatest.square()
    else:
        wide_magnitude = length * length.max() + greatest * mean_length
    magnitude = centered_length * greatest
    terms = x.shape[1] + 8
    sums = growth(terms, 2.0**-53) * wide_magnitude
    bounds = (
        product.error_bounds(centered_length)
        + 4 * 2.0**-24 * (magnitude + greatest_bias)
        + sums
        + terms * 2.0**-125 * (1 + centered_length + greatest)
    )
    fits = (magnitude < 1e37) & (greatest < 1e37) & (greatest_bias * product.unit < 1e37)
    bounds = torch.where(fits, bounds * product.unit, torch.inf)
    constant = bias if euclidean else bias + mean_length.square()
    return ScoreTerms(
        (bias * product.unit).to(torch.float32),
        bounds,
        (constant + 2 * sums) * product.unit + bounds,
        product.unit / 2 if euclidean else product.unit,
    )
