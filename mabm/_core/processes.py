"""Processes that work together: their rows, split evenly and joined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PATIENCE: Final = timedelta(hours=2)
"""How long the processes of a command wait for each other: for one that reads or clusters more, or
for the first one, which does all scoring and writing. Ten minutes, PyTorch's default with NCCL, can
be too short for a large data set on a small machine."""


def num_started() -> int:
    """Number of processes that ``torchrun`` started, this one among them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device, store: Store | None = None) -> Iterator[None]:
    """Connects the processes that ``torchrun`` started, and disconnects them on exit.

    An existing default group is used and kept. Without ``torchrun`` nothing happens.

    Args:
        device: Device of the tensors that they exchange.
        store: Where they meet, with their ``rank`` and number in the environment; by default, as
            the environment says.
    """
    if (dist.is_available() and dist.is_initialized()) or num_started() == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=-1 if store is None else int(os.environ["RANK"]),
        world_size=-1 if store is None else num_started(),
        timeout=PATIENCE,
        device_id=device if on_gpu else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


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

    For results, outside of calls of :mod:`mabm.distributed`, which have connections of their own
    (``mabm/distributed/exchange.py``).

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
