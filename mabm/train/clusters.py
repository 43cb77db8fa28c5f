"""The clusters of an epoch: of each modality alone and, where a contrast needs them, of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mabm._core.modalities import VISIBLE
from mabm.train import distributed
from mabm.train.config import ClusteringConfig
from mabm.train.steps import cluster_modalities, cluster_together


@dataclass(frozen=True)
class Clusters:
    """Pseudo-labels of one epoch.

    Attributes:
        alone: (N,) int64 clusters of each modality, numbered from 0 in each; noise is -1.
        together: (N,) int64 global clusters, which may hold samples of both modalities; noise is
            -1. ``None`` where no contrast needs them.
        chosen: (N,) bool, the samples that were clustered alone; the others are -1 in ``alone``.
            ``None``: all.
        others: (N,) bool, the samples that were clustered together; the others are -1 in
            ``together``. ``None``: all.
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


def find_clusters(
    features: Tensor,
    modality: Tensor,
    options: ClusteringConfig,
    *,
    together: bool,
    subset_seed: int = 0,
) -> Clusters:
    """Clusters the samples of an epoch; one process does it for all.

    Args:
        features: (N, D).
        modality: (N,) int64.
        options: How samples are clustered, and by which association clusters span modalities.
        together: Whether global clusters are wanted. With ``association="off"`` there are none.
        subset_seed: Seed of the draw of visible samples where ``subset_ratio`` is below 1.

    Returns:
        The clusters, on the device of the features.
    """
    if distributed.rank() == 0:
        chosen, others = _draw_subsets(modality, options.subset_ratio, subset_seed)
        alone = cluster_modalities(features, modality, options, chosen=chosen)
        labels = None
        if together and options.association != "off":
            labels = cluster_together(features, modality, alone, options, chosen=others)
        clusters = Clusters(alone, labels, chosen, others).to(torch.device("cpu"))
    else:
        clusters = None
    shared: Clusters = distributed.share(clusters)
    return shared.to(features.device)


def _draw_subsets(modality: Tensor, ratio: float, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """Which samples are clustered alone, and which together; all of them at a ratio of 1."""
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
