"""Comma-separated text: rows, and the numbers and modalities in their cells."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mabm._core.files import check_regular
from mabm._core.modalities import INFRARED, MODALITY_NAMES

MODALITY_WORDS: Final = {name: number for number, name in MODALITY_NAMES.items()} | {
    "thermal": INFRARED
}
"""Words that stand for the number of a modality."""

_LARGEST: Final = 2**63 - 1  # the largest int64
_MOST_SHOWN: Final = 40  # characters of a cell in a message
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs"}  # other common separators


def read_rows(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the non-empty rows of a table, and their numbers from 1.

    Args:
        path: A file of comma-separated text in UTF-8, with or without a byte-order mark.
        name: Name of the file in messages.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not text, or not a regular file.
    """
    check_regular(path)
    number = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            for row in csv.reader(stream):
                if any(cell.strip() for cell in row):
                    number += 1
                    yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} must be comma-separated text: {error}") from error


def other_separator(row: list[str]) -> str | None:
    """The separator in a row, in words, if it is not a comma; ``None`` for commas."""
    line = ",".join(row)
    return next((words for sign, words in _SEPARATORS.items() if sign in line), None)


def whole_number(text: str) -> int | None:
    """The integer in [0, 2^63) that a text of digits stands for, or ``None``."""
    digits = text.lstrip("0") or text[-1:]
    # Python does not convert thousands of digits, and nothing here needs more than 64 bits.
    if not text.isdecimal() or len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST:
        return None
    return int(digits)


def known_modality(text: str) -> int | None:
    """The modality that a number or a known word stands for; ``None`` for any other text."""
    word = text.strip().lower()
    return MODALITY_WORDS.get(word, whole_number(word))


def modality_number(text: str, where: str) -> int:
    """The modality that a number or a known word stands for.

    Raises:
        ValueError: The text is neither; the message begins with ``where``.
    """
    number = known_modality(text)
    if number is None:
        raise ValueError(
            f"{where}: modality must be an integer in [0, 2^63) or one of "
            f"{', '.join(MODALITY_WORDS)}, got {shortened(text)}"
        )
    return number


def shortened(text: str) -> str:
    """The ``repr`` of a text, cut after 40 characters."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")
