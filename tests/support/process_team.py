"""Processes with a gloo group, started once, that run one function after the other."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 240  # longer than any test; a mistake ends in an error, not in a standstill


class ProcessTeam:
    """Several processes of one group; each runs what it is given with its own arguments."""

    def __init__(self, size: int) -> None:
        # Whoever starts the processes listens, so that no port is chosen before it is free.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = mp.get_context("spawn")
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            pipe, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, rank, size, self._store.port), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def run(self, act: Callable[..., Any], *each: list[Any]) -> list[Any]:
        """What ``act`` returns on every process, or the error that it raises there.

        Args:
            act: A function of a module, which processes can import.
            each: Arguments, one for each process.
        """
        for rank, pipe in enumerate(self._pipes):
            pipe.send((act, [argument[rank] for argument in each]))
        return [self._receive(pipe) for pipe in self._pipes]

    def check(self, act: Callable[..., Any], *each: list[Any]) -> list[Any]:
        """:meth:`run` where no process may raise."""
        found = self.run(act, *each)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found

    def _receive(self, pipe: Any) -> Any:
        assert pipe.poll(SECONDS), "a process does not answer"
        return pipe.recv()

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(SECONDS)


@contextmanager
def process_team(size: int) -> Iterator[ProcessTeam]:
    """A team of processes that ends with the context."""
    team = ProcessTeam(size)
    try:
        yield team
    finally:
        team.close()


def _work(pipe: Any, rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    dist.init_process_group("gloo")
    while True:
        try:
            act, arguments = pipe.recv()
        except EOFError:
            break
        try:
            result = act(*arguments)
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error))) if hasattr(
                error, "add_note"
            ) else None
            result = error
        pipe.send(result)
    dist.destroy_process_group()
