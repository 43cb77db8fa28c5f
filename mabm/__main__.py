"""Command line: ``python -m mabm demo``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status.

    Args:
        arguments: Words after the program's name; default those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mabm",
        description="Find which unlabelled images show the same person across cameras.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_demo(commands.add_parser("demo", help="cluster open drawings two ways and compare"))
    chosen = parser.parse_args(arguments)
    execute: Callable[[argparse.Namespace], int] = chosen.execute
    try:
        return execute(chosen)
    except (ImportError, OSError, ValueError) as error:  # what the user can mend, in one line
        logging.getLogger(__name__).debug("where it came from", exc_info=True)
        sys.stderr.write(f"{parser.prog} {chosen.command}: {error}\n")
        return 1


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Cluster frames of 350 unseen emoji, in colour (visible) and monochrome (infrared), by the "
        "naive and by the modality-aware distance; print a table and save two pictures. Drawings, "
        "not photographs. Under a minute on two cores."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="folder for the pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_natural,
        default=0,
        help="which frames of the drawings are rendered (default: %(default)s)",
    )
    parser.add_argument("--k1", type=int, help="neighbours of a sample (default: 24)")
    parser.add_argument("--k2", type=int, help="rows averaged by query expansion (default: 6)")
    parser.add_argument("--eps", type=float, help="radius of DBSCAN (default: 0.5)")
    parser.set_defaults(execute=_run_demo)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {text!r}")
    return int(text)


def _run_demo(chosen: argparse.Namespace) -> int:
    # Imported here: other subcommands, and --help, need neither the data nor the pictures.
    from mabm import demo

    given = {name: getattr(chosen, name) for name in ("k1", "k2", "eps")}
    settings = demo.Settings(**{name: value for name, value in given.items() if value is not None})
    result = demo.run(chosen.output, seed=chosen.seed, settings=settings)
    lines = [demo.format_table(result), ""]
    lines += [f"saved {picture}" for picture in result.pictures]
    lines += [f"{result.seconds:.1f} s in all", ""]
    sys.stdout.write("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
