"""The contrasts of each stage: within each modality, and across modalities.

A :class:`Contrast` lives for one epoch. It keeps memories of the epoch's clusters, defines which
samples are drawn into its batches, computes the loss of a batch, and updates its memories
afterwards. Each contrast takes its own optimizer step in every iteration. To train with another
loss, write another contrast and add it to :data:`CONTRASTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm._core.partition import NOISE
from mabm.contrast.prototypes import PrototypeSplit, split_prototypes
from mabm.train.batches import draw_batches
from mabm.train.clusters import Clusters
from mabm.train.config import BatchConfig, ContrastConfig
from mabm.train.position import Position
from mabm.train.steps import Memory, build_memory, contrast_across, contrast_within, split_within

GLOBAL: Final = "global"
"""Name of the memory of clusters that may contain samples of both modalities."""

# A modality with several times the clusters of the other is likely clustered too finely; the
# published runs keep within a factor of two.
_UNEQUAL: Final = 4
_FEWEST_CLUSTERS: Final = 2  # contrast with a single prototype has no gradient


@dataclass(frozen=True)
class ClusterMemory:
    """The memory of a clustering, and the prototype that each sample belongs to.

    Attributes:
        memory: Prototypes of the clusters.
        targets: (N,) int64 row of the memory for each training sample, -1 for noise.
    """

    memory: Memory
    targets: Tensor

    @classmethod
    def of_split(cls, split: PrototypeSplit[Tensor], options: ContrastConfig) -> ClusterMemory:
        """A memory that starts from the prototypes of clusters."""
        return cls(build_memory(split, options), split.targets)

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Moves the prototypes toward the (B, D) features of the samples ``rows``."""
        self.memory.update(features, self.targets[rows], gather=False)  # already joined

    def to_tree(self) -> dict[str, Any]:
        """The state as tensors, for a checkpoint."""
        return {"memory": dict(self.memory.state_dict()), "targets": self.targets}

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, Any], options: ContrastConfig, device: torch.device
    ) -> ClusterMemory:
        """Restores what :meth:`to_tree` returned."""
        prototypes = tree["memory"]["prototypes"]  # (P, D), or (2, P, D) of two banks
        memory = build_memory(prototypes.flatten(0, -2), options)
        memory.load_state_dict(tree["memory"])
        return cls(memory.to(device), tree["targets"].to(device))


class Memories(NamedTuple):
    """The memories of a contrast at the start of an epoch, and information on its clusters.

    Attributes:
        by_name: Memories by name; empty if there is nothing to contrast.
        num_clusters: Number of clusters by the same names, including those that are left out.
        warnings: Problems with the clusters, in words.
    """

    by_name: dict[str, ClusterMemory]
    num_clusters: dict[str, int]
    warnings: list[str]


