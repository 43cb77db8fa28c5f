"""A memory of one bank that is moved by the least similar samples."""

from __future__ import annotations

from torch import Tensor

from mabm.contrast.memories.base import Memory
from mabm.contrast.memories.members import Members, mix, similarity_to_targets


class HardMemory(Memory):
    """One bank, each prototype moved once per batch by its least similar sample.

    Ties go to the first sample of the batch.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes, each its own cluster. Copied;
            not normalized.
        momentum: m in [0, 1], the weight of the old prototype in an update.

    Attributes:
        prototypes: (P, D) buffer, float32, or float64 for a float64 source.
        clusters: (P,) int64 buffer, the cluster of each prototype.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong shape, is out of range, or is not finite.

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
