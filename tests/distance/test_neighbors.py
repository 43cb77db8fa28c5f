"""Reciprocity and expansion against the reference, set by set."""

import numpy as np
import torch
from cases import Case, cases
from devices import Device
from hypothesis import given

import mabm
from mabm import reference


@given(cases())
def test_sets_are_the_reference_sets(device: Device, case: Case) -> None:
    ranking = mabm.rank_neighbors(*device.inputs(case), k1=case.k1, preset=case.preset)
    sets = mabm.k_reciprocal_neighbors(ranking)
    lists = reference.rank(case.features, case.modality, case.preset, case.k1)
    expected = reference.k_reciprocal_sets(case.features, lists, case.preset, case.k1)
    found = np.split(device.get(sets.indices), device.get(sets.indptr)[1:-1])
    assert [row.tolist() for row in found] == [sorted(own) for own in expected]


def test_takes_a_ranking_from_elsewhere(device: Device) -> None:
    # 0 and 1 hold each other, 2 holds 1 in vain, 3 holds nobody.
    ranks = torch.tensor([[0, 1], [1, 0], [1, 2], [-1, -1]])
    scores = torch.tensor([[1.0, 0.5]] * 3 + [[-torch.inf] * 2], dtype=torch.float64)
    spcl = mabm.PRESETS["spcl"]
    ranking = mabm.Ranking(device.put(ranks), device.put(scores), (2,), spcl, k1=2)
    sets = mabm.k_reciprocal_neighbors(ranking)
    assert [sets.row(i).tolist() for i in range(4)] == [[0, 1], [0, 1], [2], []]


def test_expansion_needs_strictly_more_than_two_thirds(device: Device) -> None:
    # R_half(1) = {1, 3, 4}: exactly two of the three are in R(0) = {0, 1, 3}, and in R(4) = {1, 4}.
    ranks = torch.tensor(
        [[0, 1, 3, -1], [1, 3, 4, 0], [2, -1, -1, -1], [3, 1, 0, -1], [4, 1, -1, -1]]
    )
    scores = torch.where(ranks >= 0, -torch.arange(4.0, dtype=torch.float64), -torch.inf)
    spcl = mabm.PRESETS["spcl"]
    ranking = mabm.Ranking(device.put(ranks), device.put(scores), (4,), spcl, k1=4)  # half list: 3
    sets = mabm.k_reciprocal_neighbors(ranking)
    assert sets.row(0).tolist() == [0, 1, 3]
    assert sets.row(4).tolist() == [1, 4]  # 3 would come in if two thirds were enough


def test_the_kind_of_array_is_kept(device: Device) -> None:
    features = np.eye(4, dtype=np.float32)
    assert isinstance(
        mabm.k_reciprocal_neighbors(mabm.rank_neighbors(features)).indices, np.ndarray
    )
    tensor = device.put(torch.eye(4))
    sets = mabm.k_reciprocal_neighbors(mabm.rank_neighbors(tensor))
    assert isinstance(sets.indices, torch.Tensor)
    assert sets.indices.device == tensor.device
