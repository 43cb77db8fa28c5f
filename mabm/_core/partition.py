"""Partitions of N samples into clusters and noise: parts by modality, sizes and means."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = -1
"""The label of samples in no cluster, and the target of samples without a prototype."""


class Parts(NamedTuple):
    """Clusters split by modality: P parts, ordered by cluster, then by modality.

    Attributes:
        clusters: (P,) the cluster of each part.
        groups: (P,) the modality of each part.
        targets: (N,) int64, the part of each sample; -1 is noise.
    """

    clusters: Tensor
    groups: Tensor
    targets: Tensor


def split_by_group(labels: Tensor, groups: Tensor) -> Parts:
    """Splits clusters (N,) by the groups (N,) of their samples; empty parts are omitted."""
    group_values, group_index = torch.unique(groups, return_inverse=True)
    # Uses cluster indices: a label times the number of groups may overflow int64.
    label_values, cluster_index = torch.unique(labels, return_inverse=True)
    num_groups = max(len(group_values), 1)
    cells = cluster_index * num_groups + group_index
    cells = torch.where(labels == NOISE, NOISE, cells)
    cells, numbers = torch.unique(cells, return_inverse=True)
    has_noise = int((cells == NOISE).any())  # the smallest cell, and so the first
    cells, targets = cells[has_noise:], numbers - has_noise
    return Parts(label_values[cells // num_groups], group_values[cells % num_groups], targets)


def unit_means(features: Tensor, parts: Parts) -> Tensor:
    """Returns (P, D) means of the features (N, D) of each part, normalized; a zero mean stays zero.

    Sums run in sample order. ``embedding_bag`` sums in this order on all devices, unlike
    ``index_add`` on a GPU, and needs no sorted copy of the features.
    """
    count, targets = len(parts.clusters), parts.targets
    if not count:
        return F.normalize(features[:0], dim=1)
    order = torch.argsort(targets, stable=True)
    bounds = torch.searchsorted(targets[order], torch.arange(count, device=targets.device))
    first = int(bounds[0])  # the number of noise rows, which come first
    rows = features.contiguous()
    means = F.embedding_bag(order[first:], rows, bounds - first, mode="mean")
    return F.normalize(means, dim=1)


def cluster_sizes(labels: Tensor) -> Tensor:
    """Returns (C,) int64 sizes of the clusters by ascending label; noise, below 0, is ignored."""
    sizes: Tensor = torch.unique(labels[labels >= 0], return_counts=True)[1]
    return sizes


def count_spanning(labels: Tensor, groups: Tensor) -> int:
    """Counts the clusters that have samples of every group in ``groups`` (N,)."""
    clusters = split_by_group(labels.clamp_min(NOISE), groups).clusters
    num_groups = len(torch.unique(groups))
    return int((torch.unique(clusters, return_counts=True)[1] == num_groups).sum())
