"""New samples put into clusters: the cluster of the nearest core sample by the joint distance."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, cases, make_features
from devices import Device
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import mabm

EPS, MIN_SAMPLES = 0.7, 3


def nearest_core(
    distance: NDArray[np.float32], labels: NDArray[Any], core: NDArray[Any], eps: float
) -> list[int]:
    """The definition: by the dense distance among clustered and new samples, in this order."""
    predicted = []
    for new in range(len(labels), len(distance)):
        best, label = np.float32(np.inf), -1
        for row in range(len(labels)):
            near = distance[new, row]
            if core[row] and labels[row] >= 0 and near <= np.float32(eps) and near < best:
                best, label = near, int(labels[row])
        predicted.append(label)
    return predicted


@given(cases(), st.floats(0, 1), st.sampled_from([0.3, EPS]))
def test_labels_are_those_of_the_nearest_core_sample(
    device: Device, case: Case, share: float, eps: float
) -> None:
    # Every group is among the clustered samples, so that k1 suits these too.
    first = np.unique(case.modality, return_index=True)[1]
    count = max(int(share * len(case.features)), 1)
    order = np.concatenate([first, np.setdiff1d(np.arange(len(case.features)), first)])
    features, modality = case.features[order], case.modality[order]
    count = max(count, len(first))
    old, old_modality = device.put(features[:count]), device.put(modality[:count])
    options = case.options
    found = mabm.pseudo_labels(old, old_modality, eps=eps, min_samples=MIN_SAMPLES, **options)
    predicted = mabm.predict_labels(
        device.put(features[count:]),
        device.put(modality[count:]),
        old,
        found,
        eps=eps,
        **options,
    )
    dense = mabm.modality_jaccard(features, modality, **options)
    labels, core = device.get(found.labels), device.get(found.core)
    assert device.get(predicted).tolist() == nearest_core(dense, labels, core, eps)
    assert device.get(predicted).dtype == np.int64


@given(cases(), st.sampled_from([0.3, 0.9]), st.integers(0, 2**32 - 1))
def test_labels_by_hand_tell_which_core_sample_it_was(
    device: Device, case: Case, eps: float, seed: int
) -> None:
    # Every core sample has a label of its own, so that no other one gives the same answer.
    rng = np.random.default_rng(seed)
    count = max(len(case.features) // 2, 1)
    labels, core = rng.permutation(count), rng.random(count) < 0.7
    old, new = device.put(case.features[:count]), device.put(case.features[count:])
    found = mabm.PseudoLabels(
        device.put(labels), device.put(case.modality[:count]), core=device.put(core)
    )
    modality = device.put(case.modality[count:])
    predicted = mabm.predict_labels(new, modality, old, found, eps=eps, **case.options)
    dense = mabm.modality_jaccard(case.features, case.modality, **case.options)
    assert device.get(predicted).tolist() == nearest_core(dense, labels, core, eps)


@given(cases(), st.integers(1, 6))
def test_core_samples_are_those_with_enough_neighbors(
    device: Device, case: Case, min_samples: int
) -> None:
    found = mabm.pseudo_labels(
        *device.inputs(case), eps=EPS, min_samples=min_samples, **case.options
    )
    dense = mabm.modality_jaccard(case.features, case.modality, **case.options)
    expected = (dense <= np.float32(EPS)).sum(axis=1) >= min_samples
    np.testing.assert_array_equal(device.get(found.core), expected)


def people(count: int, views: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """People seen by two kinds of cameras with a gap between: features, modality, who it is."""
    draw = torch.Generator().manual_seed(seed)
    person = torch.arange(count).repeat(views)
    modality = torch.randint(2, person.shape, generator=draw)
    centers = torch.randn(count, 128, generator=draw)
    gap = torch.randn(2, 128, generator=draw)
    noise = torch.randn(len(person), 128, generator=draw)
    features = centers[person] + 0.5 * gap[modality] + 0.5 * noise
    return torch.nn.functional.normalize(features, dim=1), modality, person


def test_held_out_samples_get_the_cluster_of_their_person(device: Device) -> None:
    features, modality, person = people(40, 25)
    held = torch.arange(len(person)) >= 40 * 20
    options = {"eps": 0.6, "k1": 20, "k2": 4}
    old, old_modality = device.put(features[~held]), device.put(modality[~held])
    found = mabm.pseudo_labels(old, old_modality, **options)
    new, new_modality = device.put(features[held]), device.put(modality[held])
    predicted = mabm.predict_labels(new, new_modality, old, found, **options)
    assert found.num_clusters == 40
    cluster_of_person = torch.stack(
        [found.labels.cpu()[person[~held] == who].mode().values for who in range(40)]
    )
    right = predicted.cpu() == cluster_of_person[person[held]]
    assert right.double().mean() > 0.95


def test_strangers_are_noise() -> None:
    features, modality, _ = people(12, 20)
    options = {"eps": 0.4, "k1": 20, "k2": 4}
    found = mabm.pseudo_labels(features, modality, **options)
    strangers, their_modality, _ = people(30, 10, seed=1)
    predicted = mabm.predict_labels(strangers, their_modality, features, found, **options)
    assert (predicted == -1).all()


def squares(device: Device) -> tuple[Any, Any]:
    """Three clusters of 8 duplicates, modalities in turn; the last cluster is noise by hand."""
    features = device.put(torch.eye(4)[:3].repeat_interleave(8, dim=0))
    return features, device.put(torch.arange(24) % 2)


OPTIONS: dict[str, Any] = {"k1": 8, "k2": 2}


def test_one_modality_alone_may_be_new(device: Device) -> None:
    features, modality = squares(device)
    found = mabm.pseudo_labels(features, modality, **OPTIONS)
    predicted = mabm.predict_labels(
        features[[20, 0]], device.put(torch.ones(2, dtype=torch.int64)), features, found, **OPTIONS
    )
    assert predicted.tolist() == [2, 0]


def test_without_a_modality_a_column_of_labels_will_do(device: Device) -> None:
    features, _ = squares(device)
    labels = device.put(torch.tensor([7] * 8 + [3] * 8 + [-1] * 8))
    for found in (labels, mabm.PseudoLabels(labels)):
        predicted = mabm.predict_labels(features[[0, 8, 16]], None, features, found, **OPTIONS)
        assert predicted.tolist() == [7, 3, -1]


def test_only_core_samples_hand_on_their_label(device: Device) -> None:
    features, modality = squares(device)
    found = mabm.pseudo_labels(features, modality, **OPTIONS)
    core = device.put(torch.arange(24) < 16)
    predicted = mabm.predict_labels(
        features[[0, 20]], modality[[0, 20]], features, replace(found, core=core), **OPTIONS
    )
    assert predicted.tolist() == [0, -1]


def test_ties_go_to_the_lower_row(device: Device) -> None:
    features = device.put(torch.ones(12, 2))
    for labels in ([4] * 6 + [1] * 6, [1] * 6 + [4] * 6):
        found = device.put(torch.tensor(labels))
        predicted = mabm.predict_labels(features[:1], None, features, found, k1=20, k2=1)
        assert predicted.tolist() == [labels[0]]


def test_nothing_new_and_nothing_found(device: Device) -> None:
    features, modality = squares(device)
    found = mabm.pseudo_labels(features, modality, **OPTIONS)
    none = mabm.predict_labels(features[:0], modality[:0], features, found, **OPTIONS)
    assert none.dtype == torch.int64
    assert none.tolist() == []
    assert none.device == features.device
    noise = replace(found, labels=torch.full_like(found.labels, -1))
    predicted = mabm.predict_labels(features[:3], modality[:3], features, noise, **OPTIONS)
    assert predicted.tolist() == [-1] * 3
    empty = mabm.pseudo_labels(features[:0], modality[:0])
    predicted = mabm.predict_labels(features[:3], modality[:3], features[:0], empty)
    assert predicted.tolist() == [-1] * 3


def test_the_kind_is_that_of_the_new_features() -> None:
    features = make_features("clustered", np.arange(60) % 2, 0)
    modality = np.arange(60) % 2
    found = mabm.pseudo_labels(features, modality, k1=10, k2=2)
    array = mabm.predict_labels(features[:9], modality[:9], features, found, k1=10, k2=2)
    tensor = mabm.predict_labels(
        torch.from_numpy(features[:9]), modality[:9], features, found, k1=10, k2=2
    )
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == array.tolist()


def test_modalities_by_name(device: Device) -> None:
    features, modality = squares(device)
    names = ["infrared", "visible"]
    words = [names[group] for group in modality.tolist()]
    found = mabm.pseudo_labels(features, words, **OPTIONS)
    expected = mabm.predict_labels(features[16:], modality[16:], features, found, **OPTIONS)
    for column in (words[16:], np.array(words[16:]), modality[16:].tolist()):
        predicted = mabm.predict_labels(features[16:], column, features, found, **OPTIONS)
        assert predicted.tolist() == expected.tolist() == [2] * 8
    # By the names of the clustered samples, whatever else there is among the new ones.
    one = mabm.predict_labels(features[17:18], ["visible"], features, found, **OPTIONS)
    same = mabm.predict_labels(features[17:18], [1], features, found, **OPTIONS)
    assert one.tolist() == same.tolist() == [2]
    with pytest.raises(ValueError, match=r"new_modality must be one of \('infrared', 'visible'\)"):
        mabm.predict_labels(features[:1], ["thermal"], features, found, **OPTIONS)
    with pytest.raises(TypeError, match=r"new_modality must contain words as found\.modality does"):
        mabm.predict_labels(features[:1], [True], features, found, **OPTIONS)
    numbered = mabm.pseudo_labels(features, modality, **OPTIONS)
    with pytest.raises(
        TypeError, match=r"new_modality must contain integers as found\.modality does"
    ):
        mabm.predict_labels(features[:1], ["visible"], features, numbered, **OPTIONS)


def test_names_count_rather_than_their_order_among_the_new_samples() -> None:
    # With one name alone among the new samples, numbering these anew would take it for the other.
    modality = np.arange(200) % 2
    features = make_features("gaussian", modality, 1)
    words = np.array(["infrared", "visible"])[modality]
    old = features[:120]
    new = 121 + 2 * np.arange(40)
    options = {"eps": 0.8, "k1": 8, "k2": 2}
    found = mabm.pseudo_labels(old, words[:120], min_samples=3, **options)
    by_number = mabm.predict_labels(features[new], modality[new], old, found, **options)
    by_name = mabm.predict_labels(features[new], words[new], old, found, **options)
    np.testing.assert_array_equal(by_name, by_number)
    swapped = mabm.predict_labels(features[new], 1 - modality[new], old, found, **options)
    assert (by_name != swapped).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"new_features": torch.ones(2, 5)}, "new_features must have 4 columns, .* got 5"),
        ({"new_features": torch.ones(4)}, r"new_features must be \(N, D\), got shape \(4,\)"),
        ({"new_modality": None}, "new_modality must be given, as found has a modality; got None"),
        ({"new_modality": torch.zeros(3, dtype=torch.int64)}, r"new_modality must be \(2,\)"),
        ({"new_modality": torch.tensor([0, -1])}, "new_modality must not be negative, got -1"),
        (
            {"found": torch.zeros(24, dtype=torch.int64)},
            r"new_modality must be None, .* pass PseudoLabels\(labels, modality\) as found",
        ),
        (
            {"found": torch.zeros(23, dtype=torch.int64), "new_modality": None},
            r"found must be \(24,\), one label per row of features",
        ),
        (
            {"found": torch.full((24,), -2), "new_modality": None},
            "found must contain clusters >= 0 or -1 for noise, got -2",
        ),
        ({"eps": 1.0}, r"eps must be in \[0, 1\), got 1.0"),
        ({"k1": 1}, r"k1 must be in \[2, 1024\], at least one for each of the 2 groups"),
    ],
)
def test_what_is_refused(device: Device, changed: dict[str, Any], message: str) -> None:
    features, modality = squares(device)
    changed = {name: device.put(value) if torch.is_tensor(value) else value
               for name, value in changed.items()}  # fmt: skip
    found = mabm.pseudo_labels(features, modality, **OPTIONS)
    arguments = {
        "new_features": features[:2],
        "new_modality": modality[:2],
        "features": features,
        "found": found,
        **OPTIONS,
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        mabm.predict_labels(**arguments)
