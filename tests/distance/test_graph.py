"""DBSCAN on the graph, label for label scikit-learn's on the dense matrix."""

import numpy as np
import pytest
import torch
from cases import Case, cases
from devices import Device
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

import mabm
from mabm import reference
from mabm.distance import graph as graph_module

EPS = (0.0, 0.2, 0.3, 0.6, 0.9)


@given(cases(), st.sampled_from(EPS), st.integers(1, 8))
def test_labels_are_those_of_scikit_learn(
    device: Device, case: Case, eps: float, min_samples: int
) -> None:
    dense = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    graph = mabm.jaccard_graph(*device.inputs(case), max_distance=0.9, **case.options)
    labels = device.get(graph.dbscan(eps, min_samples))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, reference.dbscan(dense, eps=eps, min_samples=min_samples))
    if eps > 0:  # scikit-learn asks for more than 0
        sklearn = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed")
        np.testing.assert_array_equal(labels, sklearn.fit_predict(dense))
        # Sorted by distance: scikit-learn 1.7 warns where it must do that itself.
        sparse = sort_graph_by_row_values(graph.to_scipy(), warn_when_not_sorted=False)
        np.testing.assert_array_equal(labels, sklearn.fit_predict(sparse))


@given(cases(), st.sampled_from(EPS))
def test_labels_are_those_of_a_graph_pruned_at_eps(device: Device, case: Case, eps: float) -> None:
    wide = mabm.jaccard_graph(*device.inputs(case), max_distance=0.9, **case.options)
    narrow = mabm.jaccard_graph(*device.inputs(case), max_distance=eps, **case.options)
    np.testing.assert_array_equal(device.get(wide.dbscan(eps)), device.get(narrow.dbscan(eps)))


def graph_of(
    dense: np.ndarray, radius: float, max_distance: float, device: Device
) -> mabm.NeighborGraph:
    """The graph of the distances within a radius."""
    near = dense <= np.float32(radius)
    indptr = np.concatenate([[0], near.sum(axis=1).cumsum()])
    parts = (indptr, np.nonzero(near)[1].astype(np.int32), dense[near])
    return mabm.NeighborGraph(*map(device.put, parts), max_distance)


def test_a_border_sample_takes_the_smallest_cluster(device: Device) -> None:
    # On a line: two clusters of four, a sample between them that is near to one core of each but
    # no core itself, and one near to nobody.
    position = np.array([0.50, 0.14, 0.13, 0.12, 0.11, 0.86, 0.87, 0.88, 0.89, 5.0])
    distance = np.abs(position[:, None] - position).astype(np.float32)
    graph = graph_of(distance, 0.365, 0.5, device)
    assert graph.dbscan(0.365, min_samples=4).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, -1]


def line_graph(
    distances: dict[tuple[int, int], float], count: int, device: Device
) -> mabm.NeighborGraph:
    """A graph of a few given distances, complete up to 0.7."""
    dense = np.ones((count, count), dtype=np.float32)
    np.fill_diagonal(dense, 0)
    for (i, j), distance in distances.items():
        dense[i, j] = dense[j, i] = distance
    return graph_of(dense, 0.7, 0.7, device)


def test_distances_at_eps_are_within_it_in_float32(device: Device) -> None:
    # float32(0.6) is above 0.6: compared in float64, nothing here would be near.
    triangle = {(0, 1): 0.6, (1, 2): 0.6, (0, 2): 0.6}
    graph = line_graph({**triangle, (2, 3): 0.6}, 5, device)  # 3 is a border sample, exactly at eps
    assert graph.dbscan(0.6, min_samples=3).tolist() == [0, 0, 0, 0, -1]
    assert graph.dbscan(np.nextafter(np.float32(0.6), np.float32(0)), 3).tolist() == [-1] * 5


def test_eps_may_be_the_bound_as_float32(device: Device) -> None:
    features = device.put(torch.eye(3).repeat_interleave(4, dim=0))
    graph = mabm.jaccard_graph(features, max_distance=0.6, k1=4, k2=2)
    expected = graph.dbscan(0.6).tolist()
    assert graph.dbscan(np.float32(0.6)).tolist() == expected
    assert graph.dbscan(float(np.float32(0.6))).tolist() == expected


def test_sweep_counts_what_dbscan_labels(device: Device) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 8)).repeat(10, axis=0) + 0.4 * rng.normal(size=(120, 8))
    features = device.put(features.astype(np.float32))
    graph = mabm.jaccard_graph(features, max_distance=0.8, k1=12, k2=3)
    modality = np.arange(120) // 5 % 2
    entries = graph.sweep([0.7, 0.1, 0.4], min_samples=3, modality=modality)
    without = [entry._replace(num_spanning=None) for entry in entries]
    assert graph.sweep([0.7, 0.1, 0.4], min_samples=3) == without
    assert graph.sweep([0.7, 0.1, 0.4], 3, np.array(["a", "b"])[modality].tolist()) == entries
    assert [entry.eps for entry in entries] == [0.7, 0.1, 0.4]
    assert len({entry.num_clusters for entry in entries}) > 1
    for entry in entries:
        labels = device.get(graph.dbscan(entry.eps, 3))
        sizes = np.bincount(labels[labels >= 0])
        assert entry.num_clusters == len(sizes)
        assert entry.num_noise == (labels < 0).sum()
        assert entry.largest_cluster == sizes.max(initial=0)
        assert entry.largest_share == entry.largest_cluster / 120
        assert entry.num_spanning == sum(
            len(set(modality[labels == cluster].tolist())) == 2 for cluster in range(len(sizes))
        )


