"""The distance, dense and pruned: golden files, the reference, what holds of any distance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import GENERAL_POSITION, Case, cases
from devices import Device
from golden_files import GOLDEN, Golden
from hypothesis import given
from hypothesis import strategies as st

import mabm
from mabm import reference
from mabm._core import device_memory


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_released_distances(device: Device, golden: Golden) -> None:
    distance = device.get(mabm.modality_jaccard(*device.inputs(golden), **golden.options))
    np.testing.assert_allclose(distance, golden.distance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_released_labels(device: Device, golden: Golden) -> None:
    graph = mabm.jaccard_graph(*device.inputs(golden), **golden.options)
    for eps, labels in golden.labels.items():
        np.testing.assert_array_equal(device.get(graph.dbscan(eps, min_samples=4)), labels)


@given(cases())
def test_matches_the_reference(device: Device, case: Case) -> None:
    distance = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    expected = reference.modality_jaccard(case.features, case.modality, **case.options)
    np.testing.assert_allclose(distance, expected, rtol=0, atol=1e-6)


@given(cases())
def test_is_a_distance(device: Device, case: Case) -> None:
    distance = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    assert distance.dtype == np.float32
    assert (distance == distance.T).all()
    assert (distance >= 0).all()
    assert (distance <= 1).all()
    assert (np.diag(distance) == 0).all()


@given(cases(GENERAL_POSITION), st.integers(0, 2**32 - 1))
def test_permuting_rows_permutes_the_answer(device: Device, case: Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case.features))
    distance = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    shuffled = replace(case, features=case.features[order], modality=case.modality[order])
    permuted = mabm.modality_jaccard(*device.inputs(shuffled), **case.options)
    np.testing.assert_array_equal(device.get(permuted), distance[np.ix_(order, order)])


@given(cases(), st.integers(0, 2**32 - 1))
def test_group_names_change_nothing(device: Device, case: Case, seed: int) -> None:
    names, numbers = np.unique(case.modality, return_inverse=True)
    renamed = np.random.default_rng(seed).permutation(len(names))[numbers]
    distance = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    found = mabm.modality_jaccard(*device.inputs(replace(case, modality=renamed)), **case.options)
    np.testing.assert_array_equal(device.get(found), distance)


@given(cases(), st.sampled_from((0.0, 1e-6, 0.3, 0.6, 0.9, 0.999)))
def test_graph_is_the_dense_distance_pruned(
    device: Device, case: Case, max_distance: float
) -> None:
    dense = device.get(mabm.modality_jaccard(*device.inputs(case), **case.options))
    graph = mabm.jaccard_graph(*device.inputs(case), max_distance=max_distance, **case.options)
    near = dense <= np.float32(max_distance)
    rows, columns = np.nonzero(near)  # row by row, columns ascending
    ends = np.concatenate([[0], near.sum(axis=1).cumsum()])
    np.testing.assert_array_equal(device.get(graph.indptr), ends)
    np.testing.assert_array_equal(device.get(graph.indices), columns)
    np.testing.assert_array_equal(device.get(graph.distances), dense[rows, columns])


def test_graph_keeps_pairs_at_the_bound(device: Device) -> None:
    # Seven equal rows of weight 1/7 share four columns: J = 1 - (4/7) / (2 - 4/7) = 0.6, exactly
    # at the default bound, which belongs to it.
    rows = [range(7), range(3, 10)]
    indices = np.concatenate([*rows, *([n] for n in range(2, 10))]).astype(np.int32)
    indptr = np.concatenate([[0, 7], np.arange(14, 23)]).astype(np.int64)
    encoding = mabm.Encoding.from_values(*map(device.put, (indptr, indices, np.ones(len(indices)))))
    graph = mabm.prune_distances(encoding, max_distance=0.6)
    assert graph.row(0).tolist() == [0, 1]
    assert device.get(graph.distances)[1] == np.float32(0.6)


def test_graph_keeps_pairs_that_round_to_the_bound(device: Device) -> None:
    # This overlap makes J a little more than float32(0.6) in float64, and float32(0.6) in float32.
    one, overlap = 2**30, 613_566_698
    assert 1 - overlap / (2 * one - overlap) > float(np.float32(0.6))
    indptr = np.array([0, 2, 4, 5, 6])
    indices = np.array([0, 2, 1, 2, 3, 3], dtype=np.int32)
    weights = np.array([one - overlap, overlap] * 2 + [one] * 2, dtype=np.int32)
    encoding = mabm.Encoding(*map(device.put, (indptr, indices, weights)))
    graph = mabm.prune_distances(encoding, max_distance=0.6)
    assert graph.row(0).tolist() == [0, 1]
    assert device.get(graph.distances)[1] == np.float32(0.6)


@given(cases())
def test_rows_sum_to_one_up_to_half_a_unit_for_each_entry(device: Device, case: Case) -> None:
    # So that sums of fewer than 2^31 entries, and with them all overlaps, are below 2^31.
    features, modality = device.inputs(case)
    options = {name: value for name, value in case.options.items() if name != "k2"}
    sets = mabm.k_reciprocal_neighbors(mabm.rank_neighbors(features, modality, **options))
    for encoding in (
        mabm.encode_neighbors(features, sets),
        mabm.encode_samples(features, modality, **case.options),
    ):
        indptr, weights = device.get(encoding.indptr), device.get(encoding.weights)
        sums = np.add.reduceat(weights.astype(np.int64), indptr[:-1])
        assert (sums - 2**30 <= np.diff(indptr) / 2).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_for_any_number_of_threads(threads: int) -> None:
    golden = GOLDEN[0]
    before = torch.get_num_threads()
    graphs = []
    try:
        for count in (before, threads):
            torch.set_num_threads(count)
            graphs.append(mabm.jaccard_graph(golden.features, golden.modality))
    finally:
        torch.set_num_threads(before)
    for field in ("indptr", "indices", "distances"):
        np.testing.assert_array_equal(getattr(graphs[0], field), getattr(graphs[1], field))


def test_rows_and_columns_of_the_dense_distance(device: Device) -> None:
    encoding = mabm.encode_samples(*device.inputs(GOLDEN[0]))
    whole = device.get(mabm.jaccard_distance(encoding))
    part = mabm.jaccard_distance(encoding, slice(5, 20), slice(100, None))
    np.testing.assert_array_equal(device.get(part), whole[5:20, 100:])
    assert mabm.jaccard_distance(encoding, slice(4, 2)).shape == (0, len(whole))
    with pytest.raises(ValueError, match=r"rows must be a slice of step 1, got slice"):
        mabm.jaccard_distance(encoding, slice(0, 10, 2))


def test_dense_distance_that_cannot_fit_is_refused_before_any_work(device: Device) -> None:
    features = device.put(torch.zeros(5_000_000, 1))  # N x N would be 91 TiB
    place = "" if device.torch.type == "cpu" else f" on {features.device}"
    with pytest.raises(
        MemoryError,
        match=rf"\(5000000, 5000000\) .*GiB are available{place}; use mabm\.jaccard_graph",
    ):
        mabm.modality_jaccard(features)


def test_the_dense_distance_is_weighed_against_what_is_left(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "available_bytes", lambda device: 4 * 30 * 30)
    assert mabm.modality_jaccard(device.put(torch.ones(30, 2))).shape == (30, 30)
    with pytest.raises(MemoryError, match=r"the dense \(31, 31\) distance needs .* GiB"):
        mabm.modality_jaccard(device.put(torch.ones(31, 2)))
    assert len(mabm.jaccard_graph(device.put(torch.ones(31, 2)))) == 31


def test_memory_that_the_system_does_not_tell_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_memory, "available_bytes", lambda device: None)
    assert mabm.modality_jaccard(torch.eye(3)).shape == (3, 3)
