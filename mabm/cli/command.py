"""What a command is made of, and what several of them ask for."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch

from mabm._extension import backends

INTERRUPTED: Final = 130  # as a shell reports a process that SIGINT ended
TERMINATED: Final = 143  # likewise SIGTERM

_MOST_GROUPS: Final = 4  # that are told one by one


class UsageError(Exception):
    """Words on the command line that do not go together; the message says what to type."""


class OutputClosedError(Exception):
    """Whoever read the standard output has gone."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: The word that calls it.
        help: Its line in the list of commands.
        description: What it does, above its options.
        examples: Lines to type and what they do, below its options.
        add_arguments: Adds its options to a parser.
        execute: Runs it and returns its exit status. What it raises is told in one line.
    """

    name: str
    help: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]


def write(text: str) -> None:
    """Writes text and the end of a line to standard output, at once.

    Raises:
        OutputClosedError: Nobody reads it any more.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        abandon_output()
        raise OutputClosedError from error


def abandon_output() -> None:
    """Lets what is still to be written vanish, so that the interpreter ends without a complaint."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:  # OSError: it is no file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def shows_progress(chosen: argparse.Namespace) -> bool:
    """Whether progress bars are shown: on a terminal, which can redraw a line, and not if quiet."""
    return bool(chosen.level < logging.ERROR and sys.stderr.isatty())


def groups_in_words(modality: torch.Tensor | None) -> str:
    """How many samples there are of each modality."""
    if modality is None:
        return "no modality"
    numbers, counts = torch.unique(modality, return_counts=True)
    if len(numbers) > _MOST_GROUPS:
        return f"{len(numbers)} modalities"
    return ", ".join(
        f"{count} of modality {number}"
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    )


def natural(text: str) -> int:
    """An integer of at least 0, as an argument's type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """An integer of at least 1, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def add_device(parser: argparse.ArgumentParser, *, results: str) -> None:
    """Adds ``--device``; ``results`` says what the device does to the results."""
    parser.add_argument(
        "--device",
        default="auto",
        help=f"cpu, cuda or cuda:N; auto takes a GPU where there is one. {results} "
        "(default: %(default)s)",
    )


def resolve_device(name: str, *, needs_ops: bool) -> torch.device:
    """The device meant by ``--device``.

    Args:
        name: What was typed.
        needs_ops: Whether the ops of this library run there, rather than PyTorch's alone.

    Raises:
        ValueError: There is no such device, or this build has no ops for it.
    """
    usable = torch.cuda.is_available() and (not needs_ops or "cuda" in backends())
    if name == "auto":
        return torch.device("cuda" if usable else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device must be one that there is, got {name}: torch sees no GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"--device must be one of {torch.cuda.device_count()} GPUs, cuda:0 the first, "
                f"got {name}"
            )
        if not usable:
            raise ValueError(
                f"--device must be cpu with this build of mabm, which has no ops for GPUs, "
                f"got {name}"
            )
    return device
