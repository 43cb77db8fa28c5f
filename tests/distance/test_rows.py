"""Compressed rows: what they refuse, hand out and turn into."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from devices import Device
from hypothesis import given
from hypothesis import strategies as st

import mabm


def sets(indptr: list[int], indices: list[int], device: Device) -> mabm.NeighborSets:
    return mabm.NeighborSets(
        device.put(torch.tensor(indptr)), device.put(torch.tensor(indices, dtype=torch.int32))
    )


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([], [], r"indptr must be \(N \+ 1,\) int64, got \(0,\)"),
        ([0, 1, 3], [0, 1], r"indptr must ascend from 0 to 2, .* got 0 to 3"),
        ([0, 2, 1, 2], [0, 1], r"indptr must ascend"),
        ([1, 2], [0, 0], r"indptr must ascend from 0 to 2"),
        ([0, 2**62, -(2**63), -(2**62), 0], [], r"indptr must ascend from 0 to 0"),
        ([0, 2**63 - 1, -(2**63), 1], [0], r"indptr must ascend from 0 to 1"),
        ([0, 1], [1], r"indices must be in \[0, 1\), got 1 to 1"),
        ([0, 1], [-1], r"indices must be in \[0, 1\), got -1"),
        ([0, 2, 2], [1, 0], r"indices must ascend within each row"),
        ([0, 2, 2], [1, 1], r"indices must ascend within each row, without repeats"),
    ],
)
def test_malformed_rows_are_refused(
    device: Device, indptr: list[int], indices: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sets(indptr, indices, device)


def test_starts_whose_differences_wrap_are_refused_by_every_kind_of_rows(device: Device) -> None:
    starts = device.put(torch.tensor([0, 2**62, -(2**63), -(2**62), 0]))
    none = device.put(torch.zeros(0, dtype=torch.int32))
    for make in (
        lambda: mabm.NeighborSets(starts, none),
        lambda: mabm.Encoding(starts, none, none),
        lambda: mabm.Encoding.from_values(starts, none, none.double()),
        lambda: mabm.NeighborGraph(starts, none, none.float(), 0.6),
    ):
        with pytest.raises(ValueError, match="indptr must ascend from 0 to 0"):
            make()


def test_a_row_may_begin_below_the_end_of_the_one_before(device: Device) -> None:
    rows = sets([0, 2, 2, 4, 4], [1, 3, 0, 2], device)
    assert [rows.row(i).tolist() for i in range(4)] == [[1, 3], [], [0, 2], []]
    assert len(rows) == 4


@pytest.mark.parametrize("sample", [-1, 4])
def test_rows_outside_are_refused(device: Device, sample: int) -> None:
    with pytest.raises(IndexError, match=rf"sample must be in \[0, 4\), got {sample}"):
        sets([0, 2, 2, 4, 4], [1, 3, 0, 2], device).row(sample)


def test_other_dtypes_are_refused(device: Device) -> None:
    with pytest.raises(
        ValueError, match=r"indices must be \(entries,\) int32, got \(1,\) torch.int64"
    ):
        mabm.NeighborSets(device.put(torch.tensor([0, 1])), device.put(torch.tensor([0])))
    with pytest.raises(
        TypeError, match=r"indptr must be a torch.Tensor or a numpy.ndarray, got list"
    ):
        mabm.NeighborSets([0, 1], device.put(np.zeros(1, dtype=np.int32)))


def test_exports_keep_explicit_zeros(device: Device) -> None:
    features = torch.eye(3).repeat_interleave(2, dim=0)  # duplicates: J = 0 off the diagonal
    graph = mabm.jaccard_graph(device.put(features), k1=2, k2=1)
    scipy_graph = graph.to_scipy()
    torch_graph = graph.to_torch()
    assert scipy_graph.nnz == 12
    assert torch_graph.layout == torch.sparse_csr
    assert len(torch_graph.values()) == 12
    assert (scipy_graph.toarray() == device.get(torch_graph.to_dense())).all()
    assert scipy_graph.dtype == np.float32
    assert scipy_graph.has_sorted_indices


@pytest.mark.parametrize(
    ("choice", "enabled"),
    [("", False), ("invariants.enable()", True), ("invariants.disable()", False)],
)
def test_a_sparse_tensor_comes_without_advice_on_checking_it(choice: str, enabled: bool) -> None:
    code = (
        "import warnings, torch, mabm\n"
        "invariants = torch.sparse.check_sparse_tensor_invariants\n"
        "graph = mabm.jaccard_graph(torch.eye(4), k1=2, k2=1)\n"
        "warnings.simplefilter('error')\n"
        "warnings.filterwarnings('ignore', 'Sparse CSR tensor support is in beta')\n"
        f"{choice}\n"
        "print(graph.to_torch().layout, invariants.is_enabled())\n"
    )
    # In a process of its own: PyTorch warns once, and where nobody has chosen.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"torch.sparse_csr {enabled}\n", "")


def test_parts_may_be_of_any_memory_layout(device: Device) -> None:
    features = device.put(torch.randn(40, 6))
    graph = mabm.jaccard_graph(features, k1=8, k2=3)
    parts = (graph.indptr, graph.indices, graph.distances)
    strided = mabm.NeighborGraph(*(part.repeat_interleave(2)[::2] for part in parts), 0.6)
    assert torch.equal(strided.dbscan(0.5), graph.dbscan(0.5))
    encoding = mabm.encode_samples(features, k1=8, k2=3)
    parts = (encoding.indptr, encoding.indices, encoding.weights)
    strided = mabm.Encoding(*(part.repeat_interleave(2)[::2] for part in parts))
    assert torch.equal(mabm.jaccard_distance(strided), mabm.jaccard_distance(encoding))


@given(st.integers(0, 2**32 - 1))
def test_an_encoding_of_your_own_is_scaled(device: Device, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = (
        rng.random((20, 20)) * (rng.random((20, 20)) < 0.3) * 10.0 ** rng.uniform(-9, 9, (20, 1))
    )
    dense[np.arange(20), np.arange(20)] += dense.max(axis=1) + 1e-3
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.bincount(rows, minlength=20).cumsum()])
    parts = (indptr, columns.astype(np.int32), dense[rows, columns])
    encoding = mabm.Encoding.from_values(*map(device.put, parts))
    expected = dense / dense.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(encoding.to_scipy().toarray(), expected, rtol=0, atol=1e-7)
    assert device.get(encoding.values).dtype == np.float32
    mabm.Encoding(encoding.indptr, encoding.indices, encoding.weights)  # stands its own checks


def test_an_encoding_may_be_made_again_from_its_parts(device: Device) -> None:
    features = device.put(torch.randn(300, 64) * 0.48)  # most weights are so small they round to 0
    tiny = mabm.Encoding.from_values(
        device.put(torch.arange(0, 22 * 21, 21)),
        device.put(torch.arange(21, dtype=torch.int32).repeat(21)),
        device.put(torch.tensor([1.0, *[1e-10] * 20] * 21)),
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
def test_values_that_are_no_encoding_are_refused(
    device: Device, values: list[float], message: str
) -> None:
    parts = (np.array([0, 1, 2]), np.array([0, 1], dtype=np.int32), np.array(values))
    with pytest.raises(ValueError, match=message):
        mabm.Encoding.from_values(*map(device.put, parts))


def test_complex_values_are_refused(device: Device) -> None:
    parts = (np.array([0, 1]), np.array([0], dtype=np.int32))
    with pytest.raises(TypeError, match=r"values must contain real numbers, got dtype"):
        mabm.Encoding.from_values(*map(device.put, parts), device.put(torch.ones(1) * 1j))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([2**30, 2**29], "weights of each row must sum to 1073741824 .* got 536870912 in row 1"),
        ([2**30, 0], "weights must be positive, got 0"),
        ([2**30], r"weights must be \(2,\) int32, got \(1,\)"),
    ],
)
def test_weights_that_are_no_encoding_are_refused(
    device: Device, weights: list[int], message: str
) -> None:
    parts = (np.array(part, dtype=np.int32) for part in ([0, 1], weights))
    with pytest.raises(ValueError, match=message):
        mabm.Encoding(device.put(np.array([0, 1, 2])), *map(device.put, parts))
