"""Compressed rows: what they refuse, hand out and turn into."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mabm


def sets(indptr: list[int], indices: list[int]) -> mabm.NeighborSets:
    return mabm.NeighborSets(torch.tensor(indptr), torch.tensor(indices, dtype=torch.int32))


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([], [], r"indptr must be \(N \+ 1,\) int64, got \(0,\)"),
        ([0, 1, 3], [0, 1], r"indptr must ascend from 0 to 2, .* got 0 to 3"),
        ([0, 2, 1, 2], [0, 1], r"indptr must ascend"),
        ([1, 2], [0, 0], r"indptr must ascend from 0 to 2"),
        ([0, 1], [1], r"indices must be in \[0, 1\), got 1 to 1"),
        ([0, 1], [-1], r"indices must be in \[0, 1\), got -1"),
        ([0, 2, 2], [1, 0], r"indices must ascend within each row"),
        ([0, 2, 2], [1, 1], r"indices must ascend within each row, without repeats"),
    ],
)
def test_malformed_rows_are_refused(indptr: list[int], indices: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sets(indptr, indices)


def test_a_row_may_begin_below_the_end_of_the_one_before() -> None:
    rows = sets([0, 2, 2, 4, 4], [1, 3, 0, 2])
    assert [rows.row(i).tolist() for i in range(4)] == [[1, 3], [], [0, 2], []]
    assert len(rows) == 4


@pytest.mark.parametrize("sample", [-1, 4])
def test_rows_outside_are_refused(sample: int) -> None:
    with pytest.raises(IndexError, match=rf"sample must be in \[0, 4\), got {sample}"):
        sets([0, 2, 2, 4, 4], [1, 3, 0, 2]).row(sample)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"indices must be \(entries,\) int32, got \(1,\) torch.int64"
    ):
        mabm.NeighborSets(torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(
        TypeError, match=r"indptr must be a torch.Tensor or a numpy.ndarray, got list"
    ):
        mabm.NeighborSets([0, 1], np.zeros(1, dtype=np.int32))


def test_exports_keep_explicit_zeros() -> None:
    features = torch.eye(3).repeat_interleave(2, dim=0)  # duplicates: J = 0 off the diagonal
    graph = mabm.jaccard_graph(features, k1=2, k2=1)
    scipy_graph = graph.to_scipy()
    torch_graph = graph.to_torch()
    assert scipy_graph.nnz == 12
    assert torch_graph.layout == torch.sparse_csr
    assert len(torch_graph.values()) == 12
    assert (scipy_graph.toarray() == torch_graph.to_dense().numpy()).all()
    assert scipy_graph.dtype == np.float32
    assert scipy_graph.has_sorted_indices


@given(st.integers(0, 2**32 - 1))
def test_an_encoding_of_your_own_is_scaled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = (
        rng.random((20, 20)) * (rng.random((20, 20)) < 0.3) * 10.0 ** rng.uniform(-9, 9, (20, 1))
    )
    dense[np.arange(20), np.arange(20)] += dense.max(axis=1) + 1e-3
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.bincount(rows, minlength=20).cumsum()])
    encoding = mabm.Encoding.from_values(indptr, columns.astype(np.int32), dense[rows, columns])
    expected = dense / dense.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(encoding.to_scipy().toarray(), expected, rtol=0, atol=1e-7)
    assert encoding.values.dtype == np.float32
    mabm.Encoding(encoding.indptr, encoding.indices, encoding.weights)  # stands its own checks


def test_an_encoding_may_be_made_again_from_its_parts() -> None:
    features = torch.randn(300, 64) * 0.48  # most weights are so small that they round to 0
    tiny = mabm.Encoding.from_values(
        torch.arange(0, 22 * 21, 21),
        torch.arange(21, dtype=torch.int32).repeat(21),
        torch.tensor([1.0, *[1e-10] * 20] * 21),
    )
    for encoding in (mabm.encode_samples(features), tiny):
        again = mabm.Encoding(encoding.indptr, encoding.indices, encoding.weights)
        assert torch.equal(mabm.jaccard_distance(again), mabm.jaccard_distance(encoding))
    assert len(tiny.indices) == 21


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -1.0], "values must be finite and not negative"),
        ([1.0, float("nan")], "values must be finite and not negative"),
        ([1.0, 0.0], "must sum to more than 0, got 0 in row 1"),
        ([1.0], r"values must be \(2,\), got \(1,\)"),
    ],
)
def test_values_that_are_no_encoding_are_refused(values: list[float], message: str) -> None:
    indptr, indices = np.array([0, 1, 2]), np.array([0, 1], dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        mabm.Encoding.from_values(indptr, indices, np.array(values))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([2**30, 2**29], "weights of each row must sum to 1073741824 .* got 536870912 in row 1"),
        ([2**30, 0], "weights must be positive, got 0"),
        ([2**30], r"weights must be \(2,\) int32, got \(1,\)"),
    ],
)
def test_weights_that_are_no_encoding_are_refused(weights: list[int], message: str) -> None:
    indptr, indices = np.array([0, 1, 2]), np.array([0, 1], dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        mabm.Encoding(indptr, indices, np.array(weights, dtype=np.int32))
