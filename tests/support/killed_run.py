"""A small training run that is killed again and again, each time at another moment.

As a program, ``killed_run.py FOLDER KILLS``: it loads what a run takes once, and every attempt is a
process that it forks. It writes how many of them were killed before one came to the end.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from training_cases import small_config, use_small_data

from mabm.train import train


def run_killed(folder: Path, kills: int) -> int:
    """Returns how many attempts were killed."""
    rng, killed = random.Random(5), 0
    for _ in range(4 * kills):
        seen, child = _newest(folder), _start(folder)
        # Start-up is no moment worth killing at: wait for a sign of progress, then for a moment.
        deadline = time.monotonic() + 300
        while (status := _status(child)) is None and _newest(folder) == seen:
            if time.monotonic() > deadline:
                raise TimeoutError("no progress in five minutes")
            time.sleep(0.001)
        if killed < kills:
            time.sleep(rng.uniform(0, 0.25))
            status = _status(child) if status is None else status
            if status is None:
                os.kill(child, signal.SIGKILL)
        if status is None:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        killed += status == -signal.SIGKILL
    return killed


def _start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(small_config(), folder, progress=False)
            status = 0
        finally:
            os._exit(status)
    return child


def _status(child: int) -> int | None:
    """How a process has ended, ``None`` while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _newest(folder: Path) -> str:
    return max((path.name for path in folder.glob("checkpoint-*.pt")), default="")


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork has none of the threads, and would wait for them
    use_small_data()
    sys.stdout.write(f"{run_killed(Path(sys.argv[1]), int(sys.argv[2]))}\n")