class Contrast(ABC):
    """A loss of one epoch, with its memories, its targets and its batches.

    Args:
        memories: Memories by name, a subset of ``memory_names``.
        modality: (N,) int64 modality of the training samples, on the device of the memories.
        options: Parameters of losses and memories.
    """

    stream: ClassVar[int]
    """Separates its random numbers from those of other contrasts; different for each."""

    memory_names: ClassVar[tuple[str, ...]]
    """Names of its memories in checkpoints; different for each contrast."""

    needs_global_clusters: ClassVar[bool] = False
    """Whether samples of both modalities are clustered together for it."""

    def __init__(
        self, memories: Mapping[str, ClusterMemory], modality: Tensor, options: ContrastConfig
    ) -> None:
        self.memories = memories
        self.options = options
        self.targets = self.find_targets(modality)

    @classmethod
    @abstractmethod
    def build_memories(
        cls, features: Tensor, modality: Tensor, clusters: Clusters, options: ContrastConfig
    ) -> Memories:
        """Builds the memories of an epoch.

        Args:
            features: (N, D) features of the training samples.
            modality: (N,) int64.
            clusters: Their clusters.
            options: Parameters of losses and memories.
        """

    @abstractmethod
    def find_targets(self, modality: Tensor) -> dict[int, Tensor]:
        """For each modality that takes part, (N,) targets; -1 for samples that are not drawn."""

    @abstractmethod
    def losses(
        self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        """The scalar losses of a batch, by their names in the history.

        Args:
            features: (B, D) features of the batch for each modality in it.
            rows: (B,) int64 sample numbers for each modality in it.
        """

    @abstractmethod
    def update(self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> None:
        """Updates the memories after a step.

        Args:
            features: (B, D) features of the batch for each modality in it, without gradient.
            rows: (B,) int64 sample numbers for each modality in it.
        """

    def draw_batches(
        self,
        cameras: Tensor | None,
        position: Position,
        *,
        seed: int,
        iterations: int,
        options: BatchConfig,
    ) -> list[dict[int, list[int]]]:
        """Draws this process's image numbers, by modality, for each remaining iteration.

        Args:
            cameras: (N,) cameras, or ``None`` to ignore cameras.
            position: Stage, epoch, and the first iteration to draw.
            seed: Seed of the run.
            iterations: Number of iterations in the whole epoch.
            options: Sizes of a batch.
        """
        return draw_batches(
            self.targets,
            cameras,
            position,
            seed=seed,
            stream=self.stream,
            iterations=iterations,
            options=options,
        )


class Within(Contrast):
    """The contrast within each modality: samples against the clusters of their own modality."""

    stream = 0
    memory_names = tuple(MODALITY_NAMES[group] for group in MODALITIES)

    @classmethod
    def build_memories(
        cls, features: Tensor, modality: Tensor, clusters: Clusters, options: ContrastConfig
    ) -> Memories:
        """Builds a memory for each modality; one with fewer than two clusters is left out."""
        memories = Memories({}, {}, [])
        for group in MODALITIES:
            name = MODALITY_NAMES[group]
            split = split_within(features, clusters.alone, modality, group)
            memories.num_clusters[name] = len(split)
            if len(split) < _FEWEST_CLUSTERS:
                memories.warnings.append(
                    f"{name}: {len(split)} clusters, no contrast within this modality"
                )
            else:
                memories.by_name[name] = ClusterMemory.of_split(split, options)
        fewest, most = min(memories.num_clusters.values()), max(memories.num_clusters.values())
        if fewest >= _FEWEST_CLUSTERS and most > _UNEQUAL * fewest:
            memories.warnings.append(
                f"the numbers of clusters differ widely ({in_words(memories.num_clusters)}): one "
                "modality is probably clustered too finely or too coarsely"
            )
        return memories

    def find_targets(self, modality: Tensor) -> dict[int, Tensor]:
        """The targets of each modality that has a memory."""
        return {
            group: self.memories[MODALITY_NAMES[group]].targets
            for group in MODALITIES
            if MODALITY_NAMES[group] in self.memories
        }

    def losses(
        self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        """The loss of each modality, against the prototypes of its own clusters."""
        losses = {}
        for group, part in features.items():
            memory = self.memories[MODALITY_NAMES[group]]
            loss = contrast_within(part, memory.targets[rows[group]], memory.memory, self.options)
            losses[f"within {MODALITY_NAMES[group]}"] = loss
        return losses

    def update(self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> None:
        """Updates the memory of each modality."""
        for group, part in features.items():
            self.memories[MODALITY_NAMES[group]].update(part, rows[group])


class Across(Contrast):
    """The contrast across modalities: samples against the prototypes of the global clusters."""

    stream = 1
    memory_names = (GLOBAL,)
    needs_global_clusters = True

    @classmethod
    def build_memories(
        cls, features: Tensor, modality: Tensor, clusters: Clusters, options: ContrastConfig
    ) -> Memories:
        """Builds one memory of all global clusters, or none if there are fewer than two.

        A modality without samples in global clusters is left out.
        """
        memories = Memories({}, {}, [])
        if clusters.together is None:
            return memories
        groups = modality if options.split else None
        split = split_prototypes(features, clusters.together, groups)
        count = memories.num_clusters[GLOBAL] = len(torch.unique(split.clusters))
        if count < _FEWEST_CLUSTERS:
            memories.warnings.append(f"{count} global clusters, no contrast across modalities")
            return memories
        memories.by_name[GLOBAL] = ClusterMemory.of_split(split, options)
        present = _modalities_of(split.targets, modality)
        memories.warnings.extend(
            f"{MODALITY_NAMES[group]}: no image in a global cluster, no contrast across modalities"
            for group in MODALITIES
            if group not in present
        )
        return memories

    def find_targets(self, modality: Tensor) -> dict[int, Tensor]:
        """The targets of each modality that has samples in global clusters."""
        if GLOBAL not in self.memories:
            return {}
        targets = self.memories[GLOBAL].targets
        return {
            group: targets.masked_fill(modality != group, NOISE)
            for group in _modalities_of(targets, modality)
        }

    def losses(
        self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        """Half the loss of each modality, against the prototypes of both."""
        memory = self.memories[GLOBAL]
        return {
            f"across {MODALITY_NAMES[group]}": 0.5
            * contrast_across(part, memory.targets[rows[group]], memory.memory, self.options)
            for group, part in features.items()
        }

    def update(self, features: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> None:
        """Updates the memory with both modalities at once, so that their order does not matter."""
        joined = torch.cat(list(features.values()))
        self.memories[GLOBAL].update(joined, torch.cat(list(rows.values())))


CONTRASTS: Final[Mapping[int, tuple[type[Contrast], ...]]] = {1: (Within,), 2: (Within, Across)}
"""The contrasts of each stage, in the order of their steps within an iteration."""


def needs_global_clusters(stage: int) -> bool:
    """Whether samples of both modalities are clustered together in a stage."""
    return any(contrast.needs_global_clusters for contrast in CONTRASTS[stage])


def in_words(num_clusters: Mapping[str, int]) -> str:
    """Numbers of clusters for a message: "12 visible, 9 infrared"."""
    return ", ".join(f"{count} {name}" for name, count in num_clusters.items())


def _modalities_of(targets: Tensor, modality: Tensor) -> list[int]:
    """The modalities, ascending, of the samples that have a target."""
    present: list[int] = torch.unique(modality[targets != NOISE]).tolist()
    return present
