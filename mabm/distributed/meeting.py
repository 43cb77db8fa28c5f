"""How all processes of a group begin and end a call together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from mabm.distributed.agreement import Ready, agree, as_received, decline, tell
from mabm.distributed.call import Call
from mabm.distributed.errors import ProcessError, words_of
from mabm.distributed.group_arguments import check_group, check_timeout, default_timeout
from mabm.distributed.group_team import GroupTeam
from mabm.distributed.team import Team

T = TypeVar("T")


@dataclass(frozen=True)
class Meeting(Generic[T]):
    """What a process knows when all have agreed.

    Attributes:
        team: The processes.
        facts: Those of each process, in the order of ranks.
        own: What ``prepare`` left for this process.
    """

    team: Team
    facts: list[Any]
    own: T


@contextmanager
def meet(
    name: str,
    group: dist.ProcessGroup | None,
    timeout: float | timedelta | None,
    prepare: Callable[[], Ready[T]],
    check: Callable[[list[Any]], object] | None = None,
) -> Iterator[Meeting[T]]:
    """Begins a call on all processes of a group, and ends it on all.

    Either all processes leave without an error, or none does. An error of one is raised there
    unchanged and tells the others; the group stays usable as long as all its processes live.

    Args:
        name: Name of the function that is called.
        group: The processes; those of the default group unless given. Without an initialized group,
            or in a group of one, the process is alone.
        timeout: How long one process waits for another one, in seconds; that of the group unless
            given.
        prepare: Checks the arguments of this process.
        check: Checks the facts of all; sees the same and raises the same on every process.

    Raises:
        TypeError: An argument of this or of another process has a wrong type.
        ValueError: One has a wrong value, or differs between processes.
        ProcessError: A process failed, hangs, has ended or did not call in time.
    """
    members = check_group(group)
    if members is None:
        check_timeout(timeout, None)
        ready = prepare()
        facts = [as_received(ready.facts)]
        if check is not None:
            check(facts)
        yield Meeting(Team(0, 1), facts, ready.own)
        return
    with closing(_begin(name, members, timeout)) as call:
        try:
            check_timeout(timeout, members)
            ready = prepare()
            as_received(ready.facts)
        except BaseException as error:
            with suppress(ProcessError):
                decline(call, error)
            raise
        with _telling(call):
            told = tell(call, ready)
        facts = agree(told)
        call.board.forget_earlier_calls()
        if check is not None:
            check(facts)
        with _telling(call):
            team = GroupTeam(call, members, ready.device)
        with closing(team), _telling(call):
            yield Meeting(team, facts, ready.own)
            call.all_done()


def _begin(name: str, group: dist.ProcessGroup, timeout: float | timedelta | None) -> Call:
    """Begins a call even with a wrong time limit, so that the others get to know of it."""
    try:
        seconds = check_timeout(timeout, group)
    except (TypeError, ValueError):
        seconds = default_timeout(group)
    return Call(name, group, seconds)


@contextmanager
def _telling(call: Call) -> Iterator[None]:
    """Tells the other processes of an error in this one; of other errors they know."""
    try:
        yield
    except ProcessError:
        raise
    except BaseException as error:
        with suppress(ProcessError):
            call.failed([call.rank], f"process {call.rank} raised {_in_words(error)}")
        raise


def _in_words(error: BaseException) -> str:
    words = words_of(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