def test_sweep_refuses_before_it_clusters(device: Device) -> None:
    graph = mabm.jaccard_graph(device.put(torch.eye(4)), max_distance=0.5)
    with pytest.raises(
        ValueError,
        match=r"eps must be in \[0, 0.5\], which ends at the graph.s max_distance, got 0.6",
    ):
        graph.sweep([0.3, 0.6])
    with pytest.raises(ValueError, match=r"modality must be \(4,\), .* got shape \(3,\)"):
        graph.sweep([0.3], modality=[0, 1, 0])
    assert graph.sweep([]) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            {"eps": 0.51},
            ValueError,
            r"eps must be in \[0, 0.5\], which ends at the graph.s max_distance, got 0.51",
        ),
        ({"eps": -0.1}, ValueError, r"eps must be in \[0, 0.5\], .* got -0.1"),
        ({"eps": float("nan")}, ValueError, "eps must be in .* got nan"),
        ({"eps": "0.3"}, TypeError, "eps must be a number, got str"),
        ({"eps": 0.3, "min_samples": 0}, ValueError, "min_samples must be at least 1, got 0"),
        ({"eps": 0.3, "min_samples": 2.0}, TypeError, "min_samples must be an integer, got float"),
    ],
)
def test_bad_arguments(
    device: Device, call: dict[str, object], error: type[Exception], message: str
) -> None:
    graph = mabm.jaccard_graph(device.put(torch.eye(4)), max_distance=0.5)
    with pytest.raises(error, match=message):
        graph.dbscan(**call)


def test_a_graph_tells_its_size(device: Device) -> None:
    assert repr(mabm.jaccard_graph(device.put(torch.eye(4)), k1=1, k2=1)) == (
        "NeighborGraph(4 samples, 4 pairs within 0.6)"
    )


@pytest.mark.parametrize(
    ("indptr", "indices", "distances", "message"),
    [
        ([0, 2, 3], [0, 1, 1], [0, 0.3, 0], "a pair that is stored in one direction only"),
        ([0, 2, 4], [0, 1, 0, 1], [0, 0.3, 0.2, 0], "direction only, or with two distances"),
        ([0, 2, 4], [0, 1, 0, 1], [0, np.nan, np.nan, 0], "at least 0, got NaN or less"),
        ([0, 2, 4], [0, 1, 0, 1], [0, -0.1, -0.1, 0], "at least 0, got NaN or less"),
    ],
)
def test_a_graph_is_the_same_from_either_side(
    indptr: list[int], indices: list[int], distances: list[float], message: str
) -> None:
    parts = np.array(indptr), np.array(indices, dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        mabm.NeighborGraph(*parts, np.array(distances, dtype=np.float32), 0.5)


def test_a_graph_of_your_own_is_checked(device: Device) -> None:
    indptr = device.put(np.array([0, 1]))
    indices = device.put(np.array([0], dtype=np.int32))
    with pytest.raises(ValueError, match=r"distances must be \(1,\) float32, got \(1,\)"):
        mabm.NeighborGraph(indptr, indices, device.put(np.zeros(1)), 0.5)
    with pytest.raises(ValueError, match=r"max_distance must be in \[0, 1\), got 1"):
        mabm.NeighborGraph(indptr, indices, device.put(np.zeros(1, dtype=np.float32)), 1.0)


@pytest.mark.parametrize(
    ("indptr", "indices", "distances", "message"),
    [
        ([0, 1, 2], [0, 1], [0.0, np.nan], "distances must be at least 0, got NaN or less"),
        ([0, 1, 2], [0, 1], [0.0, -0.1], "distances must be at least 0, got NaN or less"),
        ([0, 2, 3], [0, 1, 1], [0.0, 0.2, 0.0], "symmetric, .* stored in one direction only"),
        ([0, 2, 4], [0, 1, 0, 1], [0.0, 0.2, 0.3, 0.0], "symmetric, .* with two distances"),
    ],
)
def test_a_graph_of_your_own_is_the_same_from_either_sample(
    device: Device, indptr: list[int], indices: list[int], distances: list[float], message: str
) -> None:
    parts = (
        np.array(indptr),
        np.array(indices, dtype=np.int32),
        np.array(distances, dtype=np.float32),
    )
    with pytest.raises(ValueError, match=message):
        mabm.NeighborGraph(*map(device.put, parts), 0.5)


@pytest.mark.parametrize("at_once", [1, 7, 40, 10**6])
def test_a_graph_of_your_own_is_checked_in_parts_too(
    monkeypatch: pytest.MonkeyPatch, device: Device, at_once: int
) -> None:
    # Entries of all rows, or of some at a time: a row may have more than are sorted at once.
    monkeypatch.setattr(graph_module, "_SORTED_AT_ONCE", at_once)
    features = torch.nn.functional.normalize(torch.randn(30, 4, generator=torch.manual_seed(1)))
    found = mabm.jaccard_graph(features, k1=8, k2=2, max_distance=0.8)
    indptr, indices, distances = found.tensors()
    assert len(indices) > 100
    assert (distances > 0).any()
    whole = mabm.NeighborGraph(*map(device.put, (indptr, indices, distances)), 0.8)
    assert len(whole.indices) == len(indices)
    rows = torch.repeat_interleave(indptr.diff())
    away = torch.nonzero(rows != indices).flatten()
    for entry in away[:: len(away) // 10].tolist():
        changed = distances.clone()
        changed[entry] += 0.01
        with pytest.raises(ValueError, match="symmetric"):
            mabm.NeighborGraph(*map(device.put, (indptr, indices, changed)), 0.8)
        kept = torch.arange(len(indices)) != entry
        fewer = indptr - (torch.arange(len(indptr)) > rows[entry]).long()
        with pytest.raises(ValueError, match="symmetric"):
            mabm.NeighborGraph(*map(device.put, (fewer, indices[kept], distances[kept])), 0.8)
