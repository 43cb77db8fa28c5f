"""A memory of one bank that is moved by each sample in turn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mabm._core.arguments import check_integer
from mabm.contrast.memories.base import DEFAULT_MOMENTUM, Memory
from mabm.contrast.memories.members import Members, mix
from mabm.contrast.prototypes import PrototypeSplit


class MeanMemory(Memory):
    """One bank, moved by each sample in turn: ``p <- normalize(m * p + (1 - m) * sample)``.

    The samples of one prototype apply in batch order, each to the result of the previous one.
    Prototypes are independent, so step i moves every prototype by its i-th sample at once.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes, each its own cluster. Copied;
            not normalized, so prototypes of unit length must be given as such.
        momentum: m in [0, 1], the weight of the old prototype in an update.
        max_repeats: Upper bound on the samples of one prototype in a (joined) batch, for instance
            16 with 16 images of each identity; ``None`` if unknown. On a GPU this is the number of
            steps, since counting would synchronize; without it the number is the batch size, which
            gives the same memory but is slower. Exceeding it is an error, on a GPU by a device-side
            assertion.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 for a float64 source.
        clusters: (P,) int64 buffer, the cluster of each prototype.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong shape, is out of range, or is not finite.

    Source:
        Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022,
        equation 2.

    Example:
        >>> import torch, mabm
        >>> memory = mabm.MeanMemory(torch.eye(3), momentum=0.0)
        >>> memory.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([1]))
        >>> memory.prototypes[1]
        tensor([0., 0., 1.])
    """

    def __init__(
        self,
        source: Tensor | PrototypeSplit[Any],
        *,
        momentum: float = DEFAULT_MOMENTUM,
        max_repeats: int | None = None,
    ) -> None:
        super().__init__(source, momentum=momentum)
        if max_repeats is not None:
            max_repeats = check_integer("max_repeats", max_repeats, at_least=1)
        self.max_repeats = max_repeats

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_by_each(prototypes, rows, targets, self.momentum, self.max_repeats)


def move_by_each(
    prototypes: Tensor,
    rows: Tensor,
    targets: Tensor,
    momentum: float,
    max_repeats: int | None = None,
) -> Tensor:
    """(P, D) prototypes after the update of a :class:`MeanMemory` by (B, D) unit rows."""
    members = Members.group(targets, prototypes.shape[0])
    if members is None:
        return prototypes
    moved = prototypes[members.targets]
    in_turn, is_there = members.in_turn(members.count_steps(max_repeats))
    for samples, present in zip(in_turn, is_there, strict=True):
        moved = mix(moved, rows[samples], momentum).where(present[:, None], moved)
    return prototypes.index_copy(0, members.targets, moved)
