"""Processes that work together: their rows, split evenly and joined."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rows_of(rank: int, size: int, count: int) -> slice:
    """The rows of one process where all rows are split evenly and in order.

    Args:
        rank: Number of the process, from 0.
        size: Number of processes.
        count: Number of rows; a process may get none.
    """
    return slice(count * rank // size, count * (rank + 1) // size)


def gather(part: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Returns the tensors of all processes, in the order of ranks, without gradient.

    Args:
        part: Tensor of this process; all processes have the same shape.
        group: The process group; the default group unless given.
    """
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, part.detach().contiguous(), group=group)
    return parts


def join_rows(*columns: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Joins the rows of all processes, whose numbers of rows may differ.

    Args:
        columns: Tensors of this process with the same number of rows.
        group: The process group; the default group unless given.

    Returns:
        For each of ``columns``, the rows of all processes in the order of ranks, without gradient.
    """
    if dist.get_world_size(group) == 1:
        return list(columns)
    size = torch.full((1,), len(columns[0]), dtype=torch.int64, device=columns[0].device)
    counts = torch.cat(gather(size, group)).tolist()
    return [_join(part, counts, group) for part in columns]


def _join(part: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Joins rows, padded to the largest number for the transfer."""
    if not max(counts):
        return part.detach()
    padded = part.new_zeros((max(counts), *part.shape[1:]))
    padded[: len(part)] = part.detach()
    parts = gather(padded, group)
    return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])
