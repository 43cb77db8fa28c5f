"""The record of a command, types of arguments, and output: what several commands share."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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
    """Arguments that do not go together; the message says what to type instead."""


class OutputClosedError(Exception):
    """The reader of standard output is gone."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: What is typed after ``mabm``.
        help: Its line in the list of commands.
        description: What it does, above its options.
        examples: Lines to type and what they do, below its options.
        add_arguments: Adds its options to a parser.
        execute: Runs it and returns its exit status. An error raised by it is printed in one line.
    """

    name: str
    help: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]


def write(text: str) -> None:
    """Writes a line to standard output and flushes it.

    A character that its encoding lacks, such as a byte of a file name that is no text, is written
    as a backslash and a number.

    Raises:
        OSError: Standard output cannot be written to, as where a disk is full.
        OutputClosedError: Standard output is closed, or nobody reads it any more.
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
    with suppress(OSError), open(os.devnull, "wb") as nowhere:  # OSError: it is no file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def shows_progress(chosen: argparse.Namespace) -> bool:
    """Whether to show progress bars: on a terminal, unless ``--quiet`` is given."""
    return bool(chosen.level < logging.ERROR and sys.stderr and sys.stderr.isatty())


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
    """A name in any case, with ``-`` or ``_``, as an argument's type beside its choices."""
    return lambda text: find_name(text, names) or text


def add_device(parser: argparse.ArgumentParser, *, results: str) -> None:
    """Adds ``--device``; ``results`` is a sentence on how results depend on the device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help=f"cpu, cuda or cuda:N; auto takes a GPU where there is one. {results} "
        "(default: %(default)s)",
    )
