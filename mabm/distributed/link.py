"""Private connections between the processes of one call, which fail without harm to their group.

They are backends of ``torch.distributed`` that no process group knows. So a failure leaves the
user's group as it was, and the connections close when the call ends.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

_POISONED_TAG = 1


class Link(Protocol):
    """Connections of a process to all others.

    Attributes:
        device: Where the tensors must be.
    """

    device: torch.device

    def start(self, sent: Tensor, to: int, into: Tensor, source: int) -> list[tuple[int, Any]]:
        """Begins to send and to receive what is not empty; returns ranks and what to wait for."""

    def wait(self, work: Any) -> None:
        """Waits for one of these; raises RuntimeError where it fails."""

    def close(self) -> None:
        """Closes the connections, whatever is under way."""


def connect(store: Any, group: dist.ProcessGroup, seconds: float, device: torch.device) -> Link:
    """Connects the processes of a group; raises RuntimeError where that fails.

    Args:
        store: Where they find each other.
        group: The processes.
        seconds: Time limit of each transfer.
        device: Of the tensors. Between GPUs, NCCL is used where the group uses it; else tensors
            travel through the memory of the CPU.
    """
    place = (store, group.rank(), group.size(), seconds)
    return _NcclLink(*place, device) if _uses_nccl(group, device) else _GlooLink(*place)


def _uses_nccl(group: dist.ProcessGroup, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        return bool(group._get_backend(device).name() == "nccl")
    except RuntimeError:  # a group for the CPU alone
        return False


class _GlooLink:
    """Connections of gloo, between tensors on the CPU."""

    device = torch.device("cpu")

    def __init__(self, store: Any, rank: int, size: int, seconds: float) -> None:
        self._backend: Any = dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=seconds))
        self._peer = (rank + 1) % size

    def start(self, sent: Tensor, to: int, into: Tensor, source: int) -> list[tuple[int, Any]]:
        works = []
        if sent.numel():
            works.append((to, self._backend.send([sent], to, 0)))
        if into.numel():
            works.append((source, self._backend.recv([into], source, 0)))
        return works

    def wait(self, work: Any) -> None:
        work.wait()

    def close(self) -> None:
        # A receipt that comes too late closes all connections, also those that are being waited
        # for. ``abort`` of this backend closes none.
        with suppress(RuntimeError):
            late = self._backend.recv([torch.empty(1, device="cpu")], self._peer, _POISONED_TAG)
            late.wait(timedelta(milliseconds=1))
        del self._backend


class _NcclLink:
    """Connections of NCCL, between tensors on GPUs."""

    def __init__(
        self, store: Any, rank: int, size: int, seconds: float, device: torch.device
    ) -> None:
        options = dist.ProcessGroupNCCL.Options()
        # After its own time limit NCCL ends the process; ours comes first.
        options._timeout = timedelta(seconds=2 * seconds + 60)
        self._backend: Any = dist.ProcessGroupNCCL(store, rank, size, options)
        with torch.cuda.device(device):  # that of another thread is not the caller's
            self._backend.eager_connect_single_device(device)
        self._seconds, self.device = seconds, device

    def start(self, sent: Tensor, to: int, into: Tensor, source: int) -> list[tuple[int, Any]]:
        if not (sent.numel() or into.numel()):
            return []
        self._backend._start_coalescing()  # in one step, or the ring waits for itself
        if sent.numel():
            self._backend.send([sent], to, 0)
        if into.numel():
            self._backend.recv([into], source, 0)
        return [(source if into.numel() else to, self._backend._end_coalescing())]

    def wait(self, work: Any) -> None:
        begun = time.monotonic()
        while not work.is_completed():
            if time.monotonic() - begun > self._seconds:
                raise RuntimeError(f"nothing arrived in {self._seconds:g} s")
            time.sleep(0.0005)  # a piece takes milliseconds

    def close(self) -> None:
        self._backend.abort()
        del self._backend
