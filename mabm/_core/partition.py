"""A partition of N samples into clusters and noise: its parts by modality, counts and means."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = -1
"""The label of a sample that is in no cluster, and the target of one that has no prototype."""


class Parts(NamedTuple):
    """The clusters, split by modality: P parts, cluster by cluster, modality ascending.

    Attributes:
        clusters: (P,) the cluster of each part, one of the labels.
        groups: (P,) the modality of each part.
        targets: (N,) int64 the part of each sample, -1 for noise.
    """

    clusters: Tensor
    groups: Tensor
    targets: Tensor


def split_by_group(labels: Tensor, groups: Tensor) -> Parts:
    """Splits clusters (N,) by the group (N,) of their samples; empty parts are skipped."""
    names, group_of = torch.unique(groups, return_inverse=True)
    # By number, as a label times the number of groups may be beyond int64.
    labels_found, cluster_of = torch.unique(labels, return_inverse=True)
    cells = cluster_of * max(len(names), 1) + group_of
    cells = torch.where(labels == NOISE, NOISE, cells)
    cells, numbers = torch.unique(cells, return_inverse=True)
    has_noise = int((cells == NOISE).any())  # the smallest cell, and so the first
    cells, targets = cells[has_noise:], numbers - has_noise
    places = cells // max(len(names), 1), cells % max(len(names), 1)
    return Parts(labels_found[places[0]], names[places[1]], targets)


def unit_means(features: Tensor, parts: Parts) -> Tensor:
    """(P, D) means of the features (N, D) of each part, at length one; zeros where a mean is zero.

    Sums run in the order of the samples. One bag of rows a part, summed in order on every device
    (an index_add on a GPU is not), and without a sorted copy of the features.
    """
    count, targets = len(parts.clusters), parts.targets
    if not count:
        return F.normalize(features[:0], dim=1)
    order = torch.argsort(targets, stable=True)
    bounds = torch.searchsorted(targets[order], torch.arange(count, device=targets.device))
    first = int(bounds[0])  # as many noise rows as come before
    rows = features.contiguous()
    means = F.embedding_bag(order[first:], rows, bounds - first, mode="mean")
    return F.normalize(means, dim=1)


def cluster_sizes(labels: Tensor) -> Tensor:
    """(C,) int64 sizes of the clusters by ascending label; noise, below 0, does not count."""
    sizes: Tensor = torch.unique(labels[labels >= 0], return_counts=True)[1]
    return sizes


def count_spanning(labels: Tensor, groups: Tensor) -> int:
    """Number of clusters with samples of every group that occurs in ``groups`` (N,)."""
    clusters = split_by_group(labels.clamp_min(NOISE), groups).clusters
    num_groups = len(torch.unique(groups))
    return int((torch.unique(clusters, return_counts=True)[1] == num_groups).sum())
