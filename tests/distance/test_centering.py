"""Centering by modality, against its definition in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from devices import Device

import mabm
from mabm.distance.centering import Joining, center_share


def make_samples(count: int = 700, dim: int = 33, groups: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    modality = rng.integers(0, groups, count)
    offsets = rng.normal(size=(groups, dim))
    scale = rng.uniform(0.1, 3, (count, 1))
    return (offsets[modality] + scale * rng.normal(size=(count, dim))).astype(np.float32), modality


def by_definition(features: np.ndarray, modality: np.ndarray) -> np.ndarray:
    rows = features.astype(np.float64)
    for group in np.unique(modality):
        rows[modality == group] -= rows[modality == group].mean(axis=0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_it_is_its_definition(device: Device, scale: float) -> None:
    features, modality = make_samples()
    found = mabm.center_modalities(
        device.put(features * np.float32(scale)), device.put(modality * 5)
    )
    assert str(found.dtype).endswith("float32")
    expected = by_definition(features * np.float32(scale), modality)
    np.testing.assert_allclose(device.get(found), expected, rtol=0, atol=1e-6)


def test_bits_depend_neither_on_the_order_of_rows_nor_on_threads() -> None:
    features, modality = make_samples()
    expected = mabm.center_modalities(features, modality)
    order = np.random.default_rng(0).permutation(len(features))
    shuffled = mabm.center_modalities(features[order], modality[order])
    np.testing.assert_array_equal(shuffled, expected[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads == 1 else 1)
        np.testing.assert_array_equal(mabm.center_modalities(features, modality), expected)
    finally:
        torch.set_num_threads(threads)


def test_the_same_bits_on_a_gpu(gpu: Device) -> None:
    features, modality = make_samples(5000, 300)
    found = mabm.center_modalities(gpu.put(features), gpu.put(modality))
    np.testing.assert_array_equal(gpu.get(found), mabm.center_modalities(features, modality))


def test_the_default_type_of_numbers_changes_nothing() -> None:
    features, modality = make_samples()
    expected = mabm.center_modalities(features * 1e6, modality)
    try:
        torch.set_default_dtype(torch.float16)
        found = mabm.center_modalities(features * 1e6, modality)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)


def test_a_constant_gap_is_removed() -> None:
    features, modality = make_samples()
    moved = features.copy()
    moved[modality == 2] += 4.0
    np.testing.assert_allclose(
        mabm.center_modalities(moved, modality),
        mabm.center_modalities(features, modality),
        atol=1e-5,
    )


def test_rows_at_their_mean_become_zeros() -> None:
    features = np.array([[0.1, 0.7], [0.3, 0.3], [0.3, 0.3], [0.2, 0.1]], dtype=np.float32)
    found = mabm.center_modalities(features, [0, 1, 1, 2])
    assert not found.any()
    equal = np.full((3, 2), 0.1, dtype=np.float32)  # their mean is rounded
    assert not mabm.center_modalities(equal, [0, 0, 0]).any()
    assert mabm.center_modalities(features[:0], np.zeros(0, int)).shape == (0, 2)
    assert not mabm.center_modalities(np.zeros((4, 2)), [0, 0, 1, 1]).any()


@pytest.mark.parametrize("words", [["ir", "rgb"], [False, True], [7, 11]])
def test_a_modality_in_any_form(words: list[Any]) -> None:
    features, modality = make_samples(groups=2)
    expected = mabm.center_modalities(features, modality)
    named = [words[number] for number in modality]
    np.testing.assert_array_equal(mabm.center_modalities(features, named), expected)


def test_inputs_are_left_alone_and_no_gradient_follows() -> None:
    features, modality = make_samples()
    kept = features.copy()
    tensor = torch.from_numpy(features).requires_grad_()
    found = mabm.center_modalities(tensor, modality)
    assert not found.requires_grad
    np.testing.assert_array_equal(features, kept)


def test_a_modality_is_needed() -> None:
    with pytest.raises(TypeError, match=r"modality must be a tensor, an array, .* got NoneType"):
        mabm.center_modalities(np.ones((3, 2)), None)


@pytest.mark.parametrize("cuts", [[0, 700], [0, 1, 1, 650, 700]])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
def test_shares_of_rows_are_centered_to_the_same_bits(cuts: list[int], scale: float) -> None:
    """Each share is told what the shares before and after it have, as processes tell each other."""
    features, modality = make_samples()
    x, groups = torch.from_numpy(features * np.float32(scale)), torch.from_numpy(modality)
    counts = torch.bincount(groups)
    parts = [slice(*each) for each in itertools.pairwise(cuts)]
    given: dict[str, list[torch.Tensor]] = {"max": [], "sum": []}
    for asked in ("max", "sum"):  # what each share gives, the greatest number of all being known

        def tell(values: torch.Tensor, how: Joining, asked: str = asked) -> torch.Tensor:
            if how == asked:
                given[asked].append(values)
            return torch.stack(given["max"]).amax() if how == "max" and asked == "sum" else values

        for part in parts:
            center_share(x[part], groups[part], counts, tell)

    def join(values: torch.Tensor, how: Joining) -> torch.Tensor:
        shares = torch.stack(given[how])
        return shares.amax(dim=0) if how == "max" else shares.sum(dim=0)

    found = [center_share(x[part], groups[part], counts, join) for part in parts]
    assert torch.cat(found).equal(mabm.center_modalities(x, groups))
