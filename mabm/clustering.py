"""Pseudo-labels: from features to cluster labels in one call, with what one asks about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import torch
from torch import Tensor

from mabm._arrays import Array, ArrayT, like, to_tensor
from mabm._saving import Saved
from mabm.graph import check_max_distance, check_min_samples
from mabm.jaccard import jaccard_graph
from mabm.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.ranking import Precision


@dataclass(frozen=True, eq=False)
class PseudoLabels(Saved, Generic[ArrayT]):
    """Cluster labels of N samples and statistics of them, computed when they are asked for.

    In labels made by hand, clusters may have any numbers >= 0: those without a sample do not count.

    Attributes:
        labels: (N,) int64: clusters 0..C-1 without gaps, noise -1.
        modality: (N,) int64, the group of each sample, or ``None``.
        core: (N,) bool, whether a sample is core: has ``min_samples`` neighbors within ``eps``,
            itself among them. ``None`` where nothing is known of it, as in labels made by hand.

    Raises:
        ValueError: By the statistics, as a look at the labels waits for their device: a label is
            below -1.
    """

    labels: ArrayT
    modality: Array | None = None
    core: ArrayT | None = None

    @cached_property
    def _labels(self) -> Tensor:
        labels = to_tensor(self.labels, "labels")
        if len(labels) and (least := int(labels.min())) < -1:
            raise ValueError(f"labels must be clusters >= 0 or -1 for noise, got {least}")
        return labels

    @cached_property
    def _sizes(self) -> Tensor:
        labels = self._labels
        sizes: Tensor = torch.unique(labels[labels >= 0], return_counts=True)[1]
        return sizes

    @property
    def num_clusters(self) -> int:
        """Number of clusters, C."""
        return len(self._sizes)

    @cached_property
    def num_noise(self) -> int:
        """Number of samples in no cluster."""
        return int((self._labels < 0).sum())

    @cached_property
    def num_spanning(self) -> int | None:
        """Number of clusters with samples of every modality, or ``None`` without a modality."""
        if self.modality is None:
            return None
        groups, group_of = torch.unique(to_tensor(self.modality, "modality"), return_inverse=True)
        clustered = self._labels >= 0
        # By number, as a label times the number of groups may be beyond int64.
        _, cluster_of = torch.unique(self._labels[clustered], return_inverse=True)
        cells = torch.unique(cluster_of * len(groups) + group_of[clustered])
        if not len(cells):
            return 0
        return int((torch.bincount(cells // len(groups)) == len(groups)).sum())

    @cached_property
    def size_histogram(self) -> dict[int, int]:
        """Number of clusters of each size, by ascending size."""
        return dict(sorted(Counter(self._sizes.tolist()).items()))

    def __repr__(self) -> str:
        spanning = "" if self.modality is None else f", {self.num_spanning} spanning"
        return (
            f"PseudoLabels({len(self.labels)} samples: {self.num_clusters} clusters{spanning}, "
            f"{self.num_noise} noise)"
        )


def pseudo_labels(
    features: ArrayT,
    modality: Array | None = None,
    *,
    eps: float = 0.6,
    min_samples: int = 4,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
) -> PseudoLabels[ArrayT]:
    """Clusters samples by DBSCAN on their modality-aware Jaccard distance.

    Nothing of size N x N is ever held.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, compared as
            float32; never normalised here.
        modality: (N,) integers >= 0, the group of each row, or ``None``.
        eps: Greatest distance of neighbours, in [0, 1). Published: 0.6 on SYSU-MM01, 0.3 on RegDB.
        min_samples: Neighbours within ``eps``, itself among them, that make a sample core.
        k1: As :func:`mabm.modality_jaccard`.
        k2: As :func:`mabm.modality_jaccard`.
        preset: As :func:`mabm.modality_jaccard`. With ``"spcl"`` the modality serves the
            statistics alone.
        precision: As :func:`mabm.modality_jaccard`.

    Returns:
        Labels of the same kind as ``features``, on the same device, with their statistics. Clusters
        are numbered by their first core sample, a border sample takes the smallest cluster number
        among its core neighbours, noise is -1: label for label scikit-learn's DBSCAN on the dense
        distance, and the same on every device and for any number of threads.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range; the message names it, the range and the value.

    Source:
        Wang et al., AAAI 2026 (BMIL); Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm
        >>> centres = torch.eye(8).repeat_interleave(10, dim=0)
        >>> features = centres + 0.01 * torch.randn(80, 8)
        >>> mabm.pseudo_labels(features, torch.arange(80) % 2, k1=10, k2=2)
        PseudoLabels(80 samples: 8 clusters, 8 spanning, 0 noise)
    """
    eps = check_max_distance("eps", eps)
    min_samples = check_min_samples(min_samples)
    graph = jaccard_graph(
        features,
        modality,
        max_distance=eps,
        k1=k1,
        k2=k2,
        preset=preset,
        precision=precision,
    )
    labels: Any = graph.dbscan(eps, min_samples)
    # The graph ends at eps, so a row holds all of a sample's neighbors.
    counts = to_tensor(graph.indptr, "indptr").diff()
    core = like(counts >= min_samples, features)
    if modality is None:
        return PseudoLabels(labels, core=core)
    # Checked above, and a second look would wait.
    groups = to_tensor(modality, "modality").to(device=counts.device, dtype=torch.int64)
    return PseudoLabels(labels, like(groups, features), core)
