"""Output files: checked before the work begins, and written completely or not at all.

No command overwrites a file that it reads, or a file of another kind. Files are compared by
identity rather than name, and their kind is recognized by content. A file that the same command
wrote earlier is replaced, so that a command can be run again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mabm._core.files import check_regular, check_writable, moved_into, write_text
from mabm.cli.files.arrays import (
    Source,
    StoredArray,
    open_arrays,
    safetensors_module,
    suffix_of,
)
from mabm.evaluation import SearchScores

Recognizer: TypeAlias = Callable[[Path], bool]
"""Returns whether a file is of a certain kind. Raises ``ValueError`` if the file is damaged."""

_LABELS_HEADER: Final = ["row", "labels"]
_CLUSTERED: Final = frozenset({"labels", "modality", "core", "settings"})
_EXTRACTED: Final = frozenset({"features", "modality", "camera", "identity"})


def check_output(
    path: Path,
    kinds: Mapping[str, Recognizer],
    *,
    reads: Iterable[Path],
    option: str = "--output",
) -> None:
    """Rejects a path that cannot be written to, or a file that must not be replaced.

    Args:
        path: The file to write.
        kinds: Possible extensions, in lower case, each with a function that recognizes files
            written by this command.
        reads: Files that the command reads.
        option: The option that the path was given with.

    Raises:
        ImportError: The extra for ``.safetensors`` is not installed.
        OSError: The file cannot be written, or its folder does not exist.
        ValueError: Its extension is not in ``kinds``, it is one of ``reads``, or a file of another
            kind exists at the path.
    """
    if suffix_of(path) not in kinds:
        raise ValueError(f"{option} must end in {' or '.join(kinds)}, got {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} must be in an existing folder, got {path}")
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {path}")
    if suffix_of(path) == ".safetensors":
        safetensors_module("numpy")  # raises if it is not installed
    check_not_read(path, reads, option=option)
    check_kind(path, kinds[suffix_of(path)], option=option)
    check_writable(path)


def check_not_read(path: Path, reads: Iterable[Path], *, option: str = "--output") -> None:
    """Raises ``ValueError`` if a path is one of the files read, under any name or link."""
    try:
        target = os.stat(path)
    except FileNotFoundError:
        return
    for file in reads:
        try:
            read = os.stat(file)
        except OSError:  # reported when the file is read
            continue
        if os.path.samestat(target, read):
            raise ValueError(f"{option} must not be an input of the command, {file}, got {path}")


def check_kind(path: Path, is_of_kind: Recognizer, *, option: str = "--output") -> None:
    """Raises ``ValueError`` if the file exists and ``is_of_kind`` does not recognize it."""
    if not path.exists():
        return
    check_regular(path)
    try:
        recognized = is_of_kind(path)
    except (ValueError, KeyError, TypeError, RecursionError):  # it is not even readable
        recognized = False
    if not recognized:
        raise ValueError(
            f"{option} must not replace a file of another kind, got {path}: "
            "move it away, or choose another name"
        )


def check_folder(path: Path, *, option: str = "--output") -> None:
    """Rejects a path that is not a folder and cannot be created as one; creates nothing.

    Raises:
        OSError: The folder cannot be created or written to.
        ValueError: The path, or a path above it, is a file.
    """
    nearest = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        raise ValueError(f"{option} must be a folder, got {path}, where {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} must be a writable folder, got {path}")


# --- kinds of files


def is_labels(path: Path) -> bool:
    """Recognizes labels of ``mabm cluster``: integers from -1 without gaps."""
    if suffix_of(path) == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return stream.readline(100).rstrip("\r\n") == ",".join(_LABELS_HEADER)
    arrays = open_arrays(Source.of(path))
    if suffix_of(path) == ".npy":
        return _are_labels(arrays[""])
    names = set(arrays)
    return {"labels"} <= names <= _CLUSTERED and _are_labels(arrays["labels"])


def is_extracted(path: Path) -> bool:
    """Recognizes features of ``mabm extract``: a matrix in .npy, all its arrays in other kinds."""
    arrays = open_arrays(Source.of(path))
    name = "" if suffix_of(path) == ".npy" else "features"
    if name and set(arrays) - {"path"} != _EXTRACTED:
        return False
    return arrays[name].dtype == "float32" and len(arrays[name].shape) == 2


def is_scores(path: Path) -> bool:
    """Recognizes scores of ``mabm evaluate``."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, list) or not values:
        return False
    return all(
        SearchScores.from_dict(each).to_dict().keys() == each.keys() - {"weights"}
        for each in values
    )


def is_picture(path: Path) -> bool:
    """Recognizes a PNG drawn by Matplotlib, which writes its name near the beginning."""
    with path.open("rb") as stream:
        start = stream.read(200)
    return start.startswith(b"\x89PNG\r\n\x1a\n") and b"tEXtSoftware\0Matplotlib" in start


def _are_labels(stored: StoredArray) -> bool:
    if stored.dtype != "int64" or len(stored.shape) != 1:
        return False
    numbers = np.unique(stored.read())
    return not len(numbers) or bool(
        numbers[0] in (-1, 0) and numbers[-1] - numbers[0] == len(numbers) - 1
    )


# --- writing arrays


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays to a file atomically: to a temporary file, which is then renamed.

    ``.npz`` contains all arrays, ``.safetensors`` all numeric arrays, ``.npy`` the first array.
    ``.csv`` has one line per sample: its number, and a column for each array.

    Raises:
        ImportError: The extra for ``.safetensors`` is not installed.
        OSError: The file cannot be written.
    """
    kind, first = suffix_of(path), next(iter(arrays.values()))
    if kind == ".npy":
        with moved_into(path) as stream:
            np.save(stream, first, allow_pickle=False)
    elif kind == ".npz":
        keywords: dict[str, Any] = dict(arrays)
        with moved_into(path) as stream:
            np.savez(stream, **keywords)
    elif kind == ".csv":
        write_text(path, _csv_of(arrays))
    else:
        save = safetensors_module("numpy").save
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
