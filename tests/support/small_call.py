"""A small function of all processes, for tests of what such functions have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mabm.distributed import ProcessError
from mabm.distributed.agreement import Ready
from mabm.distributed.meeting import meet


def total(
    value: int,
    at: Callable[[str], None] = lambda _: None,
    *,
    name: str = "total",
    group: Any = None,
    timeout: Any = 3.0,
    **agreed: Any,
) -> int:
    """The sum of the values of all processes, summed around the ring.

    Args:
        value: That of this process; negative ones are an error.
        at: Called with the name of each place that the process comes to.
        name: Name of the function.
        group: The processes.
        timeout: Time limit.
        agreed: More arguments, which must be the same everywhere.
    """

    def prepare() -> Ready[Tensor]:
        at("arguments")
        if value < 0:
            raise ValueError(f"value must be at least 0, got {value}")
        return Ready(agreed, {"even": value % 2 == 0}, torch.device("cpu"), torch.tensor([value]))

    def check(facts: list[Any]) -> None:
        at("facts")
        if all(each["even"] for each in facts):
            raise ValueError("one value must be odd")

    with meet(name, group, timeout, prepare, check) as meeting:
        at("connected")
        team, carried = meeting.team, meeting.own
        result = int(carried)
        for step in range(1, team.size):
            at(f"step {step}")
            with team.stage("ring"):
                carried = team.swap(
                    carried, (team.rank - 1) % team.size, (team.rank + 1) % team.size
                )
            result += int(carried)
        at("last")
    return result


def outcome(*arguments: Any, **more: Any) -> Any:
    """What :func:`total` returns, or the kind and the words of its error."""
    try:
        return total(*arguments, **more)
    except ProcessError as error:
        return type(error).__name__, str(error), error.processes
    except BaseException as error:
        return type(error).__name__, str(error)
