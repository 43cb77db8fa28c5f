"""Processes of a command that fail together: who speaks, and what ends those that wait."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from mabm.cli import processes
from mabm.cli.errors import ToldError
from mabm.cli.processes import Processes, started_processes

SIZE = 3
SOON = timedelta(seconds=0.5)


def in_each(act: Callable[[Processes, list[str]], None]) -> tuple[list[str], list[object]]:
    """What was told, and what ended each of three processes, which are threads here."""
    store, told = dist.HashStore(), []

    def one(rank: int) -> object:
        try:
            act(Processes(rank, SIZE, store), told)
        except Exception as error:
            return error.status if isinstance(error, ToldError) else error
        return None

    with ThreadPoolExecutor(SIZE) as threads:
        return told, list(threads.map(one, range(SIZE)))


def telling(told: list[str], status: int) -> Callable[[Exception], int]:
    def tell(error: Exception) -> int:
        told.append(str(error))
        return status

    return tell


@pytest.mark.parametrize("failing", [[0], [1], [1, 2], [0, 1, 2]])
def test_the_first_that_fails_speaks_for_all(failing: list[int]) -> None:
    def act(each: Processes, told: list[str]) -> None:
        with each.together(telling(told, 7)):
            pass
        with each.together(telling(told, 10 + each.rank)):
            if each.rank in failing:
                raise ValueError(f"in {each.rank}")
        told.append("went on")

    assert in_each(act) == ([f"in {failing[0]}"], [10 + failing[0]] * SIZE)


def test_all_go_on_where_none_fails() -> None:
    def act(each: Processes, told: list[str]) -> None:
        for _ in range(3):
            with each.together(telling(told, 1)):
                pass
        told.append("went on")

    assert in_each(act) == (["went on"] * SIZE, [None] * SIZE)


def test_a_process_that_hangs_keeps_no_error_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE", SOON)

    def act(each: Processes, told: list[str]) -> None:
        if each.rank != 0:
            with each.together(telling(told, 4)):
                raise ValueError(f"in {each.rank}")

    assert in_each(act) == (["in 1"], [None, 4, 4])


def test_one_that_ends_before_it_speaks_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE", SOON)

    def die(_: Exception) -> int:
        raise MemoryError

    def act(each: Processes, _: list[str]) -> None:
        with each.together(die):
            raise ValueError(f"in {each.rank}")

    _, (first, *others) = in_each(act)
    assert isinstance(first, MemoryError)
    assert others == [1, 1]


def test_a_process_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", SOON)

    def act(each: Processes, told: list[str]) -> None:
        if each.rank != 1:
            with each.together(telling(told, 4)):
                pass

    told, (first, late, last) = in_each(act)
    assert (told, late) == ([], None)
    for error in (first, last):
        assert isinstance(error, TimeoutError)
        assert (
            "all 3 processes must end a step within 0:00:00.500000, got none of process 1"
            in str(error)
        )


def test_one_process_meets_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with started_processes() as alone:
        assert (alone.rank, alone.size) == (0, 1)
        with pytest.raises(ValueError, match="as it is"), alone.together(telling([], 1)):
            raise ValueError("as it is")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK"), started_processes():
        pytest.fail("there is no place to meet")
