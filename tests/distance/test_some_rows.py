"""Ops on some of the rows give these rows of what they give for all: a process has only its own."""

import pytest
import torch
from cases import Case, cases
from hypothesis import given
from some_rows import check_some_rows


@given(cases(max_size=40))
def test_some_rows(case: Case) -> None:
    check_some_rows(case, torch.ops.mabm)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([-1], "rows must be in"), ([3], "rows must be in")],
)
def test_rows_out_of_range_are_refused(rows: list[int], message: str) -> None:
    ranks = torch.zeros((3, 1), dtype=torch.int64)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mabm.reciprocal_mask(ranks, torch.tensor(rows))


def test_ranks_out_of_the_half_lists_are_refused() -> None:
    ranks, mask = torch.tensor([[2]]), torch.tensor([[True]])
    half = torch.zeros((2, 1), dtype=torch.int64)
    with pytest.raises(RuntimeError, match="ranks must be in"):
        torch.ops.mabm.expand_neighbors(ranks, mask, half, torch.ones_like(half, dtype=torch.bool))


@pytest.mark.parametrize("num_samples", [-1, 1, 2**31])
def test_wrong_numbers_of_samples_are_refused(num_samples: int) -> None:
    indptr = torch.tensor([0, 1])
    indices, weights = torch.tensor([1], dtype=torch.int32), torch.tensor([2**30]).int()
    with pytest.raises(RuntimeError, match=r"(num_samples|indices) must be"):
        torch.ops.mabm.jaccard_graph(indptr, indices, weights, 0.5, num_samples)
