"""One call of a function by all processes of a group: who takes part, and who is to blame."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from mabm.distributed.board import Board, StoreError
from mabm.distributed.errors import ProcessError, named


class Call:
    """A call of one function.

    Args:
        name: Name of the function.
        group: The processes.
        seconds: How long one process waits for another one.

    Attributes:
        rank: Number of this process in the group.
        size: Number of processes.
        board: What they tell each other.
    """

    def __init__(self, name: str, group: dist.ProcessGroup, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self.rank, self.size = group.rank(), group.size()
        self.board = Board(name, group, seconds)

    def close(self) -> None:
        """Stops the heart."""
        self.board.close()

    def all_called(self) -> None:
        """Waits until all processes have called.

        Raises:
            ProcessError: Some have not in time.
        """
        if not self.board.wait_for_all("call", self.seconds):
            self.check_abort()
            absent = self.board.absent("call")
            if absent:
                words = f"{named(absent)} did not call it within {self.seconds:g} s"
                raise self.failed(absent, words)

    def all_done(self) -> None:
        """Waits until all processes are done, so that either all have a result or none.

        Raises:
            ProcessError: Some are not in time, or have failed.
        """
        self.board.write("done", True)
        if not self.board.wait_for_all("done", self.seconds):
            self.check_abort()
            absent = self.board.absent("done")
            if absent:
                raise self.explain(absent)

    def check_abort(self) -> None:
        """Raises ProcessError if this process knows that the call has failed."""
        if self.board.abort is not None:
            raise self._error(self.board.abort)

    def failed(self, processes: list[int], cause: str) -> ProcessError:
        """Returns the error that all processes raise: for this cause, or for an earlier one."""
        return self._error(self.board.claim_abort(self._abort(processes, cause)))

    def explain(self, peers: list[int]) -> ProcessError:
        """Returns the error of a wait that failed.

        Another process may know why. If none says so, one whose heart stands still is to blame,
        and else the one that was waited for, or that this one waits for, and so on.

        Args:
            peers: Who was waited for; none where it is all.
        """
        try:
            hearts = self.board.watch_hearts()
            if hearts is None:  # the cause is known, and stays
                return self.failed([], "another process has failed")
            return self.failed(*self._blame(peers, *hearts))
        except StoreError as error:
            also = f"; nor does {named(peers)}" if peers else ""
            abort = {"processes": peers, "message": f"{error}{also}"}
            self.board.leave_abort(abort)
            return self._error(abort)

    def _blame(
        self, peers: list[int], still: list[int], states: list[dict[str, Any]]
    ) -> tuple[list[int], str]:
        """The processes at fault and what they did."""
        if still:
            show = "shows" if len(still) == 1 else "show"
            return still, f"{named(still)} {show} no sign of life: ended, hanging or cut off"
        if not peers:
            return [], f"the processes cannot connect within {self.seconds:g} s"
        culprit = self._awaited(peers[0], states)
        stage = states[culprit].get("stage")
        where = f" in stage {stage!r}" if stage else ""
        return [culprit], (
            f"process {culprit} is alive{where}, but the wait for it failed or took more than "
            f"{self.seconds:g} s"
        )

    def _awaited(self, peer: int, states: list[dict[str, Any]]) -> int:
        """The process that one waits for, or the one that that one waits for, and so on."""
        seen = {self.rank}
        while peer not in seen and states[peer].get("waits_for") is not None:
            seen.add(peer)
            peer = states[peer]["waits_for"]
        return peer

    def _abort(self, processes: list[int], cause: str) -> dict[str, Any]:
        return {"processes": processes, "message": f"{self.name} has no result: {cause}"}

    def _error(self, abort: dict[str, Any]) -> ProcessError:
        own = " (this process)" if abort["processes"] == [self.rank] else ""
        return ProcessError(abort["message"] + own, abort["processes"])
