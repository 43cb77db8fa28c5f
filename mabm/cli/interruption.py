"""How Ctrl-C and SIGTERM end a command that can be resumed later.

Python runs signal handlers only between its own instructions, so long work in C++ and waiting for
worker processes delay them. Therefore a thread ends the process after a deadline.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from mabm.cli.command import INTERRUPTED, TERMINATED

_STATUS: Final[Mapping[int, int]] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
_PATIENCE: Final[Mapping[int, float]] = {
    signal.SIGINT: 0.6,
    signal.SIGTERM: 20.0,  # torchrun, Slurm and Kubernetes send SIGKILL after 30 seconds
}


class Stop:
    """Whether SIGTERM has arrived. Long work calls it regularly, and stops at a safe point."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._asked

    def ask(self) -> None:
        """Makes every later call return ``True``."""
        self._asked = True


@contextmanager
def ending_in_time(tell: Callable[[int], None]) -> Iterator[Stop]:
    """Ends the process within a second of Ctrl-C, and within 20 seconds of SIGTERM.

    Ctrl-C raises ``KeyboardInterrupt`` once; SIGTERM makes the :class:`Stop` return ``True``. If
    the work does not end in time, the child processes are killed and the process ends. A signal
    that was ignored when the process started stays ignored. The earlier handlers are restored on
    exit. Outside the main thread no signal is handled.

    Args:
        tell: Takes the number of the signal and prints the state of the command. It is called only
            if the process is ended before its work is done.

    Yields:
        A callable that long work asks whether to stop.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    owner = os.getpid()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def terminate(_number: int, _frame: FrameType | None) -> None:
        stop.ask()

    interrupted = threading.Event()
    handlers: dict[int, Any] = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
    heard, awake = socket.socketpair()
    awake.setblocking(False)
    over = threading.Lock()
    watch = threading.Thread(target=_watch, args=(heard, tell, over), daemon=True)
    before = {}
    wakeup = signal.set_wakeup_fd(awake.fileno(), warn_on_full_buffer=False)
    watch.start()
    try:
        for number, handler in handlers.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        yield stop
    finally:
        over.acquire()  # never released: from now on the thread does not end the process
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        awake.close()
        watch.join()
        heard.close()


def _watch(heard: socket.socket, tell: Callable[[int], None], over: threading.Lock) -> None:
    """Waits for signals, and ends the process when a deadline passes."""
    deadlines: dict[int, float] = {}
    while True:
        now = time.monotonic()
        number, deadline = min(deadlines.items(), key=lambda each: each[1], default=(0, None))
        if deadline is not None and now >= deadline:
            if over.acquire(blocking=False):
                _end(number, tell)
            deadlines.clear()  # the process is already ending normally
            continue
        heard.settimeout(None if deadline is None else deadline - now)
        try:
            numbers = heard.recv(64)
        except TimeoutError:
            continue
        if not numbers:
            return
        for each in numbers:
            if each in _PATIENCE:
                deadlines.setdefault(each, time.monotonic() + _PATIENCE[each])


def _end(number: int, tell: Callable[[int], None]) -> None:
    try:
        for child in multiprocessing.active_children():
            with suppress(OSError):
                child.kill()
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # below a progress bar
        tell(number)
        sys.stderr.flush()
    finally:
        os._exit(_STATUS[number])
