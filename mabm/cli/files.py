"""What commands read: features, modality, tables; by the end of a file's name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabm._arrays import to_tensor
from mabm._columns import check_column
from mabm.cli.array_files import StoredArray, check_regular, open_arrays, suffix_of
from mabm.cli.command import shortened, whole_number

Column = npt.NDArray[np.int64]

MODALITY_WORDS: Final = {"visible": 0, "infrared": 1, "thermal": 1}
"""What a modality may be called instead of its number."""

_ARRAYS: Final = (".npy", ".npz", ".safetensors")


def read_features(path: Path, key: str | None) -> tuple[Tensor, Tensor | None]:
    """Reads (N, D) features, and the modality of each row where the same file holds it.

    Nothing in a file is ever executed: pickled arrays are refused.

    Args:
        path: ``.npy`` (mapped into memory, not read at once), ``.npz`` or ``.safetensors``.
        key: Name of the array in the latter two; ``None`` is ``features``, or else the only array
            of two dimensions.

    Raises:
        ImportError: ``.safetensors`` without its extra.
        OSError: The file cannot be opened.
        ValueError: It holds something else.
    """
    arrays = open_arrays(path)
    if suffix_of(path) == ".npy":
        if key is not None:
            raise ValueError(f"--key must be left out for {path}, which holds one array; got {key}")
        return _floating(arrays[""], path), None
    names = ", ".join(arrays) or "none"
    if key is None:
        matrices = [name for name, array in arrays.items() if len(array.shape) == 2]
        key = matrices[0] if len(matrices) == 1 else "features"
        if key not in arrays:
            raise ValueError(
                f"{path} must hold an array 'features', or one matrix alone, got {names}: name "
                "one with --key"
            )
    if key not in arrays:
        raise ValueError(f"--key must name one of the arrays in {path} ({names}), got {key!r}")
    modality = arrays.get("modality")
    return _floating(arrays[key], path), None if modality is None else _whole(modality, path)


def read_modality(path: Path) -> Tensor:
    """Reads the (N,) modality of each row.

    Args:
        path: ``.npy``, ``.npz`` or ``.safetensors`` (the array ``modality``, or the only one), or
            ``.csv``: the column ``modality``, or the only one, with or without a header; numbers,
            or the words ``visible`` and ``infrared``.

    Raises:
        ImportError: ``.safetensors`` without its extra.
        OSError: The file cannot be opened.
        ValueError: It holds something else.
    """
    if suffix_of(path) == ".csv":
        return torch.from_numpy(_read_csv_column(path, "modality"))
    if suffix_of(path) not in _ARRAYS:
        raise ValueError(
            f"--modality must end in {', '.join(_ARRAYS)} or .csv, or be 'none', got {path}"
        )
    arrays = open_arrays(path)
    name = "modality" if "modality" in arrays or len(arrays) != 1 else next(iter(arrays))
    if name not in arrays:
        raise ValueError(f"{path} must hold an array 'modality', got {', '.join(arrays) or 'none'}")
    return _whole(arrays[name], path)


def modality_number(text: str, where: str) -> int:
    """The modality meant by a number or a word.

    Raises:
        ValueError: It is neither; the message begins with ``where``.
    """
    word = text.strip().lower()
    if word in MODALITY_WORDS:
        return MODALITY_WORDS[word]
    number = whole_number(word)
    if number is None:
        raise ValueError(
            f"{where}: modality must be an integer in [0, 2^63) or one of "
            f"{', '.join(MODALITY_WORDS)}, got {shortened(text)}"
        )
    return number


def read_table(path: Path) -> list[list[str]]:
    """Rows of a CSV file without the empty ones.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no text, or holds no rows.
    """
    check_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be comma-separated text: {error}") from error
    if not rows:
        raise ValueError(f"{path} must hold rows, got none")
    return rows


def _floating(stored: StoredArray, path: Path) -> Tensor:
    try:
        features = to_tensor(stored.read(), "features")
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not features.is_floating_point():
        raise ValueError(f"{path} must hold floating-point features, got {stored.dtype}")
    return features


def _whole(stored: StoredArray, path: Path) -> Tensor:
    try:
        return check_column(stored.read(), None, "modality", "one a row of features")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_csv_column(path: Path, name: str) -> Column:
    rows = read_table(path)
    header = [cell.strip().lower() for cell in rows[0]]
    first = 0
    if name in header:
        place, first = header.index(name), 1
    elif len(header) == 1:
        place, first = 0, int(not _is_value(header[0]))
    else:
        raise ValueError(
            f"{path} must have a column {name!r}, or one column; got {shortened(','.join(rows[0]))}"
        )
    values = []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) <= place:
            raise ValueError(
                f"{path}, row {number}: must have {len(header)} columns, got {len(row)}"
            )
        values.append(modality_number(row[place], f"{path}, row {number}"))
    return np.array(values, dtype=np.int64)


def _is_value(cell: str) -> bool:
    """Whether a cell is a modality, right or wrong, and no name of a column."""
    try:
        float(cell)
    except ValueError:
        return cell in MODALITY_WORDS
    return True
