"""The numbers of runs as CSV: a row for each epoch, a column for each number of the history."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mabm.report.tables import Entry, flatten

COLUMNS: Final = ("run", "stage", "epoch")
"""The first columns; the others are named by the keys of the history, joined by dots."""


def numbers_csv(histories: Mapping[str, Sequence[Entry]]) -> str:
    """The numbers of all epochs of some runs as CSV (RFC 4180, but lines end with a line feed).

    Columns are ``run``, ``stage``, ``epoch``, and the others of the history in the order that they
    come up, such as ``losses.within visible`` or ``evaluation.all-search.mean.rank1``. Numbers are
    read back unchanged. A cell is empty where an epoch has no such number. Words and lists (scores
    of each trial, the neighbor mix, warnings) are left to the history.

    Args:
        histories: Name of each run -> entries of its epochs, in order.

    Example:
        >>> from mabm.report.numbers import numbers_csv
        >>> history = [{"stage": 1, "epoch": 1, "losses": {"visible": 0.5}}]
        >>> print(numbers_csv({"one": history}), end="")
        run,stage,epoch,losses.visible
        one,1,1,0.5
    """
    rows = [
        {"run": name, **_numbers(flatten(entry))}
        for name, history in histories.items()
        for entry in history
    ]
    columns = dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    return {key: value for key, value in values.items() if isinstance(value, int | float)}
