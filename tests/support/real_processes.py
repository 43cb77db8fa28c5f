"""Processes of a gloo group, some of which end or stop at a place of their choice."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 240
"""Longer than any test on a busy machine; who is not at its end then never ends."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "mabm.distributed", "real_processes"])


@dataclass
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; ``None`` where it did not end by itself.
        value: What its function returned.
    """

    code: int | None
    value: Any = None


def run(
    size: int, act: Callable[..., Any], *arguments: Any, first_hosts_store: bool = False
) -> list[Ended]:
    """Runs ``act(rank, *arguments)`` in each process of a group, and wakes those that stopped.

    Args:
        size: Number of processes.
        act: A function of a module.
        arguments: For ``act``.
        first_hosts_store: Whether process 0 hosts the group's store, rather than this process.
    """
    store = None
    ports = CONTEXT.SimpleQueue()
    if not first_hosts_store:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for _ in range(size):
            ports.put(store.port)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(
            target=_one,
            args=(rank, size, first_hosts_store and rank == 0, ports, sender, act, arguments),
        )
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    values: list[Any] = [None] * size

    def receive(rank: int) -> None:
        try:
            values[rank] = pipes[rank][0].recv()
        except (EOFError, OSError):  # it ended before it could say anything, or all of it
            return

    readers = [threading.Thread(target=receive, args=(rank,), daemon=True) for rank in range(size)]
    for reader in readers:
        reader.start()
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            running = [each for each in processes if each.exitcode is None]
            if all(_has_stopped(each.pid) for each in running):
                break
            time.sleep(0.05)
        for process in running:
            os.kill(process.pid, signal.SIGCONT)
        for ending in (*processes, *readers):
            ending.join(max(0.0, until - time.monotonic()))
        return [
            Ended(process.exitcode, value) for process, value in zip(processes, values, strict=True)
        ]
    finally:
        for process in processes:
            if process.exitcode is None:
                process.kill()
                process.join()


def _has_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except OSError:  # it has ended in the meantime
        return False


def _one(
    rank: int,
    size: int,
    hosts_store: bool,
    ports: Any,
    sender: Connection,
    act: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    port = 0 if hosts_store else ports.get()
    store = dist.TCPStore("127.0.0.1", port, is_master=hosts_store, wait_for_workers=False)
    if hosts_store:
        for _ in range(size - 1):
            ports.put(store.port)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    dist.barrier()  # or one that ends early is missed by others that still connect
    sender.send(act(rank, *arguments))
    sender.close()


def stop() -> None:
    """Stops this process until it is woken."""
    os.kill(os.getpid(), signal.SIGSTOP)


def end() -> None:
    """Ends this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def num_connections() -> int:
    """Number of sockets that this process has open."""
    links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sum("socket" in os.readlink(link) for link in links if os.path.islink(link))


def num_threads() -> int:
    """Number of threads of calls that have not ended yet."""
    return sum(each.name.startswith("mabm") for each in threading.enumerate())


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits for what is soon so; a test that waits in vain fails."""
    until = time.monotonic() + SECONDS / 4
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    assert holds()
