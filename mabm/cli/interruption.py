"""What Ctrl-C and SIGTERM do to a command that can be stopped at any moment and goes on later.

Python handles a signal between two steps of its own, which long work in C++ puts off, and so do
workers that must be waited for. A thread of its own therefore sees to it that the process ends.
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
    signal.SIGTERM: 20.0,  # torchrun, Slurm and Kubernetes kill what is left after 30 seconds
}


class Stop:
    """Whether SIGTERM has come: what long work asks now and then, to stop where it is good to."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._asked

    def ask(self) -> None:
        """Asks to stop."""
        self._asked = True


@contextmanager
def ending_in_time(tell: Callable[[int], None]) -> Iterator[Stop]:
    """Ends the process within a second of Ctrl-C, and within 20 seconds of SIGTERM.

    Ctrl-C raises ``KeyboardInterrupt`` once; SIGTERM is left to who asks the :class:`Stop`. Where
    either is not over in time, the process ends in the midst of whatever it does, children first.
    A signal that the process was started to ignore is ignored. In the end all handlers are those
    that were there before. In another thread than the main one nothing is handled.

    Args:
        tell: Says, given the signal's number, what becomes of the command; called where the process
            ends in the midst of something.
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
        over.acquire()  # for good: from now on the thread ends nothing
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        awake.close()
        watch.join()
        heard.close()


def _watch(heard: socket.socket, tell: Callable[[int], None], over: threading.Lock) -> None:
    """Waits for signals, then until the first deadline, and ends the process there."""
    deadlines: dict[int, float] = {}
    while True:
        now = time.monotonic()
        number, deadline = min(deadlines.items(), key=lambda each: each[1], default=(0, None))
        if deadline is not None and now >= deadline:
            if over.acquire(blocking=False):
                _end(number, tell)
            deadlines.clear()  # it is ending in good order
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
