"""Diagnostics against slow loops, with unknown identities, and at their ends."""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mabm.train.diagnostics import diagnose, diagnose_epoch, nearest_samples, neighbor_mix


def random_clusters(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = 40
    labels = rng.integers(-1, 6, count)
    labels[:6] = range(6)  # no gaps
    return labels, rng.choice([0, 3, 7], count), rng.integers(-1, 5, count)


@pytest.mark.parametrize("seed", range(8))
def test_diagnosis_equals_brute_force(seed: int) -> None:
    labels, modality, identity = random_clusters(seed)
    found = diagnose(labels, modality, identity=identity)
    assert (found.num_samples, found.num_clusters) == (40, 6)
    assert found.num_noise == sum(label == -1 for label in labels)
    spanning = [set(modality[labels == cluster]) == {0, 3, 7} for cluster in range(6)]
    assert found.num_spanning == sum(spanning)
    assert found.share_spanning == sum(spanning) / 6
    known = np.flatnonzero(identity >= 0)
    assert found.num_known == len(known)
    true = together = right = 0
    for i, j in itertools.combinations(known, 2):
        if modality[i] != modality[j]:
            true += identity[i] == identity[j]
            together += labels[i] == labels[j] >= 0
            right += identity[i] == identity[j] and labels[i] == labels[j] >= 0
    assert found.pair_precision == pytest.approx(right / together, abs=1e-15)
    assert found.pair_recall == pytest.approx(right / true, abs=1e-15)
    apart = np.where(labels < 0, 100 + np.arange(40), labels)[known]
    assert found.ari == pytest.approx(adjusted_rand_score(identity[known], apart), abs=1e-12)
    assert found.nmi == pytest.approx(
        normalized_mutual_info_score(identity[known], apart), abs=1e-12
    )
    assert found.modalities == (0, 3, 7)


def test_tensors_are_taken_as_arrays_are() -> None:
    labels, modality, identity = random_clusters(0)
    ranks = np.random.default_rng(0).permuted(np.tile(np.arange(40), (40, 1)), axis=1)
    arrays = diagnose(labels, modality, identity=identity, ranks=ranks)
    tensors = diagnose(
        torch.from_numpy(labels),
        torch.from_numpy(modality),
        identity=torch.from_numpy(identity),
        ranks=torch.from_numpy(ranks),
    )
    assert arrays.to_dict() == tensors.to_dict()


@pytest.mark.parametrize("unknown", [None, np.full(6, -1)])
def test_without_identities_only_what_is_seen(unknown: np.ndarray | None) -> None:
    labels, modality = np.array([0, 0, 1, 1, -1, 1]), np.array([0, 1, 0, 0, 1, 0])
    found = diagnose(labels, modality, identity=unknown)
    assert (found.num_clusters, found.num_noise, found.num_spanning) == (2, 1, 1)
    assert found.num_known == 0
    assert found.ari is found.nmi is found.pair_precision is found.pair_recall is None


def test_one_modality_has_no_pairs_across() -> None:
    labels = np.array([0, 0, 1, 1])
    found = diagnose(labels, np.ones(4, dtype=np.int64), identity=labels)
    assert found.ari == 1
    assert found.num_spanning is found.share_spanning is None
    assert found.pair_precision is found.pair_recall is None


def test_noise_alone() -> None:
    identity = np.array([0, 0, 1, 1])
    found = diagnose(np.full(4, -1), np.array([0, 1, 0, 1]), identity=identity)
    assert (found.num_clusters, found.num_noise, found.num_spanning) == (0, 4, 0)
    assert found.share_spanning is None
    assert found.pair_precision is None
    assert found.pair_recall == 0
    assert found.ari == 0


def test_no_samples() -> None:
    none = np.zeros(0, dtype=np.int64)
    found = diagnose(none, none, identity=none, ranks=np.zeros((0, 0), dtype=np.int64))
    assert (found.num_samples, found.num_clusters, found.modalities) == (0, 0, ())
    assert found.neighbor_mix is not None
    assert found.neighbor_mix.shape == (0, 0)


def test_dict_is_plain_json() -> None:
    labels, modality = np.array([0, 0, -1]), np.array([0, 1, 2])
    ranks = np.array([[0, 1], [1, 0], [2, -1]])
    values = diagnose(labels, modality, ranks=ranks).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["modalities"] == [0, 1, 2]
    assert values["neighbor_mix"] == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], None]


@pytest.mark.parametrize("num_neighbors", [1, 3, 50])
def test_mix_equals_brute_force(num_neighbors: int) -> None:
    rng = np.random.default_rng(1)
    modality = rng.choice([2, 5], 30)
    ranks = rng.permuted(np.tile(np.arange(30), (30, 1)), axis=1)[:, :12]
    ranks[4, 7:] = -1
    counts = {(a, b): 0 for a in (2, 5) for b in (2, 5)}
    for i, row in enumerate(ranks):
        for j in [j for j in row if j not in (i, -1)][:num_neighbors]:
            counts[modality[i], modality[j]] += 1
    mix = neighbor_mix(ranks, modality, num_neighbors=num_neighbors)
    for (a, b), near in counts.items():
        share = near / (counts[a, 2] + counts[a, 5])
        assert mix[(a == 5) * 1, (b == 5) * 1] == pytest.approx(share, abs=1e-15)


