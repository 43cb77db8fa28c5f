"""The start of an epoch: clusters and memories, and where there is little to learn from."""

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from extras import needs_training
from torch import Tensor

import mabm
from mabm.data import INFRARED, VISIBLE
from mabm.train import (
    BatchConfig,
    Config,
    TrainingError,
    cluster_modalities,
    cluster_together,
    load_config,
)
from mabm.train.clusters import Clusters
from mabm.train.epoch import EpochState, begin_epoch, cluster_epoch
from mabm.train.position import Position

pytestmark = needs_training

STAGE1, STAGE2 = Position(1, 4), Position(2, 4)


def config_with(*overrides: str) -> Config:
    small = ("clustering.k1=12", "clustering.k2=2", "clustering.min_samples=3")
    return load_config("sysu_mm01", [*small, *overrides])


def samples() -> tuple[Tensor, Tensor]:
    """200 features around 8 centers, with a gap between modalities, in no order."""
    generator = torch.Generator().manual_seed(0)
    identity = torch.randint(0, 8, (200,), generator=generator)
    modality = torch.randint(0, 2, (200,), generator=generator)
    centers, gap = torch.randn(8, 24, generator=generator), torch.randn(2, 24, generator=generator)
    noise = torch.randn(200, 24, generator=generator)
    return F.normalize(centers[identity] + 0.3 * gap[modality] + 0.15 * noise), modality


