"""The team of the processes of a group of ``torch.distributed``, for one call."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mabm.distributed.board import LONGEST_END, start_thread
from mabm.distributed.call import Call
from mabm.distributed.link import Link, connect
from mabm.distributed.team import Team

_PAUSE = 0.2
"""Seconds after which a process that waits looks again whether the call has failed."""


class GroupTeam(Team):
    """The processes of one call, joined by connections of their own.

    Waits run in a thread, so that this one notices an interruption, and that another process has
    failed. Whatever holds on to a work keeps its connection open, also a frame of a traceback. So
    works are in ``_works`` alone, or with the thread.
    """

    def __init__(self, call: Call, group: dist.ProcessGroup, device: torch.device) -> None:
        super().__init__(call.rank, call.size)
        self._call = call
        self._works: dict[int, list[tuple[int, Any]]] = {}
        self._num_transfers = 0
        self._waits_for = call.rank
        self._link = _connected(call, group, device)
        self._waits: SimpleQueue[tuple[list[tuple[int, Any]], futures.Future[None]] | None]
        self._waits = SimpleQueue()
        self._thread = start_thread(self._serve, "mabm transfers")

    def close(self) -> None:
        """Closes the connections, whatever is under way."""
        self._waits.put(None)
        self._link.close()
        for works in self._works.values():
            works.clear()
        self._thread.join(LONGEST_END)

    def _start(self, sent: Tensor, to: int, source: int, into: Tensor) -> _Arrival:
        self._call.check_abort()
        sent = sent.to(self._link.device)
        received = torch.empty_like(into, device=self._link.device)
        if into.device == received.device:
            received = into
        self._num_transfers += 1
        works = self._works[self._num_transfers] = []
        try:
            works += self._link.start(sent, to, received, source)
        except RuntimeError as error:
            raise self._call.explain([to, source]) from error.with_traceback(None)
        return _Arrival(self, self._num_transfers, sent, received, into)

    def finish(self, number: int) -> None:
        """Waits for a transfer."""
        done: futures.Future[None] = futures.Future()
        self._waits.put((self._works[number], done))
        while True:
            try:
                error = done.exception(_PAUSE)
                break
            except futures.TimeoutError:
                self._call.check_abort()
        del self._works[number]
        if isinstance(error, RuntimeError):
            raise self._call.explain([self._waits_for]) from error
        done.result()
        self._call.board.state = {"stage": self._stage}

    def _serve(self) -> None:
        """Waits for one list of works after the other, and empties it."""
        while (task := self._waits.get()) is not None:
            works, done = task
            work: Any = None
            try:
                while works:
                    self._waits_for, work = works.pop(0)
                    self._call.board.state = {"stage": self._stage, "waits_for": self._waits_for}
                    self._link.wait(work)
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error.with_traceback(None))
            del task, works, work, done


def _connected(call: Call, group: dist.ProcessGroup, device: torch.device) -> Link:
    """Connects the processes of a call.

    A backend tries for several times its limit to reach a process that has ended, and notices no
    interruption. So a thread waits for it, and closes what comes too late.
    """
    connecting: futures.Future[Link] = futures.Future()

    def act() -> None:
        try:
            store = call.board.link_store()
            connecting.set_result(connect(store, group, call.seconds, device))
        except BaseException as error:
            connecting.set_exception(error.with_traceback(None))

    begun = time.monotonic()
    threading.Thread(target=act, daemon=True, name="mabm connections").start()
    try:
        while not connecting.done() and time.monotonic() - begun < call.seconds:
            futures.wait([connecting], _PAUSE)
            call.check_abort()
        error = connecting.exception(0)
    except futures.TimeoutError as late:
        error = RuntimeError(str(late))
    except BaseException:
        call.board.leave_link_store()
        connecting.add_done_callback(_close_late)
        raise
    if isinstance(error, RuntimeError):
        call.board.leave_link_store()
        connecting.add_done_callback(_close_late)
        raise call.explain([]) from error
    return connecting.result()


def _close_late(connecting: futures.Future[Link]) -> None:
    if connecting.exception() is None:
        connecting.result().close()


class _Arrival:
    """A transfer under way; its tensors must live until it ends."""

    def __init__(
        self, team: GroupTeam, number: int, sent: Tensor, received: Tensor, into: Tensor
    ) -> None:
        self._team, self._number = team, number
        self._sent, self._received, self._into = sent, received, into

    def wait(self) -> None:
        self._team.finish(self._number)
        if self._received is not self._into:
            self._into.copy_(self._received)
