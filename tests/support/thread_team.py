"""Teams whose processes are threads of this one: fast enough to draw many cases.

They hold their users to what transfers demand: what is sent stays as it is, and what is received is
not there, before the end of a wait.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mabm.distributed.team import Team

SECONDS = 120  # longer than any test; a mistake ends in an error, not in a standstill


class Channel:
    """What one thread sends to another; messages meet receivers in the order of both."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._sent: dict[int, Tensor] = {}
        self._num_sent = self._num_expected = 0

    def send(self, message: Tensor) -> None:
        with self._news:
            self._sent[self._num_sent] = message
            self._num_sent += 1
            self._news.notify_all()

    def expect(self) -> int:
        self._num_expected += 1
        return self._num_expected - 1

    def receive(self, number: int) -> Tensor:
        with self._news:
            assert self._news.wait_for(lambda: number in self._sent, SECONDS), "nothing was sent"
            return self._sent.pop(number)


NOT_THERE = 77  # in place of what has not arrived yet


class ThreadTeam(Team):
    """One of several threads, which exchange tensors in memory."""

    def __init__(self, rank: int, channels: list[list[Channel]]) -> None:
        super().__init__(rank, len(channels))
        self._channels = channels

    def _start(self, sent: Tensor, to: int, source: int, into: Tensor) -> "_Arrival":
        copy = sent.clone()
        if sent.numel():
            self._channels[self.rank][to].send(copy)
        into.fill_(NOT_THERE)
        return _Arrival(self._channels[source][self.rank], into, sent, copy)


class _Arrival:
    def __init__(self, channel: Channel, into: Tensor, sent: Tensor, copy: Tensor) -> None:
        self._channel, self._into = channel, into
        self._sent, self._copy = sent, copy
        self._number = channel.expect() if into.numel() else -1

    def wait(self) -> None:
        assert torch.equal(self._sent, self._copy), "changed while it was sent"
        if self._into.numel():
            received = self._channel.receive(self._number)
            assert received.shape == self._into.shape
            assert received.dtype == self._into.dtype
            self._into.copy_(received)


def run_as_team(size: int, act: Callable[[Team], Any]) -> list[Any]:
    """What ``act`` returns in each of ``size`` threads, which form a team; raises their errors."""
    channels = [[Channel() for _ in range(size)] for _ in range(size)]
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            results[rank] = act(ThreadTeam(rank, channels))
        except BaseException as error:
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
