"""A command in several processes that ``torchrun`` starts: they fail together, and one speaks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch

from mabm._core.processes import PATIENCE, num_started, process_group
from mabm.cli.command import FAILURE, INTERRUPTED
from mabm.cli.errors import ToldError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# A process that has failed waits this long for others to fail too, before it speaks for itself.
# What fails for the same reason fails within seconds.
_GRACE: Final = timedelta(seconds=30)


class Processes:
    """The processes of a command, or only this one without ``torchrun``.

    Attributes:
        rank: Number of this process, from 0. The first one writes and prints.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int, store: Store | None) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._steps = 0

    def connected(self, device: torch.device) -> AbstractContextManager[None]:
        """Connects the processes for tensors on a device, and disconnects them on exit."""
        if self._store is None:
            return nullcontext()
        from torch.distributed.distributed_c10d import PrefixStore

        return process_group(device, PrefixStore("group", self._store))

    @contextmanager
    def together(self, tell: Callable[[Exception], int]) -> Iterator[None]:
        """A step of the command, which all processes end, or none.

        Args:
            tell: Reports an error to the user and returns the exit status. Only the first process
                that has one calls it.

        Raises:
            ToldError: In every process, an error of one or more of them. In one process, its own
                error is raised as it is.
            TimeoutError: A process did not end the step within two hours.
        """
        if self._store is None:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = self._failed(error)
        if failed:
            raise ToldError(self._status(failed[0], error, tell)) from error

    def _failed(self, error: Exception | None) -> list[int]:
        """The numbers of the processes that have failed in this step."""
        assert self._store is not None
        self._steps += 1
        keys = [f"{self._steps}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], "done" if error is None else "failed")
        try:
            self._store.wait(keys, PATIENCE if error is None else _GRACE)
        except RuntimeError as late:
            if error is None:
                missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise TimeoutError(
                    f"all {self.size} processes must end a step within {PATIENCE}, got none of "
                    f"process {', '.join(map(str, missing))}"
                ) from late
        found = [key for key in keys if self._store.check([key])]
        return [keys.index(key) for key in found if self._store.get(key) == b"failed"]

    def _status(
        self, speaker: int, error: Exception | None, tell: Callable[[Exception], int]
    ) -> int:
        """The exit status, once the process that speaks has spoken.

        Were another process to end before, ``torchrun`` might kill the one that speaks.
        """
        assert self._store is not None
        key = f"{self._steps}/status"
        if speaker == self.rank:
            assert error is not None
            status = tell(error)
            self._store.set(key, str(status))
            return status
        try:
            self._store.wait([key], 2 * _GRACE)
        except RuntimeError:  # it has ended before it could speak, and torchrun says so
            return FAILURE
        return int(self._store.get(key))


@contextmanager
def started_processes() -> Iterator[Processes]:
    """The processes that ``torchrun`` started. All but the first one log no warnings.

    Raises:
        ToldError: Ctrl-C in a process that is not the first one.
        ValueError: The environment does not say where the processes meet.
    """
    if num_started() == 1:
        yield Processes(0, 1, None)
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    if rank:
        logging.getLogger("mabm").setLevel(logging.ERROR)  # until the command ends
    try:
        yield Processes(rank, size, PrefixStore("mabm", store))
    except KeyboardInterrupt:
        if rank:
            raise ToldError(INTERRUPTED) from None
        raise
