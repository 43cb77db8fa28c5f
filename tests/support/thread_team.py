"""Teams whose processes are threads of this one: fast enough to draw many cases."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mabm.distributed.team import Team

SECONDS = 120  # longer than any test; a mistake ends in an error, not in a standstill


class ThreadTeam(Team):
    """One of several threads, which exchange tensors through queues."""

    def __init__(self, rank: int, queues: list[list["queue.Queue[Any]"]]) -> None:
        super().__init__(rank, len(queues))
        self._queues = queues

    def _start(self, sent: Tensor, to: int, source: int, into: Tensor) -> "_Arrival":
        if sent.numel():
            self._queues[self.rank][to].put(sent.clone())
        return _Arrival(self._queues[source][self.rank], into)


class _Arrival:
    def __init__(self, arrivals: "queue.Queue[Any]", into: Tensor) -> None:
        self._arrivals, self._into = arrivals, into

    def wait(self) -> None:
        if self._into.numel():
            received = self._arrivals.get(timeout=SECONDS)
            assert received.shape == self._into.shape
            assert received.dtype == self._into.dtype
            self._into.copy_(received)


def run_as_team(size: int, act: Callable[[Team], Any]) -> list[Any]:
    """What ``act`` returns in each of ``size`` threads, which form a team; the first error if any."""
    queues: list[list[queue.Queue[Any]]] = [[queue.Queue() for _ in range(size)] for _ in range(size)]
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            with torch.no_grad():
                results[rank] = act(ThreadTeam(rank, queues))
        except BaseException as error:  # noqa: BLE001  # raised by the caller
            errors.append(error)

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not errors:
            thread.join(0.05)
    if errors:
        raise errors[0]
    return results
