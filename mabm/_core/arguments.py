"""Checks of single values: integers, numbers, choices and instances of our classes."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import numpy as np

_SHOWN_CHARACTERS = 100
_SHOWN_BITS = 128
_MAX_INT64 = 2**63 - 1


def shown(value: object) -> str:
    """Returns the ``repr`` of any value for messages: on one line, shortened if long."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def check_integer(
    name: str,
    value: object,
    *,
    at_least: int,
    at_most: int | None = _MAX_INT64,
    reason: str = "",
) -> int:
    """Returns ``value`` as an int in [``at_least``, ``at_most``].

    The default maximum is that of int64, which ops and arrays count with. ``None`` means no
    maximum, for values that only Python uses, such as seeds.

    Raises:
        TypeError: ``value`` is not an integer; bool and whole floats are not integers.
        ValueError: ``value`` is out of range; the message ends with ``reason``.
    """
    number = as_index(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}: {shown(value)}")
    if number < at_least or (at_most is not None and number > at_most):
        is_open = at_most is None or (at_most == _MAX_INT64 and number < at_least)
        span = f"at least {at_least}" if is_open else f"in [{at_least}, {at_most}]"
        raise ValueError(f"{name} must be {span}{reason}, got {shown(number)}")
    return number


def as_index(value: object) -> int | None:
    """Returns ``value`` as an int if it is an integer or a 0-d array of one, else ``None``."""
    is_bool = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if is_bool or not isinstance(value, SupportsIndex) or getattr(value, "shape", ()) != ():
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # arrays and tensors have __index__ but may raise
        return None


def check_real(
    name: str, value: object, low: float, high: float, *, below: bool = False, reason: str = ""
) -> float:
    """Returns a float in [low, high], or [low, high) with ``below``; errors end in ``reason``."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number) or number < low or number > high or (below and number == high):
        span = f"[{low:g}, {high:g}{')' if below else ']'}"
        given = shown(value) if isinstance(value, int) else value
        raise ValueError(f"{name} must be in {span}{reason}, got {given}")
    return number


def check_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``, which may include ``None``."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {shown(value)}")


def check_instance(name: str, value: object, kind: type) -> None:
    """Raises TypeError unless ``value`` is an instance of a class of this library."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be of {kind.__name__}, got {type(value).__name__}: {shown(value)}"
        )
