"""The state of an epoch: contrasts, losses, warnings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mabm._core.modalities import MODALITY_NAMES
from mabm._core.partition import NOISE
from mabm.train.clusters import Clusters, find_clusters
from mabm.train.config import BatchConfig, Config
from mabm.train.contrasts import CONTRASTS, ClusterMemory, Contrast, in_words, needs_global_clusters
from mabm.train.errors import TrainingError
from mabm.train.position import Position

logger = logging.getLogger(__name__)


@dataclass
class EpochState:
    """Everything that the iterations of an epoch need and a checkpoint within the epoch stores.

    Attributes:
        contrasts: The contrasts of the stage.
        num_clusters: Number of clusters by ``"visible"``, ``"infrared"`` and ``"global"``.
        warnings: Problems with the clusters, in words.
        diagnostics: Diagnostics of the clusters for the history; empty except in the first process.
        sums: Sum of each loss over the steps so far.
        num_steps: Number of steps that computed each loss.
        num_skipped: Number of skipped steps.
    """

    contrasts: list[Contrast]
    num_clusters: dict[str, int]
    warnings: list[str]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    num_steps: dict[str, int] = field(default_factory=dict)
    num_skipped: int = 0

    @property
    def memories(self) -> dict[str, ClusterMemory]:
        """The memories of all contrasts, by name."""
        return {
            name: memory
            for contrast in self.contrasts
            for name, memory in contrast.memories.items()
        }

    def to_tree(self) -> dict[str, Any]:
        """The state as tensors, numbers and strings, for a checkpoint; without the diagnostics."""
        return {
            "banks": {name: memory.to_tree() for name, memory in self.memories.items()},
            "clusters": self.num_clusters,
            "warnings": self.warnings,
            "sums": self.sums,
            "steps": self.num_steps,
            "skipped": self.num_skipped,
        }

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, Any], config: Config, stage: int, modality: Tensor
    ) -> EpochState:
        """Restores what :meth:`to_tree` returned.

        Args:
            tree: The stored state.
            config: Configuration of the run.
            stage: Stage of the epoch.
            modality: (N,) int64 modality of the training samples, on the device to train on.
        """
        kept, options = tree["banks"], config.contrast
        contrasts = [
            kind(
                {
                    name: ClusterMemory.from_tree(kept[name], options, modality.device)
                    for name in kind.memory_names
                    if name in kept
                },
                modality,
                options,
            )
            for kind in CONTRASTS[stage]
        ]
        return cls(
            contrasts,
            dict(tree["clusters"]),
            list(tree["warnings"]),
            sums=dict(tree["sums"]),
            num_steps=dict(tree["steps"]),
            num_skipped=tree["skipped"],
        )

    def add(self, losses: Mapping[str, float]) -> None:
        """Adds the losses of one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.num_steps[name] = self.num_steps.get(name, 0) + 1

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss over the steps that computed it."""
        return {name: total / self.num_steps[name] for name, total in self.sums.items()}


def cluster_epoch(
    features: Tensor,
    modality: Tensor,
    config: Config,
    position: Position,
    *,
    camera: Tensor | None = None,
) -> Clusters:
    """Clusters the training samples as the contrasts of a stage need them.

    Args:
        features: (N, D) features of the training samples.
        modality: (N,) int64.
        config: Configuration of the run.
        position: Start of the epoch.
        camera: (N,) int64 cameras, for presets that use them; ``None`` if not known.
    """
    return find_clusters(
        features,
        modality,
        config.clustering,
        together=needs_global_clusters(position.stage),
        camera=camera,
        subset_seed=Position(position.stage, position.epoch).seed(config.run.seed, 0, 0),
    )


def begin_epoch(
    features: Tensor, modality: Tensor, clusters: Clusters, config: Config, stage: int
) -> EpochState:
    """Builds the contrasts of an epoch, and warns about problems with its clusters.

    Args:
        features: (N, D) features of the training samples.
        modality: (N,) int64.
        clusters: Their clusters.
        config: Configuration of the run.
        stage: Stage of the epoch.

    Raises:
        TrainingError: No contrast has enough clusters.
    """
    options = config.contrast
    state = EpochState([], {}, [])
    for kind in CONTRASTS[stage]:
        memories = kind.build_memories(features, modality, clusters, options)
        state.contrasts.append(kind(memories.by_name, modality, options))
        state.num_clusters.update(memories.num_clusters)
        state.warnings.extend(memories.warnings)
        repeats = _repeats(state.contrasts[-1], config.batch)
        state.warnings.extend(each for each in repeats if each not in state.warnings)
    for warning in state.warnings:
        logger.warning("%s", warning)
    if not state.memories:
        raise TrainingError(
            f"no modality has two clusters ({in_words(state.num_clusters)}): nothing to learn "
            f"from. Raise clustering.eps (now {config.clustering.eps:g}) if most samples are "
            "noise, lower it if all are in one cluster, or start from better weights"
        )
    return state


def _repeats(contrast: Contrast, options: BatchConfig) -> list[str]:
    """Warnings for the modalities that have fewer clusters than a batch needs."""
    kind = "global clusters" if contrast.needs_global_clusters else "clusters"
    warnings = []
    for group, targets in contrast.targets.items():
        count, wanted = len(torch.unique(targets[targets != NOISE])), options.identities_of(group)
        if count < wanted:
            warnings.append(
                f"{MODALITY_NAMES[group]}: {count} {kind}, fewer than the {wanted} of a batch: "
                "batches repeat clusters"
            )
    return warnings
