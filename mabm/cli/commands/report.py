"""``mabm report``: the page of a run, several runs side by side, and their numbers as CSV."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mabm.cli.command import Command, write
from mabm.cli.files.outputs import check_output

if TYPE_CHECKING:
    from mabm.train.records.reading import RunRecord

_COMPARISON: Final = Path("comparison.html")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a run, finished or not; the first is the one that others are compared with",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page, .html (default: report.html in the folder of one run, "
        f"{_COMPARISON} of several; none with --csv)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="a table, .csv: a row for each epoch of each run, a column for each number "
        "(default: none)",
    )


def _execute(chosen: argparse.Namespace) -> int:
    from mabm.train.records.files import HISTORY
    from mabm.train.records.reading import read_run

    folders: list[Path] = chosen.runs
    _check_different(folders)
    output: Path | None = chosen.output
    if output is None and len(folders) > 1 and chosen.csv is None:
        output = _COMPARISON
    records = [read_run(folder) for folder in folders]
    reads = [folder / HISTORY for folder in folders]
    if output is not None:
        check_output(
            output, {".html": _is_partial if len(folders) == 1 else _is_comparison}, reads=reads
        )
    if chosen.csv is not None:
        check_output(chosen.csv, {".csv": _is_numbers}, reads=reads, option="--csv")
        _write_numbers(chosen.csv, records)
    if len(folders) > 1 and output is not None:
        _write_comparison(output, records)
    elif output is not None or chosen.csv is None:
        _write_page(folders[0], output)
    return 0


def _check_different(folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for folder in folders:
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:
            raise ValueError(f"RUN must be different folders, got {first} and {folder}")


def _write_page(folder: Path, output: Path | None) -> None:
    """Writes what the files of a run tell, but not over a page that has more."""
    from mabm.report.page import is_complete
    from mabm.train.records.files import REPORT
    from mabm.train.reporting import report_progress

    if output is None and is_complete(folder / REPORT):
        write(f"kept {folder / REPORT}, which is complete")
    else:
        write(f"saved {report_progress(folder, output)}")


def _write_comparison(output: Path, records: Sequence[RunRecord]) -> None:
    from mabm.report.comparison import ComparedRun, write_comparison

    runs = [
        ComparedRun(name, each.history, _settings(each), each.environment, each.is_finished)
        for name, each in zip(_names(records), records, strict=True)
    ]
    write(f"saved {write_comparison(output, runs)}")


def _settings(record: RunRecord) -> dict[str, Any]:
    """Settings by their dotted names, with those that the version of the run did not know."""
    from mabm.report.tables import flatten
    from mabm.train.records.resuming import complete_settings

    return complete_settings(flatten(record.settings)) if record.settings else {}


def _write_numbers(path: Path, records: Sequence[RunRecord]) -> None:
    from mabm._core.files import write_text
    from mabm.report.numbers import numbers_csv

    histories = {name: each.history for name, each in zip(_names(records), records, strict=True)}
    write_text(path, numbers_csv(histories))
    write(f"saved {path}")


def _names(records: Sequence[RunRecord]) -> list[str]:
    """Names of the folders, with as many of those above them as tell all apart."""
    parts = [each.folder.resolve().parts for each in records]
    longest = max(map(len, parts))
    for depth in range(1, longest + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _is_partial(path: Path) -> bool:
    from mabm.report.page import PARTIAL, has_mark

    return has_mark(path, PARTIAL)


def _is_comparison(path: Path) -> bool:
    from mabm.report.page import COMPARISON, has_mark

    return has_mark(path, COMPARISON)


def _is_numbers(path: Path) -> bool:
    from mabm.report.numbers import COLUMNS

    with path.open(newline="", encoding="utf-8") as stream:
        head = stream.readline(1000).rstrip("\r\n")
    return f"{head},".startswith(f"{','.join(COLUMNS)},")


COMMAND = Command(
    name="report",
    help="show a run, or several side by side",
    description=(
        "Write an HTML page on a run, or one that compares several: their curves in one plot, the "
        "last scores and their differences, and the settings that differ. Runs may still be "
        "training. The page of one run is made from its files, without the clusters and searches "
        "that a run adds at its end; a page that already has them is not replaced."
    ),
    examples="""
mabm report runs/emoji
    write runs/emoji/report.html, unless it is already complete, and print its path
mabm report runs/emoji runs/no-split --output compared.html
    two runs; each difference is from the first
mabm report runs/* --csv numbers.csv
    one table of all epochs, for a spreadsheet or pandas
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
