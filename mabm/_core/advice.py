"""Warnings about inputs that are valid but rarely intended, each logged once a process."""

from __future__ import annotations

import logging
from typing import Literal

Kind = Literal["k1", "lengths", "large cluster", "similarities", "alike", "diagonal"]

_SAID: dict[Kind, object] = {}


def is_wanted(logger: logging.Logger, kind: Kind) -> bool:
    """Whether advice of a kind would be logged: its level is on, and it was not given before."""
    return kind not in _SAID and logger.isEnabledFor(logging.WARNING)


def advise(logger: logging.Logger, kind: Kind, message: str) -> None:
    """Logs a warning unless one of its kind was logged by this process before."""
    mine = object()
    if not is_wanted(logger, kind):
        return
    if _SAID.setdefault(kind, mine) is mine:  # one of several threads alone sees its own
        logger.warning("%s", message)


def forget() -> None:
    """Lets every kind of advice be logged again: for tests."""
    _SAID.clear()
