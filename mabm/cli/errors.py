"""Errors as users see them: one line on standard error, and an exit status."""

from __future__ import annotations

import argparse
import sys
import traceback
from contextlib import suppress
from typing import Final

import torch

from mabm.cli.command import FAILURE, OUTPUT_CLOSED, USAGE, OutputClosedError, UsageError

_MOST_TOLD: Final = 2000  # characters of an error, which may quote the content of a file
_NO_MEMORY: Final = ("DefaultCPUAllocator", "Storage size calculation overflowed")  # of PyTorch


class ToldError(Exception):
    """An error that the user knows already, perhaps from another process.

    Attributes:
        status: Exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


def tell(error: Exception, chosen: argparse.Namespace) -> int:
    """Reports the error of a command in one line, and returns the exit status."""
    place = place_of(chosen)
    if isinstance(error, ToldError):
        return error.status
    if isinstance(error, OutputClosedError):
        return OUTPUT_CLOSED
    if isinstance(error, UsageError):
        report(place, f"{error} (see {place} --help)", error if chosen.debug else None)
        return USAGE
    report(place, in_words(error), error if chosen.debug else None)
    return FAILURE


def place_of(chosen: argparse.Namespace) -> str:
    """What the user typed first: the program, and the command if there is one."""
    return "mabm" if chosen.command is None else f"mabm {chosen.command}"


def in_words(error: Exception) -> str:
    """What happened, in words that need no traceback where possible."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    # Errors that the library raises on purpose are self-explanatory; others need their type.
    told = ImportError | OSError | ValueError | MemoryError | torch.OutOfMemoryError
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
        return "not enough memory (--debug shows the traceback)"
    if str(error) and (isinstance(error, told) or type(error).__module__.startswith("mabm.")):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows the traceback)"


def report(place: str, message: str, traced: BaseException | None = None) -> None:
    """Writes a line to standard error, below the traceback of an error if it is given."""
    if sys.stderr is None:  # closed before the program began
        return
    if len(message) > _MOST_TOLD:
        message = f"{message[:_MOST_TOLD]}..."
    # Control characters, which could steer a terminal, are written as Python escapes them.
    words = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in " ".join(message.split())
    )
    with suppress(OSError):  # standard error is full: the exit status still reports the error
        if traced is not None:
            traceback.print_exception(traced)
        sys.stderr.write(f"{place}: {words}\n")
        sys.stderr.flush()
