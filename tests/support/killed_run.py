"""Small training runs that are killed again and again, each time at another moment.

As a program, ``killed_run.py FOLDER KILLS``: it loads what a run takes once, and every attempt is a
process that it forks. It writes how many of them were killed before the last run came to its end.
Each run has a folder within FOLDER; how many there are depends on how fast they get on.
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
    rng, killed, ended = random.Random(5), 0, 0
    for _ in range(4 * kills):
        run = folder / str(ended)
        seen, child = _newest(run), _start(run)
        # Start-up is no moment worth killing at: wait for a sign of progress, then for a moment.
        deadline = time.monotonic() + 300
        while (status := _status(child)) is None and _newest(run) == seen:
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
        killed += status == -signal.SIGKILL
        ended += status == 0
        if status == 0 and killed >= kills:
            break
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
