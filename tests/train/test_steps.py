"""The steps of an epoch against direct calls of what they are made of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mabm
from mabm.train import (
    ClusteringConfig,
    ContrastConfig,
    build_memory,
    cluster_modalities,
    cluster_together,
    contrast_across,
    contrast_within,
)
from mabm.train.clusters import Clusters
from mabm.train.steps import split_within

OPTIONS = ClusteringConfig(k1=12, k2=3, eps=0.6, min_samples=3, alone_k1=8, alone_k2=2)


def samples(seed: int = 0) -> tuple[Tensor, Tensor]:
    """160 features around 8 centers, with a gap between modalities, in no order."""
    rng = np.random.default_rng(seed)
    identity, modality = rng.integers(0, 8, 160), rng.integers(0, 2, 160)
    centers, gap = rng.normal(size=(8, 24)), rng.normal(size=(2, 24))
    features = centers[identity] + 0.3 * gap[modality] + 0.15 * rng.normal(size=(160, 24))
    return F.normalize(torch.from_numpy(features).float()), torch.from_numpy(modality)


# Clustering


def test_each_modality_is_clustered_alone() -> None:
    features, modality = samples()
    labels = cluster_modalities(features, modality, OPTIONS)
    for group in (0, 1):
        rows = modality == group
        expected = mabm.pseudo_labels(
            features[rows], preset="spcl", k1=8, k2=2, eps=0.6, min_samples=3
        )
        assert expected.num_clusters > 2
        assert labels[rows].equal(expected.labels)


@pytest.mark.parametrize("half_list", ["merged", "balanced"])
def test_together_by_the_modality_aware_distance(half_list: Any) -> None:
    features, modality = samples()
    options = replace(OPTIONS, half_list=half_list)
    labels = cluster_together(features, modality, torch.full((160,), -1), options)
    preset = replace(mabm.PRESETS["bmil"], half_list=half_list)
    expected = mabm.pseudo_labels(
        features, modality, preset=preset, k1=12, k2=3, eps=0.6, min_samples=3
    )
    assert expected.num_spanning > 2
    assert labels.equal(expected.labels)


@pytest.mark.parametrize("name", mabm.PRESETS)
def test_together_by_any_preset(name: str) -> None:
    features, modality = samples()
    lists = {"k1": 30, "k2": 6} if name == "ca_jaccard" else {"k1": 12, "k2": 3}
    options = replace(OPTIONS, preset=name, **lists)
    labels = cluster_together(features, modality, torch.full((160,), -1), options)
    expected = mabm.pseudo_labels(features, modality, preset=name, eps=0.6, min_samples=3, **lists)
    assert expected.num_clusters > 2
    assert labels.equal(expected.labels)


def test_cameras_are_told_apart_by_the_preset_that_compares_them() -> None:
    features, modality = samples()
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    features = F.normalize(features + 0.15 * noise)
    camera = modality * 2 + torch.arange(160) % 2  # two of either modality
    options = replace(OPTIONS, preset="ca_jaccard", k1=30, k2=6)
    alone = torch.full((160,), -1)
    labels = cluster_together(features, modality, alone, options, camera=camera)
    dbscan = {"eps": 0.6, "min_samples": 3}
    expected = mabm.pseudo_labels(features, camera, preset="ca_jaccard", **dbscan)
    assert expected.num_clusters > 2
    assert labels.equal(expected.labels)
    assert not labels.equal(cluster_together(features, modality, alone, options))
    # Numbers that both modalities share, as in LLCM, are two cameras each.
    shared = torch.arange(160) % 2
    assert labels.equal(cluster_together(features, modality, alone, options, camera=shared))
    for other in (OPTIONS, replace(options, association="naive")):
        without = cluster_together(features, modality, alone, other)
        assert without.equal(cluster_together(features, modality, alone, other, camera=camera))


@pytest.mark.parametrize("preset", ["bmil", "modal_invariant"])
def test_too_few_neighbors_for_the_modalities_that_occur(preset: str) -> None:
    features, _ = samples()
    options = ClusteringConfig(k1=2, k2=1, preset=preset)
    modality = torch.arange(160) % 3
    if preset == "bmil":
        with pytest.raises(ValueError, match="at least one for each of the 3 groups"):
            cluster_together(features, modality, modality, options)
    else:
        assert len(cluster_together(features, modality, modality, options)) == 160


@pytest.mark.parametrize(("k2", "rows"), [(3, 6), (7, 12)])
def test_together_blind_to_modality(k2: int, rows: int) -> None:
    features, modality = samples()
    options = replace(OPTIONS, association="naive", k2=k2)
    labels = cluster_together(features, modality, torch.full((160,), -1), options)
    # As many rows as the other takes of both modalities, and no more than there are.
    expected = mabm.pseudo_labels(features, preset="spcl", k1=12, k2=rows, eps=0.6, min_samples=3)
    assert labels.equal(expected.labels)
    assert not labels.equal(cluster_together(features, modality, labels, OPTIONS))


@pytest.mark.parametrize("method", ["hungarian", "sinkhorn"])
def test_together_by_matching(method: Any) -> None:
    features, modality = samples()
    alone = cluster_modalities(features, modality, OPTIONS)
    options = replace(OPTIONS, association=method)
    labels = cluster_together(features, modality, alone, options)
    expected = mabm.associate_clusters(features, alone, modality, method=method)
    assert labels.equal(expected.labels)
    assert (labels >= 0).equal(alone >= 0)


def test_together_not_at_all() -> None:
    features, modality = samples()
    alone = cluster_modalities(features, modality, OPTIONS)
    labels = cluster_together(features, modality, alone, replace(OPTIONS, association="off"))
    assert labels.tolist() == [-1] * 160


def test_published_options_by_default() -> None:
    features, modality = samples()
    alone = cluster_modalities(features, modality)
    assert alone.equal(cluster_modalities(features, modality, ClusteringConfig()))
    rows = modality == 1
    expected = mabm.pseudo_labels(features[rows], preset="spcl", k1=30, k2=6, eps=0.6)
    assert alone[rows].equal(expected.labels)
    together = cluster_together(features, modality, alone)
    assert together.equal(mabm.pseudo_labels(features, modality, k1=30, k2=6, eps=0.6).labels)


def test_only_what_is_chosen_takes_part() -> None:
    features, modality = samples()
    chosen = torch.arange(160) % 3 != 0
    alone = cluster_modalities(features, modality, OPTIONS, chosen=chosen)
    together = cluster_together(features, modality, alone, OPTIONS, chosen=chosen)
    few = features[chosen], modality[chosen]
    assert alone[chosen].equal(cluster_modalities(*few, OPTIONS))
    assert together[chosen].equal(cluster_together(*few, alone[chosen], OPTIONS))
    assert set(alone[~chosen].tolist()) == set(together[~chosen].tolist()) == {-1}
    nothing = torch.zeros(160, dtype=torch.bool)
    assert set(cluster_modalities(features, modality, OPTIONS, chosen=nothing).tolist()) == {-1}
    found = cluster_together(features, modality, alone, OPTIONS, chosen=nothing)
    assert set(found.tolist()) == {-1}


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("association", ["off", "naive", "hungarian", "sinkhorn", "modality-aware"])
def test_a_modality_with_few_samples(count: int, association: Any) -> None:
    features, modality = samples()
    rows = torch.cat([torch.nonzero(modality == g)[: (80, count)[g], 0] for g in (0, 1)])
    options = replace(OPTIONS, association=association)
    alone = cluster_modalities(features[rows], modality[rows], options)
    together = cluster_together(features[rows], modality[rows], alone, options)
    assert alone.shape == together.shape == rows.shape
    assert alone.dtype == together.dtype == torch.int64
    first = modality[rows] == 0
    assert alone[first].equal(
        cluster_modalities(features[rows][first], modality[rows][first], OPTIONS)
    )
    assert bool((together[first] >= 0).any()) == (association != "off")


def test_inputs_stay_as_they_are() -> None:
    features, modality = samples()
    before = features.clone(), modality.clone()
    alone = cluster_modalities(features, modality, OPTIONS)
    kept = alone.clone()
    for association in ("naive", "hungarian", "modality-aware"):
        cluster_together(features, modality, alone, replace(OPTIONS, association=association))
    build_memory(split_within(features, alone, modality, 0)).update(features[:2], alone[:2].abs())
    assert features.equal(before[0])
    assert modality.equal(before[1])
    assert alone.equal(kept)


# Contrast


def test_prototypes_within_a_modality() -> None:
    features, modality = samples()
    alone = cluster_modalities(features, modality, OPTIONS)
    for group in (0, 1):
        rows = modality == group
        split = split_within(features, alone, modality, group)
        expected = mabm.split_prototypes(features[rows], alone[rows])
        torch.testing.assert_close(split.prototypes, expected.prototypes)
        assert split.targets[rows].equal(expected.targets)
        assert set(split.targets[~rows].tolist()) == {-1}


KINDS = {"hybrid": mabm.HybridMemory, "mean": mabm.MeanMemory, "hard": mabm.HardMemory}


@pytest.fixture(params=list(KINDS))
def case(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    """Options, a memory of split prototypes after an update, a batch and its targets."""
    features, modality = samples()
    options = ContrastConfig(
        memory=request.param, temperature=0.1, margin=0.7, momentum=0.3, num_selected=5
    )
    labels = cluster_together(features, modality, modality, OPTIONS)
    split = mabm.split_prototypes(features, labels, modality)
    memory = build_memory(split, options)
    memory.update(features[:40], split.targets[:40])
    batch = features[80:120].clone().requires_grad_()
    return options, memory, batch, split.targets[80:120]


def test_memories_are_of_the_kind_asked_for(case: tuple[Any, ...]) -> None:
    options, memory, _, _ = case
    assert type(memory) is KINDS[options.memory]
    assert memory.momentum == 0.3
    assert isinstance(build_memory(memory_source()), mabm.HybridMemory)  # published


def memory_source() -> mabm.PrototypeSplit[Tensor]:
    features, modality = samples()
    return mabm.split_prototypes(
        features, cluster_modalities(features, modality, OPTIONS), modality
    )


def test_contrast_within_is_the_published_loss(case: tuple[Any, ...]) -> None:
    options, memory, batch, targets = case
    loss = contrast_within(batch, targets, memory, options)
    if options.memory == "hybrid":
        expected = mabm.hybrid_contrast_loss(
            batch, memory.prototypes, targets, temperature=0.1, margin=0.7
        )
    else:
        expected = mabm.cluster_contrast_loss(batch, memory.prototypes, targets, temperature=0.1)
    assert loss.equal(expected)
    assert not loss.equal(contrast_within(batch, targets, memory))


def test_contrast_across_is_the_published_loss(case: tuple[Any, ...]) -> None:
    options, memory, batch, targets = case
    loss = contrast_across(batch, targets, memory, options)
    expected = mabm.multi_positive_loss(
        batch, memory.prototypes, targets, memory.clusters, temperature=0.1, num_selected=5
    )
    assert loss.equal(expected)
    assert not loss.equal(contrast_across(batch, targets, memory))


@pytest.mark.parametrize("contrast", [contrast_within, contrast_across])
def test_contrast_moves_features_alone(contrast: Any, case: tuple[Any, ...]) -> None:
    options, memory, batch, targets = case
    before = memory.prototypes.clone()
    contrast(batch, targets, memory, options).backward()
    assert memory.prototypes.equal(before)
    assert not memory.prototypes.requires_grad
    moved = batch.grad.abs().sum(1) > 0
    assert moved.equal(targets >= 0)


@pytest.mark.parametrize("association", ["modality-aware", "hungarian", "off"])
def test_diagnostics_compare_the_features_that_global_clustering_compares(association: Any) -> None:
    features, modality = samples()
    others = torch.arange(160) % 5 > 0
    options = replace(OPTIONS, association=association, center_modalities=True)
    labels = torch.full((160,), -1)
    assert Clusters(labels, None).compared(features, modality, options).equal(features)
    expected = features.clone()
    if association == "modality-aware":
        expected[others] = mabm.center_modalities(features[others], modality[others])
    compared = Clusters(labels, labels, others=others).compared(features, modality, options)
    assert compared.equal(expected)


@pytest.mark.parametrize("association", ["modality-aware", "naive"])
def test_global_clustering_of_centered_features(association: Any) -> None:
    features, modality = samples()
    options = replace(OPTIONS, association=association, center_modalities=True)
    alone = torch.full((160,), -1)
    chosen = torch.arange(160) % 5 > 0
    labels = cluster_together(features, modality, alone, options, chosen=chosen)
    centered = mabm.center_modalities(features[chosen], modality[chosen])
    plain = replace(options, center_modalities=False)
    expected = cluster_together(centered, modality[chosen], alone[chosen], plain)
    assert expected.max() > 2
    assert labels[chosen].equal(expected)
    assert labels[~chosen].eq(-1).all()
    assert cluster_modalities(features, modality, options).equal(
        cluster_modalities(features, modality, plain)
    )
