"""Arrays in files: .npy, .npz, .safetensors and .csv, by the end of the name."""

from __future__ import annotations

import csv
import importlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabm._arrays import check_column, to_tensor
from mabm._files import moved_into, write_text

Column = npt.NDArray[np.int64]

MODALITY_WORDS: Final = {"visible": 0, "infrared": 1, "thermal": 1}
"""What a modality may be called instead of its number."""


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
    if path.suffix == ".npy":
        if key is not None:
            raise ValueError(f"--key must be left out for {path}, which holds one array; got {key}")
        return _floating(_load_npy(path), path), None
    arrays = _read_archive(path)
    if key is None:
        matrices = [name for name, array in arrays.items() if array.ndim == 2]
        key = matrices[0] if len(matrices) == 1 else "features"
    if key not in arrays:
        raise ValueError(
            f"--key must name one of the arrays in {path} ({', '.join(arrays) or 'none'}), "
            f"got {key!r}"
        )
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
    if path.suffix == ".npy":
        return _whole(_load_npy(path), path)
    if path.suffix == ".csv":
        return torch.from_numpy(_read_csv_column(path, "modality"))
    arrays = _read_archive(path)
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
    if not word.isdecimal():
        raise ValueError(
            f"{where}: modality must be an integer >= 0 or one of {', '.join(MODALITY_WORDS)}, "
            f"got {text!r}"
        )
    return int(word)


def read_table(path: Path) -> list[list[str]]:
    """Rows of a CSV file without the empty ones.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no text, or holds no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be comma-separated text: {error}") from error
    if not rows:
        raise ValueError(f"{path} must hold rows, got none")
    return rows


def check_output(path: Path, kinds: Sequence[str], *, option: str = "--output") -> None:
    """Refuses a path that no file of these kinds can be written to; nothing is written yet.

    Raises:
        FileNotFoundError: Its folder is not there.
        ValueError: The end of its name is none of ``kinds``.
    """
    if path.suffix not in kinds:
        raise ValueError(f"{option} must end in {' or '.join(kinds)}, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} must lie in a folder that is there, got {path}")
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {path}")


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays: all of them to ``.npz`` or ``.safetensors`` (numbers alone), else the first.

    ``.csv`` gets a line a row: its number, and a column for each array. A file is complete or not
    there: it is written beside its place and moved.

    Raises:
        ImportError: ``.safetensors`` without its extra.
        OSError: The file cannot be written.
    """
    first = next(iter(arrays.values()))
    if path.suffix == ".npy":
        with moved_into(path) as stream:
            np.save(stream, first, allow_pickle=False)
    elif path.suffix == ".npz":
        keywords: dict[str, Any] = dict(arrays)
        with moved_into(path) as stream:
            np.savez(stream, **keywords)
    elif path.suffix == ".csv":
        write_text(path, _csv_of(arrays))
    else:
        save = _safetensors("numpy").save
        numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiub"}
        with moved_into(path) as stream:
            stream.write(save(numbers))


def _csv_of(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", *columns])
    values = [column.tolist() for column in columns.values()]
    writer.writerows([row, *cells] for row, cells in enumerate(zip(*values, strict=True)))
    return stream.getvalue()


def _load_npy(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]  # numpy says Any
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} must be a .npy file of numbers: {error}") from error


def _read_archive(path: Path) -> dict[str, npt.NDArray[Any]]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix != ".npz":
        raise ValueError(
            f"{path} must end in .npy, .npz or .safetensors, got {path.suffix or 'no ending'!r}"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} must be a .npz file of plain arrays: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    module = _safetensors("torch")
    try:
        return dict(module.load_file(path))
    except OSError:
        raise
    except Exception as error:  # safetensors has an exception of its own
        raise ValueError(f"{path} must be a .safetensors file: {error}") from error


def _safetensors(flavour: str) -> Any:
    try:
        return importlib.import_module(f"safetensors.{flavour}")
    except ImportError as error:
        raise ImportError(
            'files in .safetensors need safetensors: pip install "mabm[train]"'
        ) from error


def _floating(array: Any, path: Path) -> Tensor:
    try:
        features = to_tensor(array, "features")
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not features.is_floating_point():
        raise ValueError(f"{path} must hold floating-point features, got {array.dtype}")
    return features


def _whole(array: Any, path: Path) -> Tensor:
    try:
        return check_column(array, None, "modality", "one a row of features")
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_csv_column(path: Path, name: str) -> Column:
    rows = read_table(path)
    header = [cell.strip().lower() for cell in rows[0]]
    first = 0
    if name in header:
        place, first = header.index(name), 1
    elif len(header) == 1:
        place, first = 0, int(not (header[0].isdecimal() or header[0] in MODALITY_WORDS))
    else:
        raise ValueError(f"{path} must have a column {name!r}, or one column; got {rows[0]}")
    values = []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) <= place:
            raise ValueError(f"{path}, row {number}: must have {len(header)} columns, got {row}")
        values.append(modality_number(row[place], f"{path}, row {number}"))
    return np.array(values, dtype=np.int64)
