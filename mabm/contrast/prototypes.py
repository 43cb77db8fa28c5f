"""Prototypes from labels: the mean of each cluster's samples per modality."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from mabm._core.arrays import ArrayT, check_matrix, like, to_tensor
from mabm._core.batch_checks import check_lengths
from mabm._core.columns import (
    Column,
    Labels,
    check_clusters,
    check_modality,
    modality_of,
    name_of_group,
)
from mabm._core.partition import NOISE, split_by_group, unit_means
from mabm._core.precision import full_precision
from mabm._core.saving import Saved


@dataclass(frozen=True)
class SplitSummary(Saved):
    """Counts of the clusters and samples of a split by modality.

    Attributes:
        num_clusters: Number of clusters.
        num_noise: Number of samples in no cluster.
        clusters: Number of clusters by the modalities in them: ``{(0,): 3, (0, 1): 57}`` for 3
            clusters with modality 0 only and 57 with both.
        samples: Number of clustered samples by modality; noise is excluded.
        modality_names: Names of modality 0, 1, ..., or ``None`` if they have only numbers.

    Example:
        >>> import mabm
        >>> clusters, samples = {(0,): 3, (0, 1): 57}, {0: 600, 1: 588}
        >>> print(mabm.SplitSummary(60, 12, clusters, samples))
        60 clusters by modality (3 of 0, 57 of 0+1), 12 noise
    """

    num_clusters: int
    num_noise: int
    clusters: dict[tuple[int, ...], int]
    samples: dict[int, int]
    modality_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        parts = [
            f"{count} of {'+'.join(name_of_group(group, self.modality_names) for group in groups)}"
            for groups, count in self.clusters.items()
        ]
        split = f" ({', '.join(parts)})" if parts else ""
        return f"{self.num_clusters} clusters by modality{split}, {self.num_noise} noise"


@dataclass(frozen=True, eq=False)
class PrototypeSplit(Saved, Generic[ArrayT]):
    """P prototypes, one for each modality of each cluster, and the prototype of each of N samples.

    Attributes:
        prototypes: (P, D) float32, or float64 for float64 features: L2-normalized means.
        clusters: (P,) int64, the cluster of each prototype, ascending.
        modality: (P,) int64, the modality of each prototype, ascending within a cluster.
        targets: (N,) int64, the prototype of each sample; -1 is noise. Losses and memories take
            ``targets[indices]`` for the samples ``indices`` of a batch.
        modality_names: Names of modality 0, 1, ..., or ``None`` if they have only numbers.

    Example:
        >>> import torch, mabm
        >>> features, labels = torch.randn(40, 8), torch.arange(40) % 5
        >>> split = mabm.split_prototypes(features, labels, torch.arange(40) // 20)
        >>> len(split), split.clusters.tolist()
        (10, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    """

    prototypes: ArrayT
    clusters: ArrayT
    modality: ArrayT
    targets: ArrayT
    modality_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.prototypes)

    def __repr__(self) -> str:
        return f"PrototypeSplit({len(self)} prototypes: {self.summary()})"

    def summary(self) -> SplitSummary:
        """Counts clusters and samples by modality; synchronizes with a GPU."""
        targets = to_tensor(self.targets, "targets")
        members = targets[targets != NOISE]
        sizes = torch.bincount(members, minlength=len(self)).tolist()
        groups_by_cluster: dict[int, list[int]] = {}
        samples: Counter[int] = Counter()
        for cluster, group, size in zip(
            self.clusters.tolist(), self.modality.tolist(), sizes, strict=True
        ):
            groups_by_cluster.setdefault(cluster, []).append(group)
            samples[group] += size
        clusters = Counter(tuple(groups) for groups in groups_by_cluster.values())
        return SplitSummary(
            len(groups_by_cluster),
            len(targets) - len(members),
            dict(sorted(clusters.items())),
            dict(sorted(samples.items())),
            self.modality_names,
        )


def split_prototypes(
    features: ArrayT, labels: Labels, modality: Column | None = None
) -> PrototypeSplit[ArrayT]:
    """Splits each cluster by modality and takes the normalized mean of each part.

    A cluster with samples of G modalities has G prototypes, each ``normalize(mean of features)``
    over its samples of one modality. Prototypes are ordered by cluster, then by modality; a
    modality without samples has none, and noise belongs to none.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, on any device;
            not normalized before the mean. Means are float32, or float64 for float64 features.
        labels: (N,) integers, the cluster of each sample; -1 is noise, and numbers may be skipped.
            Or :class:`mabm.PseudoLabels`, whose modality is the default of ``modality``.
        modality: (N,) integers >= 0, bool or words, the modality of each sample. ``None`` takes the
            modality of ``PseudoLabels``; if there is none, as for plain labels, each cluster has
            one prototype.

    Returns:
        The split, with tensors or arrays as ``features`` is. Prototypes are differentiable in
        ``features`` if it is a tensor. Sums run in sample order, so the result has the same bits
        for any number of threads. If a mean is zero, so is its prototype.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape violates the contract, a label is below -1, a modality is below 0, or a
            row of features is not finite or has infinite length.

    Source:
        Wang et al., AAAI 2026 (BMIL), modality-specific global prototypes.

    Example:
        >>> import torch, mabm
        >>> features = torch.eye(3).repeat_interleave(4, dim=0)
        >>> labels = torch.tensor([0] * 4 + [1] * 4 + [-1] * 4)
        >>> modality = torch.tensor([0, 1] * 2 + [1] * 8)
        >>> split = mabm.split_prototypes(features, labels, modality)
        >>> split
        PrototypeSplit(3 prototypes: 2 clusters by modality (1 of 0+1, 1 of 1), 4 noise)
        >>> split.targets
        tensor([ 0,  1,  0,  1,  2,  2,  2,  2, -1, -1, -1, -1])
        >>> names = ["infrared", "visible"] * 2 + ["visible"] * 8
        >>> mabm.split_prototypes(features, mabm.PseudoLabels(labels, names)).summary().clusters
        {(0, 1): 1, (1,): 1}
        >>> print(mabm.split_prototypes(features, labels, names).summary())
        2 clusters by modality (1 of infrared+visible, 1 of visible), 4 noise
    """
    array: Any = features
    modality, modality_names = modality_of(labels, modality)
    x = array if isinstance(array, Tensor) else to_tensor(array, "features")
    to_tensor(x, "features")  # rejects sparse and nested tensors; x itself keeps its gradient
    check_matrix(x, "features")
    # In inference mode too, later backward passes must be able to use the split.
    takes_gradient = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(takes_gradient):
        x = full_precision(x)
        check_lengths(x.detach(), "features")
        clusters = check_clusters(labels, len(x), x.device)
        if modality is None:
            groups = torch.zeros_like(clusters)
        else:
            groups = check_modality(modality, len(x), x.device, "modality")

        parts = split_by_group(clusters, groups)
        prototypes = unit_means(x, parts)
        return PrototypeSplit(
            like(prototypes, features),
            like(parts.clusters, features),
            like(parts.groups, features),
            like(parts.targets, features),
            modality_names,
        )
