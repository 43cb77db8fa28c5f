"""Which neighbor lists each sample has, how long they are, and which samples each may contain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabm.distance.presets import Preset


@dataclass(frozen=True)
class ListLayout:
    """Which list of a row each column belongs to, given the groups of both.

    Attributes:
        groups: (N,) int32, numbered from 0 without gaps.
        list_of_group: (G, G) int32: the list in which a row of one group keeps another group.
        widths: Length of each list.
    """

    groups: Tensor
    list_of_group: Tensor
    widths: list[int]

    @classmethod
    def of(cls, x: Tensor, groups: Tensor | None, preset: Preset, k1: int) -> ListLayout:
        """The lists of a preset.

        Args:
            x: (N, D), the samples.
            groups: (N,) int64, the group of each sample; ``None`` for a single group.
            preset: Defines the lists.
            k1: Number of neighbors in all lists of a sample, unless the preset has its own.
        """
        if groups is None or preset.lists == "single":
            groups = x.new_zeros(len(x), dtype=torch.int64)
        _, numbered, counts = torch.unique(groups, return_inverse=True, return_counts=True)
        sizes = counts.tolist() or [0]
        list_of_group = lists_of_groups(preset, len(sizes), x.device)
        return cls(numbered.to(torch.int32), list_of_group, list_widths(preset, k1, sizes))


def lists_of_groups(preset: Preset, num_groups: int, device: torch.device) -> Tensor:
    """(G, G) int32: the list in which a row of one group keeps another group."""
    numbers = torch.arange(num_groups, dtype=torch.int32, device=device)
    if preset.lists == "intra_inter":
        return (numbers[:, None] != numbers).to(torch.int32)
    return numbers.expand(num_groups, -1).contiguous()


def list_widths(preset: Preset, k1: int, sizes: list[int]) -> list[int]:
    """Length of each list of a sample, for groups of these sizes."""
    count = sum(sizes)
    if preset.lists == "intra_inter":
        return [
            min(preset.k1_intra + 1, max(sizes)),
            min(preset.k1_inter + 1, count - min(sizes)),
        ]
    if preset.lists == "single":
        return [min(k1, count)]
    return [min(k1 // len(sizes), size) for size in sizes]
