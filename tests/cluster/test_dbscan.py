"""Clusterers over a graph: DBSCAN as an object, and others in its place."""

from typing import Any

import numpy as np
import pytest
import torch
from devices import Device
from scipy.sparse.csgraph import connected_components
from torch import Tensor

import mabm
from mabm.cluster.dbscan import Clusterer

LISTS = {"k1": 10, "k2": 3}


def samples(count: int = 120) -> tuple[Tensor, Tensor]:
    """Noisy features of ten people in two modalities."""
    draws = torch.Generator().manual_seed(3)
    features = torch.randn(10, 12, generator=draws).repeat_interleave(count // 10, dim=0)
    noisy = features + 1.2 * torch.randn(count, 12, generator=draws)
    return torch.nn.functional.normalize(noisy, dim=1), torch.arange(count) % 2


class Components:
    """Connected components, none of them noise; written as a user would."""

    def __init__(self, max_distance: float) -> None:
        self.max_distance = max_distance

    def __call__(self, graph: Any) -> Any:
        return connected_components(graph.to_scipy())[1]


@pytest.mark.parametrize(("eps", "min_samples"), [(0.3, 2), (0.45, 4), (0.6, 4), (0.5, 6)])
def test_the_object_is_the_two_keywords(eps: float, min_samples: int, device: Device) -> None:
    features, modality = (device.put(value) for value in samples())
    expected = mabm.pseudo_labels(features, modality, eps=eps, min_samples=min_samples, **LISTS)
    found = mabm.pseudo_labels(features, modality, clusterer=mabm.DBSCAN(eps, min_samples), **LISTS)
    assert expected.num_clusters > 1
    assert found.labels.equal(expected.labels)
    assert found.core.equal(expected.core)
    assert found.summary() == expected.summary()


def test_defaults_are_those_of_the_keywords() -> None:
    features, modality = samples()
    expected = mabm.pseudo_labels(features, modality, eps=0.6, min_samples=4)
    for found in (
        mabm.pseudo_labels(features, modality),
        mabm.pseudo_labels(features, modality, clusterer=mabm.DBSCAN()),
    ):
        assert found.labels.equal(expected.labels)
    assert mabm.jaccard_graph(features, modality).dbscan().equal(expected.labels)


def test_on_a_graph_that_reaches_further() -> None:
    features, modality = samples()
    graph = mabm.jaccard_graph(features, modality, max_distance=0.9, **LISTS)
    clusterer = mabm.DBSCAN(0.4, 3)
    expected = mabm.pseudo_labels(features, modality, clusterer=clusterer, **LISTS)
    assert clusterer(graph).equal(expected.labels)
    core = clusterer.core_samples(graph)
    assert core.equal(expected.core)
    assert 0 < int(core.sum()) < len(core)


def test_core_samples_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.cluster")
    features, modality = (value.numpy() for value in samples())
    distance = mabm.modality_jaccard(features, modality, **LISTS)
    expected = sklearn.DBSCAN(eps=0.5, min_samples=5, metric="precomputed").fit(distance)
    clusterer = mabm.DBSCAN(0.5, 5)
    core = clusterer.core_samples(mabm.jaccard_graph(features, modality, **LISTS))
    assert isinstance(core, np.ndarray)
    np.testing.assert_array_equal(np.flatnonzero(core), expected.core_sample_indices_)


@pytest.mark.parametrize("as_numpy", [False, True])
def test_a_clusterer_of_your_own(as_numpy: bool) -> None:
    features, modality = samples()
    given: Any = (features.numpy(), modality.numpy()) if as_numpy else (features, modality)
    found = mabm.pseudo_labels(*given, clusterer=Components(0.25), **LISTS)
    # DBSCAN of which every sample is core finds the connected components.
    expected = mabm.pseudo_labels(*given, eps=0.25, min_samples=1, **LISTS)
    assert type(found.labels) is type(given[0])
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.core is None
    assert found.num_spanning == expected.num_spanning
    assert 1 < found.num_clusters < 120
    labels = mabm.predict_labels(given[0][:3], given[1][:3], given[0], found, eps=0.25, **LISTS)
    np.testing.assert_array_equal(labels, found.labels[:3])


def test_a_clusterer_with_core_samples(device: Device) -> None:
    class Halves(Components):
        def core_samples(self, graph: Any) -> Tensor:
            return torch.arange(len(graph)) % 2 == 0

    features, modality = (device.put(value) for value in samples())
    found = mabm.pseudo_labels(features, modality, clusterer=Halves(0.3), **LISTS)
    assert found.core.tolist() == [True, False] * 60
    assert found.labels.device == found.core.device == features.device


class _Broken(Components):
    def __init__(self, labels: Any) -> None:
        super().__init__(0.3)
        self.labels = labels

    def __call__(self, graph: Any) -> Any:
        return self.labels


class _Cores(_Broken):
    def __init__(self, core_samples: Any) -> None:
        super().__init__(np.zeros(120, int))
        self.core_samples = core_samples


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"clusterer": mabm.DBSCAN(), "eps": 0.6},
            ValueError,
            r"clusterer must be given without eps, .* got eps=0.6 and DBSCAN\(eps=0.6, ",
        ),
        (
            {"clusterer": mabm.DBSCAN(), "eps": 0.5, "min_samples": 4},
            ValueError,
            "clusterer must be given without eps and min_samples, .* got eps=0.5, min_samples=4",
        ),
        ({"clusterer": "dbscan"}, TypeError, "clusterer must have max_distance .* got str: 'db"),
        (
            {"clusterer": Components(1.0)},
            ValueError,
            r"clusterer.max_distance must be in \[0, 1\), got 1",
        ),
        (
            {"clusterer": mabm.DBSCAN},
            TypeError,
            r"clusterer must be an object, got the class DBSCAN; use DBSCAN\(\.\.\.\)",
        ),
        (
            {"clusterer": _Broken(np.zeros(119, int))},
            ValueError,
            r"clusterer\(graph\) must be \(120,\), one per sample, got shape \(119,\)",
        ),
        (
            {"clusterer": _Broken(torch.zeros(120))},
            TypeError,
            r"clusterer\(graph\) must be integers, .* use clusterer\(graph\).long\(\)",
        ),
        (
            {"clusterer": _Broken(np.arange(120) - 3)},
            ValueError,
            r"clusterer\(graph\) must be clusters >= 0 or -1 for noise, got -3",
        ),
        (
            {"clusterer": _Cores(lambda graph: np.ones(119, bool))},
            ValueError,
            r"clusterer.core_samples\(graph\) must be \(120,\) bool, .* got \(119,\) torch.bool",
        ),
        (
            {"clusterer": _Cores(lambda graph: [True] * 120)},
            TypeError,
            r"use numpy.array\(clusterer.core_samples\(graph\)\)",
        ),
        (
            {"clusterer": _Cores(np.ones(120, bool))},
            TypeError,
            "clusterer.core_samples must be a method, got ndarray",
        ),
    ],
)
def test_what_is_no_clusterer(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mabm.pseudo_labels(*samples(), **options, **LISTS)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"eps": 1.0}, ValueError, r"eps must be in \[0, 1\), got 1"),
        ({"eps": "a"}, TypeError, "eps must be a number, got str"),
        ({"min_samples": 0}, ValueError, "min_samples must be at least 1, got 0"),
        ({"min_samples": 2.0}, TypeError, "min_samples must be an integer, got float"),
    ],
)
def test_parameters_are_checked_at_once(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mabm.DBSCAN(**options)


def test_the_protocol_tells_what_fits() -> None:
    assert isinstance(mabm.DBSCAN(), Clusterer)
    assert isinstance(Components(0.5), Clusterer)
    assert not isinstance(len, Clusterer)


def test_dbscan_refuses_a_graph_that_ends_before_eps() -> None:
    features, modality = samples()
    graph = mabm.jaccard_graph(features, modality, max_distance=0.3, **LISTS)
    for cluster in (mabm.DBSCAN(0.5), mabm.DBSCAN(0.5).core_samples):
        with pytest.raises(ValueError, match=r"eps must be in \[0, 0.3\], which ends at the graph"):
            cluster(graph)
        with pytest.raises(TypeError, match="graph must be of NeighborGraph, got Tensor"):
            cluster(features)
