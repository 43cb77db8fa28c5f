"""Counts over a partition of N samples into clusters and noise."""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_sizes(labels: Tensor) -> Tensor:
    """(C,) int64 sizes of the clusters by ascending label; noise, below 0, does not count."""
    sizes: Tensor = torch.unique(labels[labels >= 0], return_counts=True)[1]
    return sizes


def count_spanning(labels: Tensor, groups: Tensor) -> int:
    """Number of clusters with samples of every group that occurs in ``groups`` (N,)."""
    present, group_of = torch.unique(groups, return_inverse=True)
    clustered = labels >= 0
    # By number, as a label times the number of groups may be beyond int64.
    _, cluster_of = torch.unique(labels[clustered], return_inverse=True)
    cells = torch.unique(cluster_of * len(present) + group_of[clustered])
    if not len(cells):
        return 0
    return int((torch.bincount(cells // len(present)) == len(present)).sum())
