"""Comma-separated tables: features, a column of modalities, lists of images."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mabm._core.tables import other_separator, read_rows, shortened
from mabm.cli.files.arrays import Source
from mabm.cli.files.modalities import Modality, is_known, number_words

_MODALITY: Final = "modality"
_ROW_NUMBERS: Final = ("", "row")  # what pandas and this library call such a column


def read_table(source: Source) -> list[list[str]]:
    """Reads the non-empty rows of a table.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not text, or has no rows.
    """
    rows = [row for _, row in read_rows(source.path, str(source))]
    if not rows:
        raise ValueError(f"{source} must have at least one row, got none")
    return rows


def read_feature_table(source: Source) -> tuple[npt.NDArray[np.float32], Modality | None]:
    """Reads (N, D) features, one sample per line, and the modality if there is such a column.

    A first row that is not all numbers is a header. The column named ``modality`` is the modality;
    a first column that is unnamed or named ``row`` contains row numbers and is skipped.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not text or has no rows, a row is longer or shorter than the first
            one, or a cell is not a number.
    """
    header: list[str] | None = None
    place: int | None = None
    first, width = 0, 0
    features: list[npt.NDArray[np.float32]] = []
    words: list[tuple[int, str]] = []
    for number, row in read_rows(source.path, str(source)):
        if not width:
            _check_separator(source, row)
            width = len(row)
            if not all(map(_is_number, row)):
                header = [cell.strip() for cell in row]
                lowered = [name.lower() for name in header]
                place = lowered.index(_MODALITY) if _MODALITY in lowered else None
                first = int(lowered[0] in _ROW_NUMBERS and width > 1)
                continue
        if len(row) != width:
            raise ValueError(f"{source}, row {number}: must have {width} columns, got {len(row)}")
        if place is not None:
            words.append((number, row[place]))
        cells = [cell for column, cell in enumerate(row) if column >= first and column != place]
        try:
            values = np.array(cells).astype(np.float64)
        except ValueError:
            raise _no_number(source, number, row, header, (place, first)) from None
        with np.errstate(over="ignore"):  # reported below as not finite
            features.append(values.astype(np.float32))
    if not features:
        raise ValueError(f"{source} must have at least one row of features, got none")
    modality = None
    if place is not None:
        modality = number_words(
            [word for _, word in words], lambda row: f"{source}, row {words[row][0]}"
        )
    return np.stack(features), modality


def read_modality_column(source: Source) -> Modality:
    """Reads the column ``modality`` of a table, or its only one, with or without a header.

    Raises:
        OSError: The file cannot be opened.
        ValueError: There is no such column, a row is too short, or a cell is not a modality.
    """
    rows = read_table(source)
    _check_separator(source, rows[0])
    header = [cell.strip().lower() for cell in rows[0]]
    first = 0
    if _MODALITY in header:
        place, first = header.index(_MODALITY), 1
    elif len(header) == 1:
        place, first = 0, int(_is_header(rows))
    else:
        raise ValueError(
            f"{source} must have a column {_MODALITY!r}, or one column; "
            f"got {shortened(','.join(rows[0]))}"
        )
    words = []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) <= place:
            raise ValueError(
                f"{source}, row {number}: must have {len(header)} columns, got {len(row)}"
            )
        words.append(row[place])
    return number_words(words, lambda row: f"{source}, row {row + first + 1}")


def _check_separator(source: Source, row: list[str]) -> None:
    """Rejects a first row whose columns are separated by anything but commas."""
    line, separator = ",".join(row), other_separator(row)
    if separator is None and len(row) == 1 and len(cells := line.split()) > 1:
        separator = "spaces" if all(map(_is_number, cells)) else None
    if separator is not None:
        raise ValueError(
            f"{source} must separate columns by commas and write decimal points, got "
            f"{separator}: {shortened(line)}"
        )


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first cell of a column is its name: it is not a modality, and occurs once.

    A number above words only is also a name: pandas writes one above an unnamed Series.
    """
    name = rows[0][0].strip()
    if (
        _is_number(name)
        and len(rows) > 2
        and not any(_is_number(row[0]) for row in rows[1:] if row)
    ):
        return True
    return not is_known(name) and all(name != row[0].strip() for row in rows[1:] if row)


def _no_number(
    source: Source,
    number: int,
    row: list[str],
    header: list[str] | None,
    left_out: tuple[int | None, int],
) -> ValueError:
    """The error for a row that contains something other than numbers."""
    place, first = left_out
    column = next(
        at for at, cell in enumerate(row) if at >= first and at != place and not _is_number(cell)
    )
    name = f"column {column + 1}" if header is None else f"column {header[column]!r}"
    return ValueError(
        f"{source}, row {number}: features must be numbers separated by commas, got "
        f"{shortened(row[column])} in {name}"
    )


def _is_number(cell: str) -> bool:
    try:
        np.float64(cell)
    except ValueError:
        return False
    return True
