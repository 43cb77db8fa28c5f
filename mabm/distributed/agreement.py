"""Arguments that all processes of a call have checked, and that are the same on all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from mabm.distributed.call import Call
from mabm.distributed.errors import words_of

T = TypeVar("T")


@dataclass(frozen=True)
class Ready(Generic[T]):
    """Arguments of one process, after its own checks.

    Attributes:
        agreed: By name, the values that must be the same on every process; numbers, strings,
            booleans, ``None``, or others that are compared by their ``repr``.
        facts: What the other processes need to know of this one; must fit into JSON.
        device: Device of the tensors that it will send.
        own: What the process itself goes on with.
    """

    agreed: Mapping[str, object]
    facts: Any
    device: torch.device
    own: T


def tell(call: Call, ready: Ready[Any]) -> list[dict[str, Any]]:
    """Tells all processes of the arguments of this one, and returns what each has told.

    Raises:
        ProcessError: A process has not called in time.
    """
    common = {"timeout": f"{call.seconds:g} s", "device": ready.device.type}
    agreed = {name: _as_text(value) for name, value in {**common, **ready.agreed}.items()}
    call.board.write("call", {"name": call.name, "agreed": agreed, "facts": ready.facts})
    call.all_called()
    return call.board.read("call")


def agree(told: list[dict[str, Any]]) -> list[Any]:
    """Returns the facts of all processes if their arguments agree.

    Raises:
        ValueError: An argument differs, another function was called, or another process raised
            ValueError.
        TypeError: Another process raised TypeError.
        RuntimeError: Another process raised another error.
    """
    _compare("every process must call the same function", [each["name"] for each in told])
    for rank, each in enumerate(told):
        if "error" in each:
            raise _KINDS.get(each["error"], RuntimeError)(f"process {rank}: {each['message']}")
    for name in told[0]["agreed"]:
        values = [each["agreed"].get(name, "nothing") for each in told]
        _compare(f"{name} must be the same on every process", values)
    return [each["facts"] for each in told]


_KINDS = {"ValueError": ValueError, "TypeError": TypeError}


def decline(call: Call, error: BaseException) -> None:
    """Tells all processes that the arguments of this one are in error."""
    kind = next((name for name, each in _KINDS.items() if isinstance(error, each)), "")
    words = words_of(error)
    message = words if kind else f"{type(error).__name__}: {words}"
    call.board.write("call", {"name": call.name, "error": kind, "message": message})


def as_received(facts: Any) -> Any:
    """Facts as other processes see them."""
    return json.loads(json.dumps(facts))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _compare(contract: str, values: list[str]) -> None:
    for rank, value in enumerate(values):
        if value != values[0]:
            raise ValueError(
                f"{contract}, got {values[0]} on process 0 and {value} on process {rank}"
            )
