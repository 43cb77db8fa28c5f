"""Initialization of worker processes that read images: drops inherited locks and signals."""

from __future__ import annotations

import signal

from mabm.train.records.run_lock import leave_locks


def begin_worker(_number: int) -> None:
    """Closes inherited locks, and ignores the signals that the parent handles.

    A terminal or a cluster sends signals to all processes at once. The parent decides what to do,
    and stops its workers; a worker that stopped by itself would make the parent fail.
    """
    leave_locks()
    defaults = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in defaults:
            signal.signal(number, signal.SIG_IGN)
