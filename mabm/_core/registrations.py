"""Fake kernels of the ops, which give PyTorch their output shapes, and errors for gradients.

One fake kernel per schema of ``csrc/library.cpp``, a function of the same name. Sizes that depend
on the data (the entries of ragged rows) are unbacked symbols under ``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from mabm._core.padding import padded_size

_Rows = tuple[Tensor, Tensor]
_ValuedRows = tuple[Tensor, Tensor, Tensor]
_Fake = TypeVar("_Fake", bound=Callable[..., Any])

_FAKES: dict[str, Callable[..., Any]] = {}


def _fake(function: _Fake) -> _Fake:
    """Registers a function as the fake kernel of the op of the same name."""
    _FAKES[function.__name__] = function
    return function


def _ragged(indptr: Tensor, num_rows: int | torch.SymInt) -> _Rows:
    entries = torch.library.get_ctx().new_dynamic_size()
    return (
        indptr.new_empty((num_rows + 1,), dtype=torch.int64),
        indptr.new_empty((entries,), dtype=torch.int32),
    )


@_fake
def screen_pairs_(
    operands: Tensor,
    center: Tensor | None,
    unit: float,
    biases: Tensor,
    margins: Tensor,
    residuals: Tensor,
    slacks: Tensor,
    scales: Tensor | None,
    lost: Tensor | None,
    lengths: Tensor | None,
    groups: Tensor,
    list_of_group: Tensor,
    widths: list[int],
    rows: Tensor,
    columns: Tensor,
    places: Tensor,
    mirrored: bool,
    raises: bool,
    collects: bool,
    bounds: Tensor,
    candidates: Tensor,
    counts: Tensor,
    lower_bounds: Tensor,
    thresholds: Tensor,
) -> None:
    return None


@_fake
def cut_candidates_(bounds: Tensor, candidates: Tensor, counts: Tensor, thresholds: Tensor) -> None:
    return None


@_fake
def measure_columns(features: Tensor) -> Tensor:
    return features.new_empty((3, features.shape[1]))


@_fake
def measure_rows(features: Tensor, center: Tensor) -> Tensor:
    return features.new_empty((features.shape[0], 3), dtype=torch.float64)


@_fake
def halve_rows(features: Tensor, center: Tensor, scale: Tensor) -> _Rows:
    count, dim = features.shape
    return (
        features.new_empty((padded_size(count), padded_size(dim)), dtype=torch.float16),
        features.new_empty((count,), dtype=torch.float64),
    )


@_fake
def round_rows_(rows: Tensor, center: Tensor | None, integers: Tensor) -> Tensor:
    return rows.new_empty((3, rows.shape[0]))


@_fake
def collect_candidates_(
    products: Tensor,
    biases: Tensor,
    row_groups: Tensor,
    column_groups: Tensor,
    list_of_group: Tensor,
    first_column: int,
    gaps: Tensor,
    widths: list[int],
    last: bool,
    transposed: bool,
    row_scales: Tensor | None,
    column_scales: Tensor | None,
    candidate_scores: Tensor,
    candidates: Tensor,
    counts: Tensor,
    thresholds: Tensor,
) -> None:
    return None


@_fake
def rank_candidates(
    features: Tensor,
    rows: Tensor,
    candidates: Tensor,
    counts: Tensor,
    widths: list[int],
    euclidean: bool,
    bounds: Tensor | None = None,
    offsets: Tensor | None = None,
    area: Tensor | None = None,
) -> _Rows:
    return rank_exactly(features, rows, rows, rows, widths, euclidean)


@_fake
def rank_exactly(
    features: Tensor,
    rows: Tensor,
    groups: Tensor,
    list_of_group: Tensor,
    widths: list[int],
    euclidean: bool,
) -> _Rows:
    shape = (rows.shape[0], sum(widths))
    return rows.new_empty(shape, dtype=torch.int64), rows.new_empty(shape, dtype=torch.float64)


@_fake
def reciprocal_mask(ranks: Tensor, rows: Tensor | None = None) -> Tensor:
    count = ranks.shape[0] if rows is None else rows.shape[0]
    return ranks.new_empty((count, ranks.shape[1]), dtype=torch.bool)


@_fake
def expand_neighbors(
    ranks: Tensor, mask: Tensor, half_ranks: Tensor | None, half_mask: Tensor | None
) -> _Rows:
    return _ragged(ranks, ranks.shape[0])


@_fake
def encode_neighbors(
    features: Tensor,
    indptr: Tensor,
    indices: Tensor,
    ranks: Tensor | None,
    products: Tensor | None,
) -> _ValuedRows:
    starts, columns = _ragged(indptr, features.shape[0])
    return starts, columns, torch.empty_like(columns)


@_fake
def weigh_products(
    indptr: Tensor, indices: Tensor, products: Tensor, first_row: int
) -> _ValuedRows:
    starts, columns = _ragged(indptr, indptr.shape[0] - 1)
    return starts, columns, torch.empty_like(columns)


@_fake
def average_encodings(
    indptr: Tensor,
    indices: Tensor,
    weights: Tensor,
    neighbors: Tensor,
    neighbor_weights: Tensor,
) -> _ValuedRows:
    starts, columns = _ragged(indptr, neighbors.shape[0])
    return starts, columns, torch.empty_like(columns)


@_fake
def jaccard_distance(
    row_indptr: Tensor,
    row_indices: Tensor,
    row_weights: Tensor,
    column_indptr: Tensor,
    column_indices: Tensor,
    column_weights: Tensor,
    num_samples: int,
) -> Tensor:
    shape = (row_indptr.shape[0] - 1, column_indptr.shape[0] - 1)
    return row_indptr.new_empty(shape, dtype=torch.float32)


@_fake
def jaccard_graph(
    indptr: Tensor,
    indices: Tensor,
    weights: Tensor,
    max_distance: float,
    num_samples: int | None = None,
) -> _ValuedRows:
    starts, columns = _ragged(indptr, indptr.shape[0] - 1)
    return starts, columns, torch.empty_like(columns, dtype=torch.float32)


@_fake
def near_rows(
    row_indptr: Tensor,
    row_indices: Tensor,
    row_weights: Tensor,
    column_indptr: Tensor,
    column_indices: Tensor,
    column_weights: Tensor,
    num_samples: int,
    max_distance: float,
) -> _ValuedRows:
    return jaccard_graph(row_indptr, row_indices, row_weights, max_distance)


@_fake
def dbscan(
    indptr: Tensor, indices: Tensor, distances: Tensor, eps: float, min_samples: int
) -> Tensor:
    return indptr.new_empty((indptr.shape[0] - 1,), dtype=torch.int64)


@_fake
def join_samples_(parents: Tensor, first: Tensor, second: Tensor) -> None:
    return None


def _refuse_gradient(op: str) -> Any:
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise RuntimeError(
            f"mabm::{op} has no gradient: neighbors, distances and labels are piecewise constant "
            "in the features; call it under torch.no_grad() or on features.detach()"
        )

    return backward


def register() -> None:
    """Registers all fake kernels and, for ops that return tensors, an error for gradients."""
    for op, fake in _FAKES.items():
        torch.library.register_fake(f"mabm::{op}", fake)
        if not op.endswith("_"):  # PyTorch accepts a formula for functional ops only
            torch.library.register_autograd(f"mabm::{op}", _refuse_gradient(op))
