"""Contrasts: what a batch of each adds up to, and that training takes one that is new to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from extras import needs_training
from torch import Tensor
from training_cases import small_config, small_data, weights_of

from mabm.data import INFRARED, VISIBLE
from mabm.train import (
    ContrastConfig,
    TrainingStopped,
    contrast_across,
    contrast_within,
    inputs,
    train,
)
from mabm.train.clusters import Clusters
from mabm.train.contrasts import CONTRASTS, Across, ClusterMemory, Contrast, Memories, Within
from mabm.train.position import STAGES

pytestmark = needs_training


def samples() -> tuple[Tensor, Tensor, Clusters]:
    """60 features in five clusters, two thirds visible; every sixth sample is noise."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(60, 8, generator=generator))
    labels = torch.where(torch.arange(60) % 6 == 5, -1, torch.arange(60) % 5)
    modality = (torch.arange(60) >= 40).long()
    return features, modality, Clusters(labels, labels)


def begun(kind: type[Contrast], **options: object) -> tuple[Contrast, Tensor]:
    features, modality, clusters = samples()
    chosen = ContrastConfig(**options)  # type: ignore[arg-type]
    memories = kind.build_memories(features, modality, clusters, chosen)
    return kind(memories.by_name, modality, chosen), features


BATCH = {VISIBLE: torch.tensor([0, 7, 12, 33]), INFRARED: torch.tensor([40, 57])}


def test_stages_have_contrasts_that_draw_and_keep_apart() -> None:
    assert tuple(CONTRASTS) == STAGES
    for kinds in CONTRASTS.values():
        names = [name for kind in kinds for name in kind.memory_names]
        assert len({kind.stream for kind in kinds}) == len(kinds)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", ["hybrid", "mean"])
def test_within_each_modality_is_contrasted_with_its_own_clusters(kind: str) -> None:
    contrast, features = begun(Within, memory=kind, momentum=0.5)
    losses = contrast.losses({group: features[rows] for group, rows in BATCH.items()}, BATCH)
    assert list(losses) == ["within visible", "within infrared"]
    for group, name in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        memory, rows = contrast.memories[name], BATCH[group]
        targets = contrast.targets[group]
        assert bool((targets[samples()[1] != group] == -1).all())
        expected = contrast_within(features[rows], targets[rows], memory.memory, contrast.options)
        assert losses[f"within {name}"].equal(expected)


def test_across_modalities_both_share_one_memory() -> None:
    contrast, features = begun(Across)
    memory = contrast.memories["global"]
    losses = contrast.losses({group: features[rows] for group, rows in BATCH.items()}, BATCH)
    assert list(losses) == ["across visible", "across infrared"]
    for group, name in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        rows = BATCH[group]
        expected = contrast_across(
            features[rows], memory.targets[rows], memory.memory, contrast.options
        )
        assert losses[f"across {name}"].equal(0.5 * expected)


@pytest.mark.parametrize("kind", [Within, Across])
def test_a_step_moves_the_prototypes_of_its_samples_alone(kind: type[Contrast]) -> None:
    contrast, features = begun(kind)
    before = {name: each.memory.prototypes.clone() for name, each in contrast.memories.items()}
    contrast.update({group: -features[rows] for group, rows in BATCH.items()}, BATCH)
    rows = torch.cat(list(BATCH.values()))
    for name, each in contrast.memories.items():
        moved = (each.memory.prototypes != before[name]).any(2).any(0)
        targets = each.targets[rows]
        assert set(moved.nonzero().flatten().tolist()) == set(targets[targets >= 0].tolist())


class Pull(Contrast):
    """A loss of its own, with a memory of its own, of visible samples alone."""

    stream: ClassVar[int] = 7
    memory_names: ClassVar[tuple[str, ...]] = ("pull",)

    @classmethod
    def build_memories(
        cls, features: Tensor, modality: Tensor, clusters: Clusters, options: ContrastConfig
    ) -> Memories:
        within = Within.build_memories(features, modality, clusters, options)
        return Memories({"pull": within.by_name["visible"]}, {}, ["pulls"])

    def find_targets(self, modality: Tensor) -> dict[int, Tensor]:
        return {VISIBLE: self.memories["pull"].targets}

    def losses(
        self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        prototypes = self.memories["pull"].memory.prototypes[0]
        targets = self.memories["pull"].targets[rows[VISIBLE]]
        return {"pull": 1 - (features[VISIBLE] * prototypes[targets]).sum(1).mean()}

    def update(self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> None:
        self.memories["pull"].update(features[VISIBLE], rows[VISIBLE])


def test_training_takes_a_new_contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One class and its name in the list: it is trained by, told of, stopped and gone on with."""
    records = small_data()
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: records)
    monkeypatch.setitem(CONTRASTS, 1, (Within, Pull))  # type: ignore[arg-type]
    config = small_config("batch.identities=2", "stage1.epochs=1", "stage2.epochs=0")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    entry = train(config, whole, progress=False).history[-1]
    assert list(entry["losses"]) == ["within visible", "within infrared", "pull"]
    assert entry["warnings"] == ["pulls"]
    answers = iter([False] * 4 + [True])
    with pytest.raises(TrainingStopped, match="stage 1 epoch 1, after 2 iterations"):
        train(config, stopped, progress=False, stop=lambda: next(answers))
    assert train(config, stopped, progress=False).history[-1]["losses"] == entry["losses"]
    expected, found = weights_of(whole), weights_of(stopped)
    assert all(found[name].equal(value) for name, value in expected.items())


def test_a_memory_keeps_its_samples_targets() -> None:
    contrast, _ = begun(Across)
    memory = contrast.memories["global"]
    again = ClusterMemory.from_tree(memory.to_tree(), contrast.options, torch.device("cpu"))
    assert again.targets.equal(memory.targets)
    assert again.memory.prototypes.equal(memory.memory.prototypes)
