"""A memory of one bank that the least similar samples move."""

from __future__ import annotations

from torch import Tensor

from mabm.contrast.memories.base import Memory
from mabm.contrast.memories.members import Members, mix, similarity_to_targets


class HardMemory(Memory):
    """One bank, each row moved once a batch by its sample that is least similar to it.

    Of samples that tie, the first of the batch. Errors are those of :class:`MeanMemory`.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes that are their own clusters.
            Copied, and taken as they are.
        momentum: m in [0, 1], what a row keeps of itself.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 of such a source.
        clusters: (P,) int64 buffer.

    Source:
        Dai et al., ACCV 2022, as released (``cm_hard``).

    Example:
        >>> import torch, mabm
        >>> memory, batch = mabm.HardMemory(torch.eye(3), momentum=0.0), torch.eye(3)[[0, 2]]
        >>> memory.update(batch, torch.tensor([0, 0]))
        >>> memory.prototypes[0]
        tensor([0., 0., 1.])
    """

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_by_hardest(prototypes, rows, targets, self.momentum)


def move_by_hardest(prototypes: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """(P, D) prototypes after the update of a :class:`HardMemory` by (B, D) unit rows."""
    similarities = similarity_to_targets(prototypes, rows, targets)
    members = Members.group(targets, prototypes.shape[0], similarities)
    if members is None:
        return prototypes
    current = prototypes[members.targets]
    moved = mix(current, rows[members.first()], momentum)
    return prototypes.index_copy(
        0, members.targets, moved.where(members.sizes[:, None] > 0, current)
    )
