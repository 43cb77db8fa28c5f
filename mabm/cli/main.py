"""The command-line parser; errors become one line and an exit status."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

from mabm._core.extension import build_info
from mabm.cli.command import FAILURE, INTERRUPTED, USAGE, OutputClosedError, write
from mabm.cli.commands import COMMANDS
from mabm.cli.errors import in_words, place_of, report, tell

_WIDTH: Final = 96
_EXIT_STATUS: Final = """\
exit status:
  0    success
  1    error, or failed check
  2    usage error
  130  interrupted from the keyboard
  141  standard output was closed
  143  stopped by SIGTERM
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    An error is reported in one line on standard error, after its traceback with ``--debug``. Log
    messages of the library go to standard error while the command runs; other loggers are not
    touched. Without a command, the help is printed.

    Args:
        arguments: Arguments after the name of the program; by default those of the process.

    Raises:
        SystemExit: Raised by argparse: status 2 for wrong arguments, 0 after ``--help`` and
            ``--version``.
    """
    parser = _build_parser()
    try:
        chosen = parser.parse_args(arguments)
    except OSError as error:  # of printing the help
        report("mabm", in_words(error))
        return FAILURE
    with _logging_to_stderr(chosen.level):
        try:
            status: int = chosen.execute(chosen)
        except KeyboardInterrupt as error:
            report(place_of(chosen), "interrupted", error if chosen.debug else None)
            return INTERRUPTED
        except Exception as error:
            return tell(error, chosen)
    return status


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage message that argparse prints first."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints help and version with :func:`write`; argparse would ignore a full disk."""
        if message and file is not None and file is sys.stdout:
            with suppress(OutputClosedError):
                write(message.rstrip("\n"))
        else:
            super()._print_message(message, file)


def _build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = _Parser(
        prog="mabm",
        description="Find which unlabeled images show the same person across cameras.",
        epilog=f"Each command has its own help: mabm cluster --help\n\n{_EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mabm {build_info().version}")
    _add_common(parser, debug=False, level=logging.INFO)
    parser.set_defaults(execute=lambda _: _print_help(parser))  # where no command is named
    commands = parser.add_subparsers(dest="command", metavar="command")
    for command in COMMANDS:
        of_command = commands.add_parser(
            command.name,
            help=command.help,
            description=textwrap.fill(command.description, _WIDTH),
            epilog=f"examples:\n{_indented(command.examples)}\n\n{_EXIT_STATUS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(of_command)
        # Allowed before and after the name of the command; the last one wins.
        _add_common(of_command, debug=argparse.SUPPRESS, level=argparse.SUPPRESS)
        of_command.set_defaults(execute=command.execute, parser=parser)
    return parser


def _print_help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def _add_common(parser: argparse.ArgumentParser, *, debug: Any, level: Any) -> None:
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--debug", action="store_true", default=debug, help="show the traceback of an error"
    )
    either = group.add_mutually_exclusive_group()
    for option, constant, text in (
        ("--quiet", logging.ERROR, "show errors only"),
        ("--verbose", logging.DEBUG, "show all messages"),
    ):
        either.add_argument(
            option, dest="level", action="store_const", const=constant, default=level, help=text
        )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.strip().splitlines())


@contextmanager
def _logging_to_stderr(level: int) -> Iterator[None]:
    """Within the ``with``, sends log messages of at least ``level`` to standard error."""
    logger, handler = logging.getLogger("mabm"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
