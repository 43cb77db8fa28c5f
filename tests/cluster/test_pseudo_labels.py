"""Pseudo-labels and what they tell of themselves."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, cases
from devices import Device
from golden_files import GOLDEN, Golden
from hypothesis import given

import mabm


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g.labels], ids=str)
def test_released_labels(device: Device, golden: Golden) -> None:
    for eps, labels in golden.labels.items():
        found = mabm.pseudo_labels(*device.inputs(golden), eps=eps, **golden.options)
        np.testing.assert_array_equal(device.get(found.labels), labels)


@given(cases())
def test_statistics_count_what_the_labels_say(device: Device, case: Case) -> None:
    found = mabm.pseudo_labels(*device.inputs(case), eps=0.7, min_samples=3, **case.options)
    labels = device.get(found.labels)
    np.testing.assert_array_equal(device.get(found.modality), case.modality)
    clusters = set(labels.tolist()) - {-1}
    assert clusters == set(range(found.num_clusters))
    assert found.num_noise == (labels == -1).sum()
    members = [labels == cluster for cluster in sorted(clusters)]
    groups = set(case.modality.tolist())
    assert found.num_spanning == sum(set(case.modality[m].tolist()) == groups for m in members)
    sizes = [int(m.sum()) for m in members]
    assert found.size_histogram == {size: sizes.count(size) for size in sorted(set(sizes))}


def test_without_a_modality_nothing_is_said_of_spanning(device: Device) -> None:
    features = device.put(torch.eye(3).repeat_interleave(4, dim=0))
    found = mabm.pseudo_labels(features, k1=4, k2=1)
    assert found.num_spanning is None
    assert repr(found) == "PseudoLabels(12 samples: 3 clusters, 0 noise)"


def test_naive_clustering_tells_which_clusters_span(device: Device) -> None:
    features = device.put(torch.eye(3).repeat_interleave(4, dim=0))
    modality = device.put(torch.tensor([0, 1, 0, 1] + [0] * 8))
    found = mabm.pseudo_labels(features, modality, k1=4, k2=1, preset="spcl")
    assert found.num_clusters == 3
    assert found.num_spanning == 1


def test_labels_by_hand_may_have_any_numbers(device: Device) -> None:
    great = 2**62
    labels = device.put(np.array([great, great, -1, 5, great + 7, 2**63 - 1, 2**63 - 1, 5]))
    modality = device.put(np.array([0, 1, 0, 1, 0, 0, 1, 1]))
    found = mabm.PseudoLabels(labels, modality)
    assert found.num_clusters == 4
    assert found.num_noise == 1
    assert found.num_spanning == 2
    assert found.size_histogram == {1: 1, 2: 3}
    assert repr(found) == "PseudoLabels(8 samples: 4 clusters, 2 spanning, 1 noise)"


@pytest.mark.parametrize("label", [-2, -(2**62), -(2**63)])
@pytest.mark.parametrize(
    "statistic", ["num_clusters", "num_noise", "num_spanning", "size_histogram"]
)
def test_labels_below_noise_are_refused(device: Device, label: int, statistic: str) -> None:
    labels = device.put(np.array([0, 0, label]))
    found = mabm.PseudoLabels(labels, device.put(np.array([0, 1, 0])))
    with pytest.raises(ValueError, match=f"^labels must be clusters >= 0 or -1 .* got {label}$"):
        getattr(found, statistic)


@pytest.mark.parametrize("core", [torch.ones(2, dtype=torch.bool), torch.ones(3)])
def test_core_must_fit_the_labels(device: Device, core: torch.Tensor) -> None:
    labels = device.put(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"core must be \(3,\) bool, one per sample, got"):
        mabm.PseudoLabels(labels, core=device.put(core))


def test_duplicates_are_one_cluster(device: Device) -> None:
    features = device.put(np.ones((40, 3), dtype=np.float32))
    found = mabm.pseudo_labels(features, device.put(np.arange(40) % 2), k1=80)
    assert found.labels.tolist() == [0] * 40


def test_same_labels_for_any_number_of_threads() -> None:
    golden = GOLDEN[0]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(mabm.pseudo_labels(golden.features, golden.modality).labels)
    finally:
        torch.set_num_threads(before)
    for labels in found:
        np.testing.assert_array_equal(labels, found[0])


@pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.uint8])
def test_labels_by_hand_of_any_integers_become_int64(dtype: type) -> None:
    found = mabm.PseudoLabels(np.array([0, 0, 2, 2], dtype), np.array([0, 1, 0, 0]))
    assert found.labels.dtype == np.int64
    assert repr(found) == "PseudoLabels(4 samples: 2 clusters, 1 spanning, 0 noise)"


@pytest.mark.parametrize("shape", [(), (6, 1), (2, 3)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_labels_by_hand_are_one_column(shape: tuple[int, ...], make: Callable[..., Any]) -> None:
    labels = make(shape, dtype=np.int64 if make is np.zeros else torch.int64)
    remedy = r"; use numpy.ravel\(labels\)$" if shape == (6, 1) else "$"
    message = rf"labels must be \(N,\), one per sample, got shape {re.escape(str(shape))}{remedy}"
    with pytest.raises(ValueError, match=message):
        mabm.PseudoLabels(labels)
