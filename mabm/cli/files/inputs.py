"""Features and modality, read from files of any supported kind or from standard input."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mabm._core.arrays import to_readable
from mabm._core.columns import check_column
from mabm.cli.files.arrays import ARRAYS, Source, StoredArray, open_arrays
from mabm.cli.files.modalities import Modality, number_words
from mabm.cli.files.row_files import RowFiles
from mabm.cli.files.tables import read_feature_table, read_modality_column

STANDARD: Final = "-"
"""Stands for standard input or output in place of a file name."""

_KINDS: Final = f"{', '.join(ARRAYS)} or .csv"


@contextmanager
def opened(typed: str) -> Iterator[Source]:
    """Opens an argument: a file, or ``-`` for standard input, which is copied to a temporary file.

    The kind of standard input is recognized by its first bytes.

    Raises:
        OSError: The file does not exist, or the copy does not fit on the disk.
        ValueError: Standard input is closed or empty.
    """
    if typed != STANDARD:
        file = Path(typed)
        file.stat()  # a name that is missing is told as such, whatever it ends in
        yield Source.of(file)
        return
    if sys.stdin is None:
        raise ValueError("standard input must be open, but it is closed")
    with tempfile.TemporaryDirectory(prefix="mabm-") as folder:
        path = Path(folder, "standard-input")
        with path.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        if not path.stat().st_size:
            raise ValueError("standard input must not be empty")
        yield Source(path, _kind_of(path), "standard input")


def _kind_of(path: Path) -> str:
    """The kind of a file by its content; anything unknown is treated as a table."""
    with path.open("rb") as stream:
        start = stream.read(9)
        if start.startswith(b"\x93NUMPY"):
            return ".npy"
        if start.startswith(b"PK"):
            try:
                with zipfile.ZipFile(stream) as archive:
                    names = archive.namelist()
            except Exception:  # damaged: the reader will report it
                return ".npz"
            return ".pt" if any(name.endswith("/data.pkl") for name in names) else ".npz"
    if start.startswith(b"\x80"):
        return ".pt"  # from torch.save before version 1.6
    return ".safetensors" if start[8:] == b"{" else ".csv"


def read_features(source: Source, key: str | None) -> tuple[Tensor, Modality | None]:
    """Reads (N, D) features, and the modality of each sample if the same file contains it.

    Nothing in a file is ever executed: pickled objects are rejected.

    Args:
        source: ``.npy`` (memory-mapped, not read at once), ``.npz``, ``.safetensors``, ``.pt``,
            ``.pth`` or ``.csv``; or a folder of ``.npy`` files, whose rows are those of one matrix,
            in the order of their names.
        key: Name of the array in files that may have several; ``None`` reads ``features``, or the
            only two-dimensional array.

    Raises:
        ImportError: The extra for ``.safetensors`` is not installed.
        OSError: The file cannot be opened.
        ValueError: The file contains something else.
    """
    if source.path.is_dir():
        if key is not None:
            raise ValueError(f"--key must be omitted for {source}, which is a folder; got {key}")
        return RowFiles.of(source).features(), None
    if source.kind == ".csv":
        if key is not None:
            raise ValueError(f"--key must be omitted for {source}, which is a table; got {key}")
        features, modality = read_feature_table(source)
        return torch.from_numpy(features), modality
    if source.kind not in ARRAYS:
        raise ValueError(
            f"{source} must end in {_KINDS}, got {source.path.suffix or 'no extension'!r}"
        )
    arrays = open_arrays(source)
    if list(arrays) == [""]:
        if key is not None:
            raise ValueError(
                f"--key must be omitted for {source}, which contains one array; got {key}"
            )
        return _floating(arrays[""], source), None
    names = ", ".join(arrays) or "none"
    if key is None:
        matrices = [name for name, array in arrays.items() if len(array.shape) == 2]
        key = matrices[0] if len(matrices) == 1 else "features"
        if key not in arrays:
            raise ValueError(
                f"{source} must contain an array 'features', or a single matrix, got {names}: "
                "name one with --key"
            )
    if key not in arrays:
        raise ValueError(f"--key must name one of the arrays in {source} ({names}), got {key!r}")
    beside = arrays.get("modality")
    return _floating(arrays[key], source), None if beside is None else _groups(beside, source)


def read_modality(source: Source) -> Modality:
    """Reads the (N,) modality of each sample: numbers, or words (:func:`number_words`).

    Args:
        source: ``.npy``, ``.npz``, ``.safetensors``, ``.pt`` or ``.pth`` (the array ``modality``,
            or the only one), or ``.csv``: the column ``modality``, or the only one, with or without
            a header; or a folder of ``.npy`` files, one after the other.

    Raises:
        ImportError: The extra for ``.safetensors`` is not installed.
        OSError: The file cannot be opened.
        ValueError: The file contains something else.
    """
    if source.path.is_dir():
        column = RowFiles.of(source).column()
        joined = StoredArray(column.dtype.name, column.shape, lambda: column)
        return _groups(joined, source)
    if source.kind == ".csv":
        return read_modality_column(source)
    if source.kind not in ARRAYS:
        raise ValueError(f"--modality must end in {_KINDS}, or be 'none', got {source}")
    arrays = open_arrays(source)
    name = "modality" if "modality" in arrays or len(arrays) != 1 else next(iter(arrays))
    if name not in arrays:
        raise ValueError(
            f"{source} must contain an array 'modality', got {', '.join(arrays) or 'none'}"
        )
    return _groups(arrays[name], source)


def _floating(stored: StoredArray, source: Source) -> Tensor:
    try:
        features = to_readable(stored.read(), "features")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
    if not features.is_floating_point():
        raise ValueError(f"{source} must contain floating-point features, got {stored.dtype}")
    return features


def _groups(stored: StoredArray, source: Source) -> Modality:
    values = stored.read()
    if stored.dtype == "bool":
        values = values + 0  # False is 0 and True is 1, in tensors and in arrays
    elif isinstance(values, np.ndarray) and values.dtype.kind == "U" and values.ndim == 1:
        return number_words(values.tolist(), lambda row: f"{source}, modality[{row}]")
    try:
        return Modality(check_column(values, None, "modality", "one per row of features"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
