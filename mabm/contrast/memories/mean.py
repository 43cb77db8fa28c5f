"""A memory of one bank that every sample moves in turn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mabm._core.arguments import check_integer
from mabm.contrast.memories.base import DEFAULT_MOMENTUM, Memory
from mabm.contrast.memories.members import Members, mix
from mabm.contrast.prototypes import PrototypeSplit


class MeanMemory(Memory):
    """One bank, moved by every sample in turn: ``row <- normalize(m * row + (1 - m) * sample)``.

    Samples of one row come in the order of the batch, and each finds the row as the one before
    left it; rows do not meet, so that all move at once, a sample each at a time.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own clusters.
            Copied, and taken as they are: means that are to have length one must have it.
        momentum: m in [0, 1], what a row keeps of itself.
        max_repeats: The most samples of one row in a (joined) batch, where that is known, 16 with
            16 images an identity. On a GPU the number of steps must be known without waiting for
            it, and is this, or else the size of the batch, which gives the same memory by more
            steps. More samples than this are an error, on a GPU by a device-side assertion.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 of such a source.
        clusters: (P,) int64 buffer.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of range or of another shape.

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
