"""Two ranges of samples, each ranked among the other: a part of a ranking of more samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mabm.distance.list_layout import ListLayout


@dataclass(frozen=True, eq=False)
class Sides:
    """Two ranges of samples; every sample is compared with those of the other range alone.

    Attributes:
        ranges: Row numbers of either side. They do not overlap, and need not be all rows.
        least: (N, L) float64: a sample that scores less is not wanted in this list of a row, for
            instance because the list is full of nearer ones from elsewhere; ``None`` to want all.
    """

    ranges: tuple[slice, slice]
    least: Tensor | None = None

    @property
    def num_pairs(self) -> int:
        """Number of pairs that are compared."""
        first, second = (len(range(side.start, side.stop)) for side in self.ranges)
        return first * second

    def rows(self, device: torch.device) -> Tensor:
        """(B,) int64, the rows of both sides, one side after the other."""
        return torch.cat(
            [torch.arange(side.start, side.stop, device=device) for side in self.ranges]
        )

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the given rows that are on the first side, and those on the second."""
        first, second = (rows[(rows >= side.start) & (rows < side.stop)] for side in self.ranges)
        return first, second

    def thresholds(self, rows: slice | Tensor, offsets: Tensor, area: Tensor) -> Tensor | None:
        """(B, L) float32: what has a lower upper bound, or this one, is not wanted.

        Args:
            rows: Row numbers.
            offsets: (B,) float64 of these rows: an exact score ``s`` is at most
                ``(bound + offset) / area``.
            area: Scalar float64, positive.
        """
        if self.least is None:
            return None
        reachable = (self.least[rows] * area - offsets[:, None]).to(torch.float32)
        # Rounded to a neighbor at most, so the next one is below what is wanted.
        below = torch.nextafter(reachable, torch.full_like(reachable, -torch.inf))
        return below.masked_fill(below.isnan(), -torch.inf)  # nothing is known

    def apart(self, layout: ListLayout) -> ListLayout:
        """The lists with one more, of no width, which takes all that are not on the other side."""
        num_groups, num_lists = len(layout.list_of_group), len(layout.widths)
        shape = (2 * num_groups + 1, 2 * num_groups + 1)
        lists = layout.list_of_group.new_full(shape, num_lists)
        lists[:num_groups, num_groups:-1] = layout.list_of_group
        lists[num_groups:-1, :num_groups] = layout.list_of_group
        groups = torch.full_like(layout.groups, 2 * num_groups)
        for number, side in enumerate(self.ranges):
            groups[side] = layout.groups[side] + number * num_groups
        return ListLayout(groups, lists, [*layout.widths, 0])

    def drop_unwanted(self, ranks: Tensor, scores: Tensor, widths: list[int]) -> None:
        """Ends each list (N, K) where scores are less than ``least``: -1 and -inf."""
        if self.least is None:
            return
        lengths = torch.tensor(widths, device=scores.device)
        unwanted = scores < self.least.repeat_interleave(lengths, dim=1)
        ranks.masked_fill_(unwanted, -1)
        scores.masked_fill_(unwanted, -torch.inf)
