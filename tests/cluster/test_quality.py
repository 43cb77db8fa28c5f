"""Clusters against identities: each measure against brute force or scikit-learn."""

import itertools
import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mabm.cluster.quality import (
    PairQuality,
    adjusted_rand_index,
    cross_modality_pairs,
    evenly_chosen_clusters,
    normalized_mutual_information,
)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 60))
    return (
        rng.integers(-1, 6, count),
        rng.integers(0, 5, count),
        rng.integers(0, 1 + seed % 3, count),
    )


@pytest.mark.parametrize(
    ("quality", "f1"),
    [
        (PairQuality(num_true=10, num_found=5, num_right=4), 2 * 0.8 * 0.4 / (0.8 + 0.4)),
        (PairQuality(num_true=3, num_found=3, num_right=3), 1.0),
        (PairQuality(num_true=3, num_found=3, num_right=0), 0.0),
        (PairQuality(num_true=3, num_found=0, num_right=0), 0.0),
        (PairQuality(num_true=0, num_found=3, num_right=0), 0.0),
        (PairQuality(num_true=0, num_found=0, num_right=0), math.nan),
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(quality: PairQuality, f1: float) -> None:
    assert quality.f1 == pytest.approx(f1, nan_ok=True)


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


def check_against_scikit_learn(labels: np.ndarray, identity: np.ndarray) -> None:
    singletons = np.where(labels < 0, labels.max(initial=0) + 1 + np.arange(len(labels)), labels)
    with warnings.catch_warnings():  # scikit-learn 1.7 tells of more classes than half the samples
        warnings.simplefilter("ignore", UserWarning)
        ari = adjusted_rand_score(identity, singletons)
        nmi = normalized_mutual_info_score(identity, singletons)
    assert adjusted_rand_index(labels, identity) == pytest.approx(ari, abs=1e-12)
    assert normalized_mutual_information(labels, identity) == pytest.approx(nmi, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_agreement_counts_noise_as_clusters_of_one(seed: int) -> None:
    labels, identity, _ = random_case(seed)
    check_against_scikit_learn(labels, identity)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.9, 1.0])
def test_agreement_equals_scikit_learn_with_many_samples(noise: float) -> None:
    rng = np.random.default_rng(0)
    identity = rng.integers(0, 700, 20_000)
    labels = np.where(rng.random(20_000) < 0.8, identity, rng.integers(0, 700, 20_000))
    labels[rng.random(20_000) < noise] = -1
    check_against_scikit_learn(labels, identity)
    one_apart = np.zeros(20_000, dtype=np.int64)
    one_apart[0] = 1
    check_against_scikit_learn(labels, one_apart)
    check_against_scikit_learn(one_apart, one_apart[::-1])


def test_agreement_warns_of_nothing() -> None:
    # Of these, scikit-learn 1.7 warns: more than half the samples are clusters of their own.
    labels = np.array([-1] * 30 + [0] * 10)
    identity = np.arange(40) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < adjusted_rand_index(labels, identity) < 1
        assert 0 < normalized_mutual_information(labels, identity) < 1


def test_agreement_at_its_ends() -> None:
    identity = np.array([0, 0, 1, 1])
    assert adjusted_rand_index(identity + 3, identity) == 1
    assert normalized_mutual_information(identity + 3, identity) == pytest.approx(1)
    alone = np.zeros(1, dtype=np.int64)
    assert adjusted_rand_index(alone, alone) == 1
    assert normalized_mutual_information(alone, alone) == 1
    noise = np.full(4, -1)
    assert adjusted_rand_index(noise, identity) == 0


def test_labels_may_have_any_numbers() -> None:
    great = 2**63 - 1
    labels = np.array([great, great, 2**62, 2**62, -1, -1])
    identity = labels[::-1].copy()
    modality = np.array([0, 1, 0, 1, 0, 1])
    few, few_identity = np.array([1, 1, 0, 0, -1, -1]), np.array([-1, -1, 0, 0, 1, 1])
    for measure in (adjusted_rand_index, normalized_mutual_information):
        assert measure(labels, identity) == measure(few, few_identity)
    assert cross_modality_pairs(labels, identity, modality).num_found == 2
    assert evenly_chosen_clusters(labels, modality, identity).tolist() == [2**62, great]


def test_measures_refuse_mixed_shapes() -> None:
    with pytest.raises(ValueError, match=r"one shape \(N,\), got .*'identity': \(3,\)"):
        adjusted_rand_index(np.zeros(2, np.int64), np.zeros(3, np.int64))


def test_sheet_runs_from_the_purest_cluster_to_the_least_pure() -> None:
    # Cluster 0: one modality. 1: half pure. 2: pure, small. 3: pure, large. 4: three quarters.
    labels = np.repeat([0, 1, 2, 3, 4, -1], [4, 4, 2, 4, 4, 3])
    identity = np.array([0] * 4 + [1, 1, 2, 2] + [3] * 2 + [4] * 4 + [5, 5, 5, 6] + [7] * 3)
    modality = np.array([0] * 4 + [0, 1] * 8 + [0])
    assert evenly_chosen_clusters(labels, modality, identity).tolist() == [3, 2, 4, 1]
    many = np.repeat(np.arange(31), 2)
    shown = evenly_chosen_clusters(many, np.tile([0, 1], 31), many)
    assert shown.tolist() == [0, 3, 7, 10, 13, 17, 20, 23, 27, 30]


def test_sheet_without_identities_runs_from_the_largest_cluster() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [2, 5, 3, 5, 9])
    modality = np.arange(24) % 2
    modality[labels == 0] = 1
    assert evenly_chosen_clusters(labels, modality).tolist() == [1, 3, 2]
    assert evenly_chosen_clusters(labels, modality, spanning=False).tolist() == [1, 3, 2, 0]
    assert evenly_chosen_clusters(labels, modality, spanning=False, count=2).tolist() == [1, 0]
    assert evenly_chosen_clusters(np.full(24, -1), modality).tolist() == []


def test_unknown_identities_do_not_count_for_purity() -> None:
    labels = np.repeat([0, 1, 2], [3, 4, 2])
    identity = np.array([5, 6, -1, 7, 7, -1, -1, -1, -1])
    modality = np.arange(9) % 2
    assert evenly_chosen_clusters(labels, modality, identity).tolist() == [1, 0, 2]
