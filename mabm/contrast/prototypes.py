"""From labels to prototypes: every cluster split by modality, one mean for each part."""

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
    """How the clusters of a split lie over the modalities.

    Attributes:
        num_clusters: Clusters with a sample.
        num_noise: Samples in none.
        clusters: How many clusters have exactly these modalities, by ascending modalities:
            ``{(0,): 3, (0, 1): 57}`` for 3 clusters of modality 0 alone and 57 of both.
        samples: How many clustered samples each modality has, noise left out.
        modality_names: What modality 0, 1, ... is called, or ``None``.

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
    """P prototypes of N samples, and who belongs to whom.

    Attributes:
        prototypes: (P, D) float32, or float64 of float64 features: L2-normalized means.
        clusters: (P,) int64, the cluster of each prototype, ascending.
        modality: (P,) int64, the modality of each prototype, ascending within a cluster.
        targets: (N,) int64, the prototype of each sample; noise is -1. What losses and memories
            call targets is ``targets[indices]`` for the samples of a batch.
        modality_names: What modality 0, 1, ... is called, or ``None`` where they are numbers alone.

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
        """Counts clusters and samples by modality; on a GPU this waits for it."""
        targets = to_tensor(self.targets, "targets")
        members = targets[targets != NOISE]
        sizes = torch.bincount(members, minlength=len(self)).tolist()
        groups_of: dict[int, list[int]] = {}
        samples: Counter[int] = Counter()
        for cluster, group, size in zip(
            self.clusters.tolist(), self.modality.tolist(), sizes, strict=True
        ):
            groups_of.setdefault(cluster, []).append(group)
            samples[group] += size
        clusters = Counter(tuple(groups) for groups in groups_of.values())
        return SplitSummary(
            len(groups_of),
            len(targets) - len(members),
            dict(sorted(clusters.items())),
            dict(sorted(samples.items())),
            self.modality_names,
        )


def split_prototypes(
    features: ArrayT, labels: Labels, modality: Column | None = None
) -> PrototypeSplit[ArrayT]:
    """Splits every cluster by modality and takes the normalized mean of each part.

    A cluster of samples of G modalities gives G prototypes, ``normalize(mean of the features)``
    over its samples of one modality. Prototypes are numbered cluster by cluster, modality
    ascending, absent ones skipped; noise belongs to none.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, on any device;
            never normalized here before the mean. Computed in float32, float64 in float64.
        labels: (N,) integers: the cluster of each sample, -1 for noise. Numbers may be skipped. Or
            the :class:`mabm.PseudoLabels`, which bring their modality where none is given.
        modality: (N,) integers >= 0, bool or words, as :func:`mabm.pseudo_labels`. ``None`` for
            that of ``PseudoLabels``, and without one for one prototype a cluster (with
            ``found.labels`` in any case).

    Returns:
        The split, of the same kind as ``features``. Prototypes are differentiable in tensors of
        features. Sums run in the order of the samples, so that the same input gives the same bits
        for any number of threads. A part whose mean is zero has a prototype of zeros.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A shape out of contract, a label below -1, a modality below 0, or a row of
            features that is not finite, or whose length is not.

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
    to_tensor(x, "features")  # refuses what is not dense; x itself keeps its gradient
    check_matrix(x, "features")
    # In inference mode too the split is to be one that a later backward pass can use.
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
