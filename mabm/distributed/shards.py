"""The samples of one process, and what all processes know of the samples of all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabm.distance.list_layout import ListLayout, list_widths, lists_of_groups
from mabm.distance.presets import Preset


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of one process. Samples of all processes are numbered in the order of ranks.

    Attributes:
        features: (n, D) contiguous float32.
        groups: (n,) int64, or ``None`` without a modality.
        rank: Number of the process.
        counts: Number of rows of each process; they sum to N.
        group_sizes: Number of samples of all processes by group, ascending; without groups, one
            group 0 has all of them.
    """

    features: Tensor
    groups: Tensor | None
    rank: int
    counts: tuple[int, ...]
    group_sizes: dict[int, int]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def first(self) -> int:
        """Number of the first row of this process among all samples."""
        return self.first_of(self.rank)

    @property
    def total(self) -> int:
        """Number of samples of all processes, N."""
        return sum(self.counts)

    def first_of(self, rank: int) -> int:
        """Number of the first row of a process among all samples."""
        return sum(self.counts[:rank])

    def per_owner(self, samples: Tensor) -> list[int]:
        """How many of these samples (M,), ascending, each process has."""
        ends = torch.tensor(self.counts, device=samples.device).cumsum(0)
        return torch.searchsorted(samples, ends).diff(prepend=ends.new_zeros(1)).tolist()

    def layout(self, preset: Preset, k1: int) -> ListLayout:
        """The neighbor lists of these rows, among the samples of all processes."""
        groups, sizes = self.groups, self.group_sizes or {0: 0}
        if groups is None or preset.lists == "single":
            groups = self.features.new_zeros(len(self), dtype=torch.int64)
            sizes = {0: self.total}
        names = torch.tensor(list(sizes), dtype=torch.int64, device=groups.device)
        numbered = torch.searchsorted(names, groups).to(torch.int32)
        widths = list_widths(preset, k1, list(sizes.values()))
        return ListLayout(numbered, lists_of_groups(preset, len(sizes), groups.device), widths)
