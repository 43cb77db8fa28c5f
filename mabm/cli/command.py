"""What commands share: their record, argument types, and output."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mabm._core.files import unwritten
from mabm._core.names import find_name
from mabm._core.tables import shortened, whole_number

FAILURE: Final = 1
USAGE: Final = 2  # argparse's own
INTERRUPTED: Final = 130  # as a shell reports a process that SIGINT ended
OUTPUT_CLOSED: Final = 141  # as a shell reports a process that SIGPIPE ended
TERMINATED: Final = 143  # as a shell reports a process that SIGTERM ended


class UsageError(Exception):
    """Arguments that cannot be combined; the message says what to type instead."""


class OutputClosedError(Exception):
    """Nothing reads standard output any more."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: What is typed after ``mabm``.
        help: One line for the list of commands.
        description: What it does; printed above the options.
        examples: Example commands and what they do; printed below the options.
        add_arguments: Adds the options to a parser.
        execute: Runs the command and returns its exit status. An exception is printed in one line.
    """

    name: str
    help: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]


def write(text: str) -> None:
    """Writes a line to standard output and flushes it.

    A character that the output's encoding lacks, such as an undecodable byte of a file name, is
    written as a backslash escape.

    Raises:
        OSError: Standard output cannot be written to, for instance because a disk is full.
        OutputClosedError: Standard output is closed, or nothing reads it any more.
    """
    if sys.stdout is None:  # closed before the program began
        raise OutputClosedError
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError as error:
        _abandon_output()
        if isinstance(error, BrokenPipeError):
            raise OutputClosedError from error
        raise unwritten(Path("standard output"), error) from error


def _abandon_output() -> None:
    """Discards buffered output, so that the interpreter does not fail to flush it at exit."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:  # OSError: not a file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def shows_progress(chosen: argparse.Namespace) -> bool:
    """Whether to show progress bars: on a terminal, unless ``--quiet`` is given."""
    return bool(chosen.level < logging.ERROR and sys.stderr and sys.stderr.isatty())


def shows_bars(chosen: argparse.Namespace) -> bool:
    """Like :func:`shows_progress`, for commands that also work where tqdm is missing."""
    return shows_progress(chosen) and find_spec("tqdm") is not None


def integer(text: str) -> int:
    """An integer of at most 64 bits, as an argument's type; the library checks its range."""
    number = whole_number(text.removeprefix("-"))
    if number is None:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at most 64 bits, got {shortened(text)}"
        )
    return -number if text.startswith("-") else number


def natural(text: str) -> int:
    """An integer of at least 0, as an argument's type."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """An integer of at least 1, as an argument's type."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    number = whole_number(text)
    if number is None or number < least:
        raise argparse.ArgumentTypeError(
            f"must be an integer >= {least} of at most 64 bits, got {shortened(text)}"
        )
    return number


def name_of(names: Iterable[str]) -> Callable[[str], str]:
    """An argument's type, used with its choices: a name in any case, with ``-`` or ``_``."""
    return lambda text: find_name(text, names) or text


def add_device(parser: argparse.ArgumentParser, *, results: str) -> None:
    """Adds ``--device``; ``results`` is a sentence on how results depend on the device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help=f"cpu, cuda or cuda:N; auto uses a GPU if there is one. {results} "
        "(default: %(default)s)",
    )
