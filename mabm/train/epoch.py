"""The start of an epoch: clusters, memories, and what to do where there is little to learn from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mabm._core.modalities import MODALITIES, MODALITY_NAMES, VISIBLE
from mabm._core.partition import NOISE
from mabm.contrast.prototypes import PrototypeSplit, split_prototypes
from mabm.train import distributed
from mabm.train.batches import Place
from mabm.train.config import Config
from mabm.train.errors import TrainingError
from mabm.train.steps import (
    Memory,
    build_memory,
    cluster_modalities,
    cluster_together,
    split_within,
)

logger = logging.getLogger(__name__)

GLOBAL = "global"

# A modality with several times the clusters of the other is likely clustered too finely; the
# published runs keep within a factor of two.
_UNEQUAL = 4
_FEWEST_CLUSTERS = 2  # contrast with a single prototype has no gradient


@dataclass
class Bank:
    """A memory and whom it is about.

    Attributes:
        memory: Prototypes.
        targets: (N,) int64 row of the memory for each sample, -1 for none.
    """

    memory: Memory
    targets: Tensor


@dataclass
class EpochState:
    """All that the iterations of an epoch need, and that a checkpoint within it keeps.

    Attributes:
        banks: By ``"visible"``, ``"infrared"`` and ``"global"``; those that there are.
        clusters: How many clusters there are, by the same names.
        warnings: What was amiss, in words.
        sums: Of each loss, over the iterations so far.
        steps: How often each loss was taken.
        skipped: Steps left out in the epoch.
    """

    banks: dict[str, Bank]
    clusters: dict[str, int]
    warnings: list[str]
    sums: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    def to_tree(self) -> dict[str, Any]:
        """As tensors, numbers and strings."""
        return {
            "banks": {
                name: {"memory": dict(bank.memory.state_dict()), "targets": bank.targets}
                for name, bank in self.banks.items()
            },
            "clusters": self.clusters,
            "warnings": self.warnings,
            "sums": self.sums,
            "steps": self.steps,
            "skipped": self.skipped,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], config: Config, device: torch.device) -> EpochState:
        """Reads what :meth:`to_tree` gave."""
        banks = {}
        for name, bank in tree["banks"].items():
            prototypes = bank["memory"]["prototypes"]  # (P, D), or (2, P, D) of two banks
            memory = build_memory(prototypes.flatten(0, -2), config.contrast)
            memory.load_state_dict(bank["memory"])
            banks[name] = Bank(memory.to(device), bank["targets"].to(device))
        return cls(
            banks,
            dict(tree["clusters"]),
            list(tree["warnings"]),
            dict(tree["sums"]),
            dict(tree["steps"]),
            tree["skipped"],
        )

    def add(self, losses: Mapping[str, float]) -> None:
        """Counts the losses of one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.steps[name] = self.steps.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of each loss over the steps that had it."""
        return {name: total / self.steps[name] for name, total in self.sums.items()}


@dataclass(frozen=True)
class Clusters:
    """Labels of one epoch.

    Attributes:
        alone: (N,) int64 clusters of each modality, numbered from 0 in each; noise -1.
        together: (N,) int64 global clusters, noise -1, or ``None`` in stage 1.
        chosen: (N,) bool, the samples that were clustered alone, the others being -1; ``None``:
            all.
        others: (N,) bool, those that were clustered together, likewise.
    """

    alone: Tensor
    together: Tensor | None
    chosen: Tensor | None = None
    others: Tensor | None = None

    def to(self, device: torch.device) -> Clusters:
        """The same on a device."""
        rest = (self.together, self.chosen, self.others)
        return Clusters(
            self.alone.to(device), *(None if each is None else each.to(device) for each in rest)
        )


def find_clusters(features: Tensor, modality: Tensor, config: Config, place: Place) -> Clusters:
    """Clusters the samples of an epoch; one process does it for all.

    Args:
        features: (N, D).
        modality: (N,) int64.
        config: Of the run.
        place: Stage and epoch.
    """
    options = config.clustering
    if distributed.rank() == 0:
        chosen, others = _subsets(modality, options.subset_ratio, place)
        alone = cluster_modalities(features, modality, options, chosen=chosen)
        together = None
        if place.stage == 2 and options.association != "off":
            together = cluster_together(features, modality, alone, options, chosen=others)
        found = Clusters(alone, together, chosen, others).to(torch.device("cpu"))
    else:
        found = None
    shared: Clusters = distributed.share(found)
    return shared.to(features.device)


def _subsets(modality: Tensor, ratio: float, place: Place) -> tuple[Tensor | None, Tensor | None]:
    """Which samples are clustered alone, and which together; all of them at a ratio of 1."""
    if ratio == 1:
        return None, None
    is_visible = modality.cpu() == VISIBLE
    visible = torch.nonzero(is_visible).flatten().numpy()
    drawn = np.random.default_rng(place.number(0)).permutation(visible)
    drawn = drawn[: max(round(ratio * len(visible)), 1)]
    chosen = ~is_visible
    chosen[torch.from_numpy(drawn)] = True
    others = ~is_visible | ~chosen
    return chosen, others


def begin_epoch(
    features: Tensor, modality: Tensor, clusters: Clusters, config: Config
) -> EpochState:
    """Builds the memories of an epoch, and says what is amiss with its clusters.

    A modality with fewer than two clusters is left out of the contrast within, and so is a modality
    without a prototype, or all of it where there are fewer than two global clusters, of the
    contrast across.

    Args:
        features: (N, D).
        modality: (N,) int64.
        clusters: Of :func:`find_clusters`.
        config: Of the run.

    Raises:
        TrainingError: There is nothing to learn from at all.
    """
    banks: dict[str, Bank] = {}
    counts: dict[str, int] = {}
    warnings: list[str] = []
    for group in MODALITIES:
        name = MODALITY_NAMES[group]
        split = split_within(features, clusters.alone, modality, group)
        counts[name] = len(split)
        if len(split) < _FEWEST_CLUSTERS:
            warnings.append(f"{name}: {len(split)} clusters, left out within modalities")
            continue
        banks[name] = Bank(build_memory(split, config.contrast), split.targets)
    _compare(counts, warnings)
    if clusters.together is not None:
        split = split_prototypes(
            features, clusters.together, modality if config.contrast.split else None
        )
        counts[GLOBAL] = len(torch.unique(split.clusters))
        if counts[GLOBAL] < _FEWEST_CLUSTERS:
            warnings.append(f"{counts[GLOBAL]} global clusters, no contrast across modalities")
        else:
            banks[GLOBAL] = Bank(build_memory(split, config.contrast), split.targets)
            warnings += _absent(split, modality)
    for warning in warnings:
        logger.warning("%s", warning)
    if not banks:
        raise TrainingError(
            f"no modality has two clusters ({_words(counts)}): nothing to learn from. "
            f"Raise clustering.eps (now {config.clustering.eps:g}) if most samples are noise, "
            "lower it if all are one cluster, or start from better weights"
        )
    return EpochState(banks, counts, warnings)


def _compare(counts: Mapping[str, int], warnings: list[str]) -> None:
    least, most = min(counts.values()), max(counts.values())
    if least >= _FEWEST_CLUSTERS and most > _UNEQUAL * least:
        warnings.append(
            f"very different numbers of clusters ({_words(counts)}): one modality is likely "
            "clustered too finely or too coarsely"
        )


def _absent(split: PrototypeSplit[Tensor], modality: Tensor) -> list[str]:
    present = torch.unique(modality[split.targets != NOISE]).tolist()
    return [
        f"{MODALITY_NAMES[group]}: no image in a global cluster, left out across modalities"
        for group in MODALITIES
        if group not in present
    ]


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
