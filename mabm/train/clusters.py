"""The clusters of an epoch: within each modality and, if a contrast needs them, across both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mabm._core.modalities import VISIBLE
from mabm.distance.centering import center_groups
from mabm.train import distributed
from mabm.train.config import ClusteringConfig
from mabm.train.steps import centers, cluster_modalities, cluster_together


@dataclass(frozen=True)
class Clusters:
    """Pseudo-labels of one epoch.

    Attributes:
        alone: (N,) int64 clusters within each modality, numbered from 0 in each; noise is -1.
        together: (N,) int64 global clusters, which may contain samples of both modalities; noise is
            -1. ``None`` if no contrast needs them.
        chosen: (N,) bool, the samples that were clustered within their modality; all others are -1
            in ``alone``. ``None``: all samples.
        others: (N,) bool, the samples that were clustered globally; all others are -1 in
            ``together``. ``None``: all samples.
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

    def compared(self, features: Tensor, modality: Tensor, options: ClusteringConfig) -> Tensor:
        """The (N, D) features that the clusters come from: centered, if global clusters are."""
        if self.together is None or not centers(options):
            return features
        compared = features.clone()
        rows = slice(None) if self.others is None else self.others.to(features.device)
        compared[rows] = center_groups(features[rows], modality[rows])
        return compared


def find_clusters(
    features: Tensor,
    modality: Tensor,
    options: ClusteringConfig,
    *,
    together: bool,
    camera: Tensor | None = None,
    subset_seed: int = 0,
) -> Clusters:
    """Clusters the samples of an epoch.

    When several processes train together, all of them call this with the same arguments, and all
    get the same clusters.

    Args:
        features: (N, D).
        modality: (N,) int64.
        options: How samples are clustered, by which association clusters span modalities, and
            whether each process clusters its share or the first one clusters all of them.
        together: Whether to find global clusters. With ``association="off"`` there are none.
        camera: (N,) int64 cameras, for presets that use them; ``None`` if not known.
        subset_seed: Seed for drawing visible samples if ``subset_ratio`` is below 1.

    Returns:
        The clusters, on the device of the features.
    """
    clusters, shared = None, options.on_all_processes
    if shared or distributed.rank() == 0:
        chosen, others = _draw_subsets(modality, options.subset_ratio, subset_seed)
        alone = cluster_modalities(features, modality, options, chosen=chosen, shared=shared)
        labels = None
        if together and options.association != "off":
            labels = cluster_together(
                features, modality, alone, options, chosen=others, camera=camera, shared=shared
            )
        clusters = Clusters(alone, labels, chosen, others).to(torch.device("cpu"))
    if not shared:
        clusters = distributed.share(clusters)
    assert clusters is not None  # the first process has found them
    return clusters.to(features.device)


def _draw_subsets(modality: Tensor, ratio: float, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Masks of the samples to cluster within modalities and globally; ``None`` at a ratio of 1."""
    if ratio == 1:
        return None, None
    is_visible = modality.cpu() == VISIBLE
    visible = torch.nonzero(is_visible).flatten().numpy()
    drawn = np.random.default_rng(seed).permutation(visible)
    drawn = drawn[: max(round(ratio * len(visible)), 1)]
    chosen = ~is_visible
    chosen[torch.from_numpy(drawn)] = True
    others = ~is_visible | ~chosen
    return chosen, others
