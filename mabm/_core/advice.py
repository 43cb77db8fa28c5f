"""Warnings about valid but unlikely inputs, each logged once per process."""

from __future__ import annotations

import logging
from typing import Literal

Kind = Literal["k1", "lengths", "large cluster", "similarities", "alike", "diagonal"]

_GIVEN: dict[Kind, object] = {}


def is_wanted(logger: logging.Logger, kind: Kind) -> bool:
    """Whether a warning of this kind would be logged now."""
    return kind not in _GIVEN and logger.isEnabledFor(logging.WARNING)


def advise(logger: logging.Logger, kind: Kind, message: str) -> None:
    """Logs a warning unless this process has logged one of its kind before."""
    token = object()
    if not is_wanted(logger, kind):
        return
    if _GIVEN.setdefault(kind, token) is token:  # true in one of several threads only
        logger.warning("%s", message)


def forget() -> None:
    """Allows all kinds to be logged again, for tests."""
    _GIVEN.clear()
