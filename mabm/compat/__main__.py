"""``python -m mabm.compat FOLDER``: lists the imports that mabm can replace; ``--write`` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from mabm.cli.command import FAILURE, OUTPUT_CLOSED, OutputClosedError, write
from mabm.compat._tool.comparison import TOLERANCE, Comparison, compare
from mabm.compat._tool.rewriting import Plan, plan_changes

_EPILOG: Final = """\
Without --write, nothing is changed: the command lists the lines it would change, and what it would
leave unchanged and why.

exit status:
  0  success, also if there is nothing to change
  1  failure, or old and new functions differ by more than 1e-5
  2  usage error
"""

_WIDTH: Final = 96  # of the lines that list files


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status; prints an error as one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mabm.compat",
        description="Replaces imports of a re-identification code base by mabm's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of the code base, or one .py file"
    )
    parser.add_argument("--write", action="store_true", help="change the files")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run old and new functions on the same random features and print the largest "
        "difference and both run times (this runs code of FOLDER); with --write, the files are "
        "changed only if the results agree",
    )
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen.folder, chosen.write, chosen.check)
    except OutputClosedError:
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write("python -m mabm.compat: interrupted\n")
        return 130
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.stderr.write(f"python -m mabm.compat: {problem}\n")
        return FAILURE


def _run(folder: Path, writes: bool, checks: bool) -> int:
    plan = plan_changes(folder)
    write(_described(plan))
    if checks:
        comparisons = compare(plan.code_base)
        write(f"\n{_compared(comparisons)}")
        if not all(comparison.agrees for comparison in comparisons):
            if writes:
                write("\nNothing changed: old and new differ.")
            return FAILURE
    if not plan.changes:
        write("\nNothing to change.")
    elif writes:
        plan.write()
        write(f"\nChanged {_counted(plan)}.")
    else:
        write("\nNothing changed yet. Add --write to change the files.")
    return 0


def _described(plan: Plan) -> str:
    lines = [f"{plan.root}: {_number(plan.files, 'file')} read, {_counted(plan)} to change"]
    if plan.changes:
        lines += ["", "To change"]
    for (old, *new), places in _grouped(
        ((change.old, *change.new.split("\n")), change.place) for change in plan.changes
    ):
        lines += [f"  old  {old}", f"  new  {new[0]}", *(f"       {line}" for line in new[1:])]
        lines += _wrapped(places, 7)
    if plan.remarks:
        lines += ["", "Left unchanged"]
    for (what, reason), places in _grouped(
        ((remark.what, remark.reason), remark.place) for remark in plan.remarks
    ):
        lines += [f"  {what}", f"    {reason}", *_wrapped(places, 4)]
    return "\n".join(lines)


def _grouped(
    entries: Iterable[tuple[tuple[str, ...], str]],
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Groups equal texts: returns each once, with all of its places."""
    found: dict[tuple[str, ...], list[str]] = {}
    for text, place in entries:
        found.setdefault(text, []).append(place)
    return list(found.items())


def _wrapped(places: list[str], indent: int) -> list[str]:
    lines = [places[0]]
    for place in places[1:]:
        if len(lines[-1]) + len(place) > _WIDTH - indent:
            lines[-1] += ","
            lines.append(place)
        else:
            lines[-1] += f", {place}"
    return [" " * indent + line for line in lines]


def _counted(plan: Plan) -> str:
    files = len({change.file for change in plan.changes})
    return f"{_number(len(plan.changes), 'line')} in {_number(files, 'file')}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _compared(comparisons: Sequence[Comparison]) -> str:
    lines = ["Old and new on the same random features"]
    if not comparisons:
        lines.append("  nothing to compare: the old modules are not in this folder")
    for comparison in comparisons:
        lines.append(f"  {comparison.old}")
        if comparison.difference is None:
            lines.append(f"    not compared: {comparison.reason}")
            continue
        old, new = comparison.seconds
        verdict = "" if comparison.agrees else f"  MORE THAN {TOLERANCE:g}"
        lines.append(
            f"    largest difference {comparison.difference:.1e}, "
            f"old {old:.3f} s, new {new:.3f} s{verdict}"
        )
    if comparisons:
        compared = [c for c in comparisons if c.difference is not None]
        agreeing = sum(comparison.agrees for comparison in compared)
        lines.append(
            f"{len(compared)} compared, {agreeing} within {TOLERANCE:g}; "
            f"{len(comparisons) - len(compared)} not compared"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