def labels_of(**sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Labels and modality: ``visible=[3, 2]`` is a cluster of 3 and one of 2, and 4 of noise."""
    labels, modality = [], []
    for group, name in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        own = [number for number, size in enumerate(sizes.get(name, [])) for _ in range(size)]
        labels += [*own, *[-1] * 4]
        modality += [group] * (len(own) + 4)
    return torch.tensor(labels), torch.tensor(modality)


def begin(
    together: Callable[[Tensor, Tensor], Tensor] | None = None,
    config: Config | None = None,
    **sizes: list[int],
) -> EpochState:
    alone, modality = labels_of(**sizes)
    features = torch.randn(len(alone), 8, generator=torch.Generator().manual_seed(1))
    shared = None if together is None else together(alone, modality)
    config = config or Config(batch=BatchConfig(identities=2))
    return begin_epoch(features, modality, Clusters(alone, shared), config, 2)


# Clusters


def test_cameras_reach_the_preset_that_compares_them() -> None:
    features, modality = samples()
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    features = F.normalize(features + 0.2 * noise)  # so that clusters are less clear
    camera = modality * 2 + torch.arange(200) % 2
    words = ("clustering.preset=ca_jaccard", "clustering.k1=30", "clustering.k2=6")
    config = config_with(*words)
    found = cluster_epoch(features, modality, config, STAGE2, camera=camera).together
    expected = mabm.pseudo_labels(features, camera, preset="ca_jaccard", min_samples=3).labels
    assert found is not None
    assert found.equal(expected)
    without = cluster_epoch(features, modality, config, STAGE2).together
    assert without is not None
    assert not found.equal(without)


@pytest.mark.parametrize("position", [STAGE1, STAGE2])
def test_clusters_are_those_of_the_steps(position: Position) -> None:
    features, modality = samples()
    config = config_with()
    found = cluster_epoch(features, modality, config, position)
    alone = cluster_modalities(features, modality, config.clustering)
    assert found.alone.equal(alone)
    if position.stage == 1:
        assert found.together is None
    else:
        assert found.together is not None
        assert found.together.equal(cluster_together(features, modality, alone, config.clustering))
        assert found.together.max() > 2


def test_presets_that_tell_cameras_apart_are_told_them() -> None:
    features = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)))
    modality = torch.arange(200) % 2
    camera = 2 * modality + torch.arange(200) // 100
    config = load_config("sysu_mm01", ["clustering.preset=ca_jaccard", "clustering.eps=0.45"])
    clusters = cluster_epoch(features, modality, config, STAGE2, camera=camera)
    options = config.clustering
    expected = cluster_together(features, modality, clusters.alone, options, camera=camera)
    assert clusters.together is not None
    assert clusters.together.equal(expected)
    assert not expected.equal(cluster_together(features, modality, clusters.alone, options))


def test_stage_2_without_association_has_no_global_clusters() -> None:
    config = config_with("clustering.association=off")
    assert cluster_epoch(*samples(), config, STAGE2).together is None


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.01])
def test_subsets_are_disjoint_as_published(ratio: float) -> None:
    features, modality = samples()
    config = config_with(f"clustering.subset_ratio={ratio}", "clustering.min_samples=1")
    found = cluster_epoch(features, modality, config, STAGE2)
    assert found.together is not None
    # With one sample as a core nothing is noise but what was not chosen.
    alone, together = found.alone >= 0, found.together >= 0
    visible = modality == VISIBLE
    assert alone.logical_xor(together).equal(visible)
    assert int((alone & visible).sum()) == max(round(ratio * int(visible.sum())), 1)
    # Clustered among themselves, as if there were no others.
    expected = cluster_modalities(features[alone], modality[alone], config.clustering)
    assert found.alone[alone].equal(expected)
    few = features[together], modality[together]
    assert found.together[together].equal(cluster_together(*few, few[1], config.clustering))


def test_subsets_are_drawn_anew_in_each_epoch_and_stage() -> None:
    features, modality = samples()
    config = config_with("clustering.subset_ratio=0.5", "clustering.min_samples=1")

    def chosen(seed: int, stage: int, epoch: int) -> tuple[bool, ...]:
        seeded = replace(config, run=replace(config.run, seed=seed))
        clusters = cluster_epoch(features, modality, seeded, Position(stage, epoch))
        return tuple((clusters.alone >= 0).tolist())

    places = [(0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 2, 0), (0, 2, 1), (1, 1, 0)]
    assert len({chosen(*place) for place in places}) == len(places)
    torch.manual_seed(5)
    assert chosen(0, 1, 0) == chosen(0, 1, 0)
    # Each visible image has its turn: a half is left out 20 times once in a million.
    seen = torch.tensor([chosen(0, 1, epoch) for epoch in range(20)])
    assert bool(seen.any(0).all())
    assert not bool(seen[:, modality == VISIBLE].all(0).any())


# Memories


def test_memories_start_from_the_prototypes() -> None:
    features, modality = samples()
    config = config_with()
    clusters = cluster_epoch(features, modality, config, STAGE2)
    state = begin_epoch(features, modality, clusters, config, 2)
    assert clusters.together is not None
    assert list(state.memories) == ["visible", "infrared", "global"]
    assert (state.warnings, state.sums, state.num_steps, state.num_skipped) == ([], {}, {}, 0)
    split = mabm.split_prototypes(features, clusters.together, modality)
    bank = state.memories["global"]
    assert bank.memory.prototypes.equal(split.prototypes.expand(2, -1, -1))
    assert bank.memory.clusters.equal(split.clusters)
    assert bank.targets.equal(split.targets)
    assert state.num_clusters["global"] == int(clusters.together.max()) + 1 < len(split)
    for group, name in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        own = torch.where(modality == group, clusters.alone, -1)
        assert state.memories[name].targets.equal(own)
        assert state.num_clusters[name] == int(own.max()) + 1
        for cluster in range(state.num_clusters[name]):
            mean = F.normalize(features[own == cluster].mean(0), dim=0)
            prototype = state.memories[name].memory.prototypes[:, cluster]
            torch.testing.assert_close(prototype, mean.expand(2, -1))


def test_one_prototype_a_cluster_where_it_is_not_split() -> None:
    features, modality = samples()
    config = config_with("contrast.split=false", "contrast.memory=hard")
    clusters = cluster_epoch(features, modality, config, STAGE2)
    bank = begin_epoch(features, modality, clusters, config, 2).memories["global"]
    assert isinstance(bank.memory, mabm.HardMemory)
    assert clusters.together is not None
    assert bank.targets.equal(clusters.together)


def test_stage_1_has_no_global_memory() -> None:
    state = begin(visible=[4, 3], infrared=[2, 2, 2])
    assert list(state.memories) == ["visible", "infrared"]
    assert state.num_clusters == {"visible": 2, "infrared": 3}
    assert state.warnings == []


# Guards


@pytest.mark.parametrize("sizes", [[], [5]])
def test_a_modality_with_too_few_clusters_is_left_out(
    sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mabm"):
        state = begin(visible=[4, 3], infrared=sizes)
    assert list(state.memories) == ["visible"]
    assert state.num_clusters == {"visible": 2, "infrared": len(sizes)}
    assert state.warnings == [f"infrared: {len(sizes)} clusters, no contrast within this modality"]
    assert state.warnings[0] in caplog.text
    assert list(begin(visible=sizes, infrared=[4, 3]).memories) == ["infrared"]


@pytest.mark.parametrize(("visible", "infrared"), [([], []), ([9], []), ([9], [9])])
def test_nothing_to_learn_from(visible: list[int], infrared: list[int]) -> None:
    with pytest.raises(TrainingError, match=r"no modality has two clusters .*eps \(now 0\.6\)"):
        begin(visible=visible, infrared=infrared)
    with pytest.raises(TrainingError, match=r"1 global\): nothing to learn from"):
        begin(lambda alone, _: torch.zeros_like(alone), visible=visible, infrared=infrared)


def test_global_clusters_alone_are_enough() -> None:
    state = begin(lambda alone, _: torch.arange(len(alone)) % 3, visible=[5], infrared=[])
    assert list(state.memories) == ["global"]
    assert state.num_clusters == {"visible": 1, "infrared": 0, "global": 3}


@pytest.mark.parametrize(("count", "number"), [(0, -1), (1, 0)])
def test_too_few_global_clusters(count: int, number: int) -> None:
    state = begin(lambda alone, _: torch.full_like(alone, number), visible=[4, 3], infrared=[2, 2])
    assert list(state.memories) == ["visible", "infrared"]
    assert state.num_clusters["global"] == count
    assert state.warnings == [f"{count} global clusters, no contrast across modalities"]


def test_global_clusters_without_one_modality() -> None:
    state = begin(
        lambda alone, modality: torch.where(modality == INFRARED, alone, -1),
        visible=[4, 3],
        infrared=[2, 2],
    )
    assert list(state.memories) == ["visible", "infrared", "global"]
    assert state.warnings == [
        "visible: no image in a global cluster, no contrast across modalities"
    ]
    assert set(state.memories["global"].targets.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(("few", "is_odd"), [(4, False), (3, True)])
def test_very_different_numbers_of_clusters(few: int, is_odd: bool) -> None:
    state = begin(visible=[2] * 16, infrared=[2] * few)
    assert list(state.memories) == ["visible", "infrared"]  # a warning, and training goes on
    assert bool(state.warnings) == is_odd
    if is_odd:
        expected = f"the numbers of clusters differ widely (16 visible, {few} infrared)"
        assert state.warnings[0].startswith(expected)


def test_a_batch_of_more_clusters_than_there_are_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = Config(batch=BatchConfig(identities=3, infrared_identities=5))
    with caplog.at_level(logging.WARNING, "mabm"):
        state = begin(
            lambda alone, modality: torch.where(modality == VISIBLE, alone.clamp(max=1), alone),
            config,
            visible=[4, 3, 2],
            infrared=[2, 2, 2, 2],
        )
    within = "infrared: 4 clusters, fewer than the 5 of a batch: batches repeat clusters"
    across = [
        "visible: 2 global clusters, fewer than the 3 of a batch: batches repeat clusters",
        "infrared: 4 global clusters, fewer than the 5 of a batch: batches repeat clusters",
    ]
    assert state.warnings == [within, *across]
    assert all(warning in caplog.text for warning in state.warnings)
    enough = Config(batch=BatchConfig(identities=3, infrared_identities=4))
    assert begin(None, enough, visible=[4, 3, 2], infrared=[2] * 4).warnings == []


# What a checkpoint keeps


@pytest.mark.parametrize("kind", ["hybrid", "mean", "hard"])
def test_a_state_is_kept_whole(kind: str) -> None:
    features, modality = samples()
    config = config_with(f"contrast.memory={kind}", "contrast.momentum=0.4")
    clusters = cluster_epoch(features, modality, config, STAGE2)
    state = begin_epoch(features, modality, clusters, config, 2)
    for bank in state.memories.values():
        bank.memory.update(features[:50], bank.targets[:50])
    state.add({"within visible": 0.1, "across visible": 0.2})
    state.add({"within visible": 0.3})
    state.num_skipped = 2
    state.warnings.append("something")
    stream = io.BytesIO()
    torch.save(state.to_tree(), stream)
    stream.seek(0)
    tree: dict[str, Any] = torch.load(stream, weights_only=True)
    again = EpochState.from_tree(tree, config, 2, modality)
    assert (again.sums, again.num_steps) == (state.sums, state.num_steps)
    assert (again.num_clusters, again.warnings) == (state.num_clusters, ["something"])
    assert (again.num_skipped, again.mean_losses()) == (
        2,
        {"within visible": 0.2, "across visible": 0.2},
    )
    for _ in range(2):  # as it was, and after the same further update
        assert list(again.memories) == list(state.memories)
        for name, bank in state.memories.items():
            other = again.memories[name]
            assert type(other.memory) is type(bank.memory)
            assert other.memory.momentum == 0.4
            assert other.memory.prototypes.equal(bank.memory.prototypes)
            assert other.memory.clusters.equal(bank.memory.clusters)
            assert other.targets.equal(bank.targets)
            for each in (bank, other):
                each.memory.update(features[50:90], each.targets[50:90])
