"""The rows of a batch, grouped by the prototype that they move."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mabm._core.batch_checks import values_are_at_hand
from mabm._core.partition import NOISE


class Members:
    """The rows of a batch by target: which targets there are, and the rows of each in order.

    If values can be read without waiting for a GPU, S is the number of targets in the batch. On a
    GPU, S is the greatest number possible, min(B, P): spare entries repeat the first one, and all
    entries have size 0 if the whole batch is noise.

    Attributes:
        targets: (S,) the target of each entry.
        sizes: (S,) the number of rows of each entry.
    """

    def __init__(self, order: Tensor, starts: Tensor, targets: Tensor, sizes: Tensor) -> None:
        self._order, self._starts = order, starts
        self.targets, self.sizes = targets, sizes

    @classmethod
    def group(
        cls, targets: Tensor, num_targets: int, ascending: Tensor | None = None
    ) -> Members | None:
        """Groups rows by target, in batch order or by ``ascending`` (B,); ``None`` without rows."""
        if not targets.shape[0] or not num_targets:
            return None
        keys = targets.masked_fill(targets == NOISE, num_targets)  # noise comes last
        if ascending is None:
            order = torch.argsort(keys, stable=True)
        else:
            by_number = torch.argsort(ascending, stable=True)
            order = by_number[torch.argsort(keys[by_number], stable=True)]
        keys = keys[order]
        is_first = torch.cat([keys.new_full((1,), NOISE), keys[:-1]]) != keys
        is_first &= keys != num_targets
        if values_are_at_hand(is_first):
            starts = torch.nonzero(is_first)[:, 0]
            if not starts.shape[0]:
                return None
        else:
            starts = torch.argsort((~is_first).to(torch.uint8), stable=True)
            starts = starts[: min(targets.shape[0], num_targets)]
            starts = starts.where(is_first[starts], starts[:1])
        found = keys[starts]
        sizes = torch.searchsorted(keys, found, right=True) - starts
        sizes = sizes.masked_fill(found == num_targets, 0)
        return cls(order, starts, found.clamp(max=num_targets - 1), sizes)

    def first(self) -> Tensor:
        """(S,) the first row of each entry; an arbitrary row for an entry of size 0."""
        return self._order[self._starts]

    def in_turn(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """(num_steps, S) the rows of each entry in order, and a mask of those that exist."""
        steps = torch.arange(num_steps, device=self._order.device)[:, None]
        places = (self._starts + steps).clamp(max=self._order.shape[0] - 1)
        return self._order[places], steps < self.sizes

    def count_steps(self, max_repeats: int | None) -> int:
        """The largest size if it can be read without waiting, else its least known upper bound."""
        if values_are_at_hand(self.sizes):
            largest = int(self.sizes.max())
            if max_repeats is not None and largest > max_repeats:
                raise ValueError(
                    f"targets must contain no row more often than max_repeats = {max_repeats}, "
                    f"got one {largest} times"
                )
            return largest
        if max_repeats is None:
            return self._order.shape[0]
        torch._assert_async(
            self.sizes.amax() <= max_repeats,
            f"targets must contain no row more often than max_repeats = {max_repeats}",
        )
        return min(max_repeats, self._order.shape[0])

    def means(self, rows: Tensor) -> Tensor:
        """(S, D) mean of the rows of each entry, summed in their order."""
        # A bag ends where the next begins: spare entries get empty bags, and noise the last one.
        is_entry = torch.cat([self._starts.new_full((1,), -1), self._starts[:-1]]) < self._starts
        is_entry &= self.sizes > 0
        clustered = (self.sizes * is_entry).sum()
        bounds = torch.cat([self._starts.where(is_entry, clustered), clustered[None]])
        means = F.embedding_bag(self._order, rows, bounds, mode="mean")[:-1]
        return means.where(is_entry[:, None], means[:1])


def mix(prototypes: Tensor, samples: Tensor, momentum: float) -> Tensor:
    """Returns ``normalize(momentum * prototypes + (1 - momentum) * samples)``, row by row."""
    return F.normalize(prototypes.lerp(samples, 1 - momentum), dim=-1)


def similarity_to_targets(prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """(B,) inner product of each row with its prototype; an arbitrary number for noise."""
    if not prototypes.shape[0]:
        return rows.new_zeros(rows.shape[0])
    return (rows * prototypes[targets.clamp(min=0)]).sum(dim=1)
