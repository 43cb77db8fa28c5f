"""A memory of two banks, one moved by means and one by hard samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm.contrast.memories.base import Memory
from mabm.contrast.memories.members import Members, mix, similarity_to_targets


class HybridMemory(Memory):
    """Two banks, one updated with the mean of a prototype's samples, one with the hardest of them.

    Both banks start from the same prototypes. The hardest sample is the one least similar to the
    prototype in the *mean* bank before the update; ties go to the first sample of the batch.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes, each its own cluster. Copied
            to both banks; not normalized.
        momentum: m in [0, 1], the weight of the old prototype in an update.

    Attributes:
        prototypes: (2, P, D) buffer, the mean bank first; float32, or float64 for a
            float64 source.
        clusters: (P,) int64 buffer, the cluster of each prototype.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong shape, is out of range, or is not finite.

    Source:
        Wang et al., AAAI 2026 (BMIL), as released.

    Example:
        >>> import torch, mabm
        >>> memory, batch = mabm.HybridMemory(torch.eye(3), momentum=0.0), torch.eye(3)[[0, 2]]
        >>> memory.update(batch, torch.tensor([0, 0]))
        >>> memory.prototypes[:, 0]
        tensor([[0.7071, 0.0000, 0.7071],
                [0.0000, 0.0000, 1.0000]])
    """

    _num_banks = 2

    def _moved(self, prototypes: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        return move_banks(prototypes, rows, targets, self.momentum)


def move_banks(banks: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """(2, P, D) banks after the update of a :class:`HybridMemory` by (B, D) unit rows."""
    members = Members.group(targets, banks.shape[1], similarity_to_targets(banks[0], rows, targets))
    if members is None:
        return banks
    current = banks[:, members.targets]
    samples = torch.stack([members.means(rows), rows[members.first()]])
    moved = mix(current, samples, momentum).where(members.sizes[:, None] > 0, current)
    return banks.index_copy(1, members.targets, moved)
