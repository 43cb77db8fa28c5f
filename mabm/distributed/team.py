"""A team of processes, and the one way in which they exchange tensors.

Everything that crosses the wire goes through :meth:`Team.swap` and :meth:`Team.start_swap`: each
process sends to one other and receives from one other. So the bytes on the wire are counted in one
place, and where something fails, the process that was waited for is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Transfer(Protocol):
    """A transfer under way."""

    def wait(self) -> None:
        """Waits until both directions are done."""


class Team:
    """The processes that compute one result together; each calls the same methods in one order.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        sent_bytes: Bytes that this process has sent, by stage.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.sent_bytes: Counter[str] = Counter()
        self._stage = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names what is done within, in messages and in ``sent_bytes``."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    def swap(self, sent: Tensor, to: int, source: int) -> Tensor:
        """Sends rows to one process and returns the rows that another one sends here.

        Args:
            sent: (M, ...); all processes give the same type and shape but for M.
            to: Rank of the process that receives them.
            source: Rank of the process whose rows are returned.

        Returns:
            (M', ...) on the same device. From this process itself, ``sent``.
        """
        if to == source == self.rank:
            return sent
        size = torch.tensor([len(sent)], dtype=torch.int64, device=sent.device)
        other = torch.empty_like(size)
        self.start_swap(size, to, source, other).wait()
        received = sent.new_empty((int(other), *sent.shape[1:]))
        self.start_swap(sent, to, source, received).wait()
        return received

    def start_swap(self, sent: Tensor, to: int, source: int, into: Tensor) -> Transfer:
        """Begins to send a tensor and to receive one of a known shape.

        Neither tensor may be changed before ``wait`` of the result returns. An empty tensor is not
        sent.

        Args:
            sent: Contiguous; ``to`` has given an ``into`` of this shape and type.
            to: Rank of the process that receives it.
            source: Rank of the process that sends here.
            into: Contiguous; written.
        """
        self.sent_bytes[self._stage] += sent.numel() * sent.element_size()
        return self._start(sent.contiguous(), to, source, into)

    def _start(self, sent: Tensor, to: int, source: int, into: Tensor) -> Transfer:
        raise NotImplementedError  # each kind of team has its own; one process sends nothing
