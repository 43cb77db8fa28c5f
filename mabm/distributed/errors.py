"""The error of a call that a process has ended for all."""

from __future__ import annotations

from collections.abc import Sequence


class ProcessError(RuntimeError):
    """A process failed, hangs, has ended or did not call, so that none has a result.

    The message names the process, the function and what is known of the cause.

    Args:
        message: What happened.
        processes: Ranks of the processes at fault, in the group of the call.

    Attributes:
        processes: These ranks; empty where no process is to blame.

    Example:
        >>> from mabm.distributed import ProcessError
        >>> ProcessError("process 2 has ended", [2]).processes
        (2,)
    """

    def __init__(self, message: str, processes: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.processes = tuple(processes)


def named(processes: Sequence[int]) -> str:
    """Returns words such as ``"process 2"`` or ``"processes 0 and 2"``."""
    if len(processes) == 1:
        return f"process {processes[0]}"
    return f"processes {', '.join(map(str, processes[:-1]))} and {processes[-1]}"


def words_of(error: BaseException) -> str:
    """Returns the message of an error, none where its own code for that fails."""
    try:
        return str(error)
    except Exception:
        return ""