def test_mix_tells_a_gap_from_none() -> None:
    rng = np.random.default_rng(2)
    modality = np.arange(400) % 2
    blind = rng.normal(size=(400, 8)).astype(np.float32)
    mixed = neighbor_mix(nearest_samples(blind), modality)
    assert mixed == pytest.approx(np.full((2, 2), 0.5), abs=0.05)
    apart = blind + 20 * modality[:, None].astype(np.float32)
    assert neighbor_mix(nearest_samples(apart), modality).tolist() == [[1, 0], [0, 1]]


def test_nearest_samples_hold_the_asked_number_beside_themselves() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert torch.equal(
        nearest_samples(features, num_neighbors=2),
        torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]]),
    )
    few = nearest_samples(features.numpy(), num_neighbors=9)
    assert isinstance(few, np.ndarray)
    assert neighbor_mix(few, np.array([0, 0, 0, 1])).tolist() == [[6 / 9, 3 / 9], [1, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": np.zeros(3, np.int64)}, r"modality must be \(4,\), one per sample, got"),
        ({"modality": np.full(4, -1)}, "modality must not be negative, got -1"),
        ({"identity": np.zeros((4, 1), np.int64)}, r"identity must be \(4,\), one per sample, got"),
        ({"ranks": np.full((4, 2), 4)}, r"ranks must be in \[-1, 4\), got 4 to 4"),
        ({"ranks": np.zeros(4, np.int64)}, r"ranks must be \(N, K\) integers, got \(4,\)"),
        ({"ranks": np.zeros((3, 2), np.int64)}, r"modality must be \(3,\), one group per row"),
        ({"ranks": np.zeros((4, 2), np.int64), "num_neighbors": 0}, "num_neighbors must be at "),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"modality": np.zeros(4, np.int64), **options}
    with pytest.raises(ValueError, match=message):
        diagnose(np.zeros(4, np.int64), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", [1, 2])
def test_epoch_is_told_by_modality_and_in_all(stage: int) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    modality, identity = rng.integers(0, 2, 60), rng.integers(-1, 6, 60)
    alone, together = rng.integers(-1, 3, 60), rng.integers(-1, 4, 60)
    facts = diagnose_epoch(
        torch.from_numpy(features),
        torch.from_numpy(modality),
        alone=torch.from_numpy(alone),
        together=torch.from_numpy(together) if stage == 2 else None,
        identity=torch.from_numpy(identity),
        num_neighbors=5,
    )
    for number, name in enumerate(("visible", "infrared")):
        of = modality == number
        assert facts[name] == diagnose(alone[of], modality[of], identity=identity[of]).to_dict()
    beside = np.where(alone < 0, -1, alone + 3 * modality)
    expected = diagnose(
        beside if stage == 1 else together,
        modality,
        identity=identity,
        ranks=nearest_samples(features, num_neighbors=5),
        num_neighbors=5,
    )
    assert facts["all"] == expected.to_dict()
    assert list(facts) == ["visible", "infrared", "all"]
    assert (facts["all"]["num_spanning"] == 0) == (stage == 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_what_was_not_clustered_is_no_noise(stage: int) -> None:
    """As in an epoch that clusters half of the visible images alone, and the others together."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    modality, identity = np.repeat([0, 1], 30), np.arange(60) % 5
    chosen = (modality == 1) | (np.arange(60) % 2 == 0)
    others = (modality == 1) | ~chosen
    alone, together = np.where(chosen, identity, -1), np.where(others, identity, -1)
    facts = diagnose_epoch(
        features,
        modality,
        alone=alone,
        together=together if stage == 2 else None,
        identity=identity,
        chosen=chosen,
        others=torch.from_numpy(others),
    )
    assert [facts[name]["num_samples"] for name in facts] == [15, 30, 45]
    assert [facts[name]["num_noise"] for name in facts] == [0, 0, 0]
    assert facts["visible"]["ari"] == 1
    if stage == 2:
        assert facts["all"]["pair_recall"] == facts["all"]["pair_precision"] == 1
    for wrong in (chosen[:-1], chosen.astype(np.int64)):
        with pytest.raises(ValueError, match=r"chosen must be \(60,\) bool, got"):
            diagnose_epoch(features, modality, alone=alone, chosen=wrong)


def test_modalities_without_a_name_go_by_number() -> None:
    labels, modality = np.array([0, 0, -1, -1]), np.array([1, 1, 4, 4])
    names = {1: "thermal"}
    facts = diagnose_epoch(np.eye(4, dtype=np.float32), modality, alone=labels, names=names)
    assert {name: fact["num_clusters"] for name, fact in facts.items()} == {
        "thermal": 1,
        "modality 4": 0,
        "all": 1,
    }
