"""One call of a function by all processes of a group: who takes part, and who is to blame."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

from mabm.distributed.board import Board, StoreError
from mabm.distributed.errors import ProcessError, named

_PAUSE = 0.05
"""Seconds between two looks for what another process says."""


class Call:
    """A call of one function.

    Args:
        name: Name of the function.
        group: The processes.
        seconds: How long one process waits for another one.
    """

    def __init__(self, name: str, group: dist.ProcessGroup, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self.rank, self.size = group.rank(), group.size()
        self.board = Board(group, self.rank, self.size, seconds)

    def all_called(self) -> None:
        """Waits until all processes have called.

        Raises:
            ProcessError: Some have not in time.
        """
        if not self.board.wait_for_all("call", self.seconds):
            self.check_abort()
            absent = self._absent("call")
            raise self.failed(absent, f"{named(absent)} did not call it in {self.seconds:g} s")

    def all_done(self) -> None:
        """Waits until all processes are done, so that all have a result or none.

        Raises:
            ProcessError: Some are not in time, or have failed.
        """
        self.board.write("done", True)
        if not self.board.wait_for_all("done", self.seconds):
            raise self.explain(self._absent("done"))

    def failed(self, processes: list[int], cause: str) -> ProcessError:
        """Returns the error that all processes raise: for this cause, or for an earlier one."""
        text = f"{self.name} has no result: {cause}"
        return self._error(self.board.claim_abort({"processes": processes, "message": text}))

    def explain(self, peers: list[int], cause: Exception | None = None) -> ProcessError:
        """Returns the error of a wait that failed.

        Another process may know why. If none says so, one whose heart stands still is to blame,
        and else the one that was waited for, or that this one waits for, and so on.

        Args:
            peers: Who was waited for; none where it is all.
            cause: What the backend said.
        """
        try:
            before, begun = self.board.read("beat"), time.monotonic()
            while not self.board.look_for_abort():
                if time.monotonic() - begun > self.board.grace:
                    return self._blame(peers, cause, before, self.board.read("beat"))
                time.sleep(_PAUSE)
        except StoreError as lost:
            also = f"; nor does {named(peers)}" if peers else ""
            return StoreError(f"{self.name} has no result: {lost}{also}", peers)
        return self._error(self.board.look_for_abort() or {})

    def _blame(
        self, peers: list[int], cause: Exception | None, before: list[Any], after: list[Any]
    ) -> ProcessError:
        others = [rank for rank in range(self.size) if rank != self.rank]
        still = [rank for rank in others if before[rank] == after[rank]]
        if still:
            state = "has" if len(still) == 1 else "have"
            return self.failed(still, f"{named(still)} {state} ended or cannot be reached")
        if not peers:
            return self.failed([], f"the processes cannot connect: {cause}")
        culprit = self._awaited(peers[0], after)
        stage = after[culprit].get("stage")
        what = f"is alive{f' in stage {stage!r}' if stage else ''}, but keeps the others waiting"
        return self.failed([culprit], f"process {culprit} {what}: {cause or 'it is not done'}")

    def _absent(self, kind: str) -> list[int]:
        return [rank for rank, note in enumerate(self.board.read(kind)) if note is None]

    def close(self) -> None:
        """Stops the heart."""
        self.board.close()

    def check_abort(self) -> None:
        """Raises ProcessError if this process knows that the call has failed."""
        if self.board.abort is not None:
            raise self._error(self.board.abort)

    def _awaited(self, peer: int, states: list[dict[str, Any]]) -> int:
        """The process that one waits for, or the one that that one waits for, and so on."""
        seen = {self.rank}
        while peer not in seen and states[peer].get("waits_for") is not None:
            seen.add(peer)
            peer = states[peer]["waits_for"]
        return peer

    def _error(self, abort: dict[str, Any]) -> ProcessError:
        own = " (this process)" if abort["processes"] == [self.rank] else ""
        return ProcessError(abort["message"] + own, abort["processes"])
