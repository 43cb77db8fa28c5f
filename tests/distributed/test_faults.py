"""Processes that fail, end, hang or pass other arguments, and what the others get to know."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import real_processes
import torch
import torch.distributed as dist
from small_call import outcome

from mabm.distributed import ProcessError, board, group_team
from mabm.distributed.agreement import Ready
from mabm.distributed.meeting import meet

NO_RESULT = "total has no result: "


def at_place(place: str, act: Callable[[], None]) -> Callable[[str], None]:
    return lambda name: act() if name == place else None


# Faults after which the group goes on


def raise_one(error: BaseException) -> None:
    raise error


def interrupt() -> None:
    # Whoever starts the tests in the background may have this signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


Fault = Callable[[int], Any]
FAULTS: dict[str, Fault] = {
    "k1": lambda rank: outcome(1, k1=20 if rank == 2 else 30, k2=6),
    "dtype": lambda rank: outcome(1, dtype=torch.float64 if rank else torch.float32),
    "dimension": lambda rank: outcome(1, D=256 + rank),
    "preset": lambda rank: outcome(1, preset="spcl" if rank == 1 else "bmil"),
    "timeout": lambda rank: outcome(1, timeout=3 + rank),
    "function": lambda rank: outcome(1, name="graph" if rank == 1 else "total"),
    "value": lambda rank: outcome(-1 if rank == 1 else 1),
    "facts": lambda rank: outcome(2 * rank),
    "type of timeout": lambda rank: outcome(1, timeout="3" if rank == 1 else 3),
    "memory before": lambda rank: failing(rank, "arguments", MemoryError("too many rows")),
    "memory": lambda rank: failing(rank, "step 1", MemoryError("too many rows")),
    "end": lambda rank: failing(rank, "last", OSError("disk full")),
    "interrupt": lambda rank: outcome(1, at_place("step 2", interrupt) if rank == 1 else no_place),
}


def no_place(_: str) -> None:
    pass


def failing(rank: int, place: str, error: BaseException) -> Any:
    return outcome(1, at_place(place, lambda: raise_one(error)) if rank == 1 else no_place)


def one_after_the_other(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {"first": outcome(rank)}
    real_processes.wait_until(lambda: not real_processes.num_threads())
    before = real_processes.num_connections()
    for name, fault in FAULTS.items():
        found[name] = fault(rank)
        ones = torch.ones(1)
        dist.all_reduce(ones)
        found[f"after {name}"] = outcome(rank), float(ones)
    real_processes.wait_until(lambda: not real_processes.num_threads())
    found["left over"] = before, real_processes.num_connections()
    dist.barrier()  # the ends of other processes close connections as well
    return found


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    ended = real_processes.run(3, one_after_the_other)
    assert [each.code for each in ended] == [0, 0, 0]
    return [each.value for each in ended]


def test_the_group_goes_on_after_each(found: list[dict[str, Any]]) -> None:
    assert [each["first"] for each in found] == [3, 3, 3]
    for name in FAULTS:
        assert [each[f"after {name}"] for each in found] == [(3, 3.0)] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("k1", "k1 must be the same on every process, got 30 on process 0 and 20 on process 2"),
        ("dtype", "got torch.float32 on process 0 and torch.float64 on process 1"),
        ("dimension", "D must be the same on every process, got 256 on process 0 and 257 on proc"),
        ("preset", "got bmil on process 0 and spcl on process 1"),
        ("timeout", "timeout must be the same on every process, got 3 s on process 0 and 4 s on"),
        ("function", "every process must call the same function, got total on process 0 and grap"),
    ],
)
def test_a_difference_is_an_error_on_every_process(
    name: str, words: str, found: list[dict[str, Any]]
) -> None:
    for each in found:
        assert each[name] == found[0][name]
    kind, message = found[0][name]
    assert kind == "ValueError"
    assert words in message


@pytest.mark.parametrize(
    ("name", "own", "of_others"),
    [
        (
            "value",
            ("ValueError", "value must be at least 0, got -1"),
            ("ValueError", "process 1: value must be at least 0, got -1"),
        ),
        (
            "type of timeout",
            ("TypeError", "timeout must be a number, got str: '3'"),
            ("TypeError", "process 1: timeout must be a number, got str: '3'"),
        ),
        (
            "memory before",
            ("MemoryError", "too many rows"),
            ("RuntimeError", "process 1: MemoryError: too many rows"),
        ),
        (
            "memory",
            ("MemoryError", "too many rows"),
            ("ProcessError", f"{NO_RESULT}process 1 raised MemoryError: too many rows", (1,)),
        ),
        (
            "end",
            ("OSError", "disk full"),
            ("ProcessError", f"{NO_RESULT}process 1 raised OSError: disk full", (1,)),
        ),
        (
            "interrupt",
            ("KeyboardInterrupt", ""),
            ("ProcessError", f"{NO_RESULT}process 1 raised KeyboardInterrupt", (1,)),
        ),
    ],
)
def test_an_error_of_one_is_known_to_all(
    name: str, own: Any, of_others: Any, found: list[dict[str, Any]]
) -> None:
    assert [each[name] for each in found] == [of_others, own, of_others]


def test_all_see_the_same_facts(found: list[dict[str, Any]]) -> None:
    assert [each["facts"] for each in found] == [("ValueError", "one value must be odd")] * 3


def test_nothing_is_left_over(found: list[dict[str, Any]]) -> None:
    for each in found:
        before, after = each["left over"]
        assert after == before


# Processes that end or hang


def fault_at(rank: int, place: str, act: Callable[[], None], faulty: int) -> Any:
    result = outcome(1, at_place(place, act) if rank == faulty else no_place)
    return result, outcome(1, timeout=0.5)


@pytest.mark.parametrize("place", ["arguments", "facts", "connected", "step 2", "last"])
def test_a_process_that_ends_is_named(place: str) -> None:
    ended = real_processes.run(4, fault_at, place, real_processes.end, 2)
    assert [each.code for each in ended] == [0, 0, -signal.SIGKILL, 0]
    for rank in (0, 1, 3):
        during, after = ended[rank].value
        assert during[0] == after[0] == "ProcessError"
        assert during[2] == after[2] == (2,)
        assert during[1].startswith(f"{NO_RESULT}process 2 ")
        assert after[1] == f"{NO_RESULT}process 2 did not call it within 0.5 s"


@pytest.mark.parametrize("place", ["arguments", "connected", "step 1", "last"])
def test_a_process_that_hangs_is_named_and_gets_an_error_when_it_wakes(place: str) -> None:
    ended = real_processes.run(3, fault_at, place, real_processes.stop, 1)
    assert [each.code for each in ended] == [0, 0, 0]
    for each in ended:
        kind, message, processes = each.value[0]
        assert (kind, processes) == ("ProcessError", (1,))
        assert message.startswith(f"{NO_RESULT}process 1 ")
        assert message.endswith("(this process)") == (each is ended[1])


def with_patience(rank: int, act: Callable[[], None]) -> Any:
    board._PATIENCE = 3.0
    outcome(1)
    return outcome(1, at_place("step 1", act) if rank == 0 else no_place)


@pytest.mark.parametrize("act", [real_processes.end, real_processes.stop])
def test_a_lost_store_is_an_error_that_says_so(act: Callable[[], None]) -> None:
    """Process 0, which ends or stops, hosts the store."""
    ended = real_processes.run(3, with_patience, act, first_hosts_store=True)
    stops = act is real_processes.stop
    assert [each.code for each in ended] == [0 if stops else -signal.SIGKILL, 0, 0]
    for each in ended[0 if stops else 1 :]:
        kind, message, _ = each.value
        assert kind == "ProcessError"
        assert message.startswith(NO_RESULT)
        assert each is ended[0] or "the store of the group does not answer" in message


def late(rank: int) -> Any:
    """Process 1 calls when the others have given up, and all call once more."""
    if rank == 1:
        dist.distributed_c10d._get_default_store().wait(["given up"])
        return outcome(rank), outcome(rank)
    first = outcome(rank)
    if rank == 0:
        dist.distributed_c10d._get_default_store().set("given up", "")
    return first, outcome(rank)


def test_a_process_that_calls_late_is_named_and_the_group_goes_on() -> None:
    for ended in real_processes.run(3, late):
        (kind, message, processes), after = ended.value
        assert (kind, processes) == ("ProcessError", (1,))
        assert message.startswith(f"{NO_RESULT}process 1 did not call it within 3 s")
        assert after == 3


NEVER = 2.0 * real_processes.SECONDS
"""A time limit that no test comes to."""


def while_sending(rank: int, act: Callable[[], None], timeout: float) -> Any:
    """Process 1 fails in the middle of what it sends to process 0."""
    many = torch.zeros(20_000_000)

    def prepare() -> Ready[None]:
        return Ready({}, None, torch.device("cpu"), None)

    try:
        with meet("total", None, timeout, prepare) as meeting:
            into = torch.empty_like(many) if rank == 0 else many[:0]
            sent = many if rank == 1 else many[:0]
            arrival = meeting.team.start_swap(sent, 0, 1, into)
            if rank == 1:
                act()
            arrival.wait()
            meeting.team.swap(many[:1], (rank + 1) % 3, (rank - 1) % 3)
    except (ProcessError, MemoryError) as error:
        return str(error)


def fail() -> None:
    raise MemoryError("too many rows")


def test_an_error_is_known_at_once_even_within_a_transfer() -> None:
    ended = real_processes.run(3, while_sending, fail, NEVER)
    assert [each.code for each in ended] == [0, 0, 0]
    message = f"{NO_RESULT}process 1 raised MemoryError: too many rows"
    assert [each.value for each in ended] == [message, "too many rows", message]


@pytest.mark.parametrize("act", [real_processes.end, real_processes.stop])
def test_a_transfer_that_ends_or_hangs_is_an_error(act: Callable[[], None]) -> None:
    ended = real_processes.run(3, while_sending, act, 3.0)
    assert [each.code for each in ended][::2] == [0, 0]
    for each in ended[::2]:
        assert each.value.startswith(f"{NO_RESULT}process 1 shows no sign of life")


def refuse(*_: object) -> None:
    raise RuntimeError("connection refused")


def without_connection(rank: int) -> Any:
    """Process 1 cannot connect, while the others wait for it; then all call once more."""
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(group_team, "connect", refuse)
        first = outcome(1, timeout=NEVER)
    return first, outcome(rank, timeout=NEVER)


def test_a_failure_is_known_at_once_even_while_others_connect() -> None:
    ended = real_processes.run(3, without_connection)
    assert [each.code for each in ended] == [0, 0, 0]
    for each in ended:
        (kind, message, _), after = each.value
        assert kind == "ProcessError"
        assert message.startswith(f"{NO_RESULT}the processes cannot connect")
        assert after == 3


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def without_words(rank: int) -> Any:
    """Process 1 raises errors that have no message."""
    found = []
    for place in ("arguments", "step 1"):
        try:
            found.append(failing(rank, place, WordlessError()))
        except RuntimeError as error:
            found.append(str(error))
    return found


def test_an_error_without_words_is_known_to_all() -> None:
    ended = real_processes.run(3, without_words)
    assert [each.code for each in ended] == [0, 0, 0]
    assert ended[1].value == ["no words", "no words"]
    message = f"{NO_RESULT}process 1 raised WordlessError"
    for each in ended[::2]:
        before, during = each.value
        assert before == ("RuntimeError", "process 1: WordlessError: ")
        assert during == ("ProcessError", message, (1,))
