"""Clusters against identities: each measure against brute force or scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mabm.cluster_quality import (
    adjusted_rand_index,
    cross_modality_pairs,
    normalised_mutual_information,
)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 60))
    return (
        rng.integers(-1, 6, count),
        rng.integers(0, 5, count),
        rng.integers(0, 1 + seed % 3, count),
    )


@pytest.mark.parametrize("seed", range(12))
def test_pairs_equal_brute_force(seed: int) -> None:
    labels, identity, modality = random_case(seed)
    true = found = right = 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        if modality[i] != modality[j]:
            same = identity[i] == identity[j]
            together = labels[i] == labels[j] >= 0
            true += same
            found += together
            right += same and together
    quality = cross_modality_pairs(labels, identity, modality)
    assert (quality.num_true, quality.num_found, quality.num_right) == (true, found, right)
    if found:
        assert quality.precision == right / found
    else:
        assert math.isnan(quality.precision)
    if true:
        assert quality.recall == right / true
    else:
        assert math.isnan(quality.recall)


@pytest.mark.parametrize("seed", range(12))
def test_agreement_counts_noise_as_clusters_of_one(seed: int) -> None:
    labels, identity, _ = random_case(seed)
    singletons = np.where(labels < 0, 100 + np.arange(len(labels)), labels)
    assert adjusted_rand_index(labels, identity) == pytest.approx(
        adjusted_rand_score(identity, singletons), abs=1e-12
    )
    assert normalised_mutual_information(labels, identity) == pytest.approx(
        normalized_mutual_info_score(identity, singletons), abs=1e-12
    )


def test_agreement_at_its_ends() -> None:
    identity = np.array([0, 0, 1, 1])
    assert adjusted_rand_index(identity + 3, identity) == 1
    assert normalised_mutual_information(identity + 3, identity) == pytest.approx(1)
    alone = np.zeros(1, dtype=np.int64)
    assert adjusted_rand_index(alone, alone) == 1
    assert normalised_mutual_information(alone, alone) == 1
    noise = np.full(4, -1)
    assert adjusted_rand_index(noise, identity) == 0


def test_measures_refuse_mixed_shapes() -> None:
    with pytest.raises(ValueError, match=r"one shape \(N,\), got .*'identity': \(3,\)"):
        adjusted_rand_index(np.zeros(2, np.int64), np.zeros(3, np.int64))
