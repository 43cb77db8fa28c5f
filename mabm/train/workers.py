"""What a process that reads ahead must not have of the process that trains."""

from __future__ import annotations

import signal

from mabm.train.records.run_lock import leave_locks


def begin_worker(_number: int) -> None:
    """Leaves to the parent its locks, and the signals that it handles in a way of its own.

    A terminal and a cluster send them to all processes at once. The parent decides what becomes of
    them, and ends its workers; one that ended on its own would take the parent with it.
    """
    leave_locks()
    usual = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in usual:
            signal.signal(number, signal.SIG_IGN)
