"""Rows in one ``.npy`` file, or in the ``.npy`` files of a folder, one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabm._core.arrays import check_finite, row_blocks, to_readable
from mabm.cli.files.arrays import Source, StoredArray, open_arrays, suffix_of

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class RowFiles:
    """N rows in one or more ``.npy`` files, which are mapped when their rows are read.

    Attributes:
        source: The file, or the folder.
        files: The files, in the order of their rows.
        arrays: The array in each of them.
    """

    source: Source
    files: tuple[Source, ...]
    arrays: tuple[StoredArray, ...]

    @classmethod
    def of(cls, source: Source) -> RowFiles:
        """Opens a file, or all files of a folder in the order of their names.

        Numbers in names count as numbers: ``part2.npy`` comes before ``part10.npy``. Names that
        begin with a dot are left out.

        Raises:
            OSError: A file cannot be opened.
            ValueError: A folder has no files, or a file is not ``.npy`` or damaged.
        """
        files = [source]
        if source.path.is_dir():
            paths = [each for each in source.path.iterdir() if not each.name.startswith(".")]
            files = [Source.of(path) for path in sorted(paths, key=lambda path: _order(path.name))]
            if not files:
                raise ValueError(f"{source} must be a folder of .npy files, got an empty one")
        for file in files:
            if suffix_of(file.path) != ".npy":
                raise ValueError(f"{source} must be a folder of .npy files alone, got {file}")
        return cls(source, tuple(files), tuple(open_arrays(file)[""] for file in files))

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of rows of each file."""
        return tuple(array.shape[0] if array.shape else 0 for array in self.arrays)

    def features(self, rows: slice | None = None) -> Tensor:
        """Reads (M, D) float32 features: all rows, or consecutive ones.

        Rows of one file of float32 are mapped; rows of several, or of another type, are copied.

        Args:
            rows: First row, and the one after the last, of all N.

        Raises:
            ValueError: A file contains something else than floating-point features, or another D
                than the first one; or a row that is read is not finite.
        """
        self._check_features()
        first, last, _ = (rows or slice(None)).indices(len(self))
        parts, end = [], 0
        for file, array, count in zip(self.files, self.arrays, self.counts, strict=True):
            begin, end = end, end + count
            if max(first, begin) < min(last, end):
                start = max(first - begin, 0)
                part = to_readable(array.read()[start : last - begin], "features")
                _check_finite(part, file, start)
                parts.append(part)
        if len(parts) == 1:
            return parts[0].to(torch.float32)  # of one type in all processes
        joined = torch.empty(last - first, self.arrays[0].shape[1], dtype=torch.float32)
        place = 0
        for part in parts:
            joined[place : place + len(part)] = part
            place += len(part)
        return joined

    def _check_features(self) -> None:
        for file, array in zip(self.files, self.arrays, strict=True):
            if array.dtype not in _FLOATS:
                raise ValueError(f"{file} must contain floating-point features, got {array.dtype}")
            if len(array.shape) != 2:
                raise ValueError(f"{file} must contain (N, D) features, got shape {array.shape}")
            if array.shape[1] != (dim := self.arrays[0].shape[1]):
                raise ValueError(
                    f"{file} must have {dim} columns as {self.files[0]} has, got {array.shape[1]}"
                )

    def column(self) -> npt.NDArray[Any]:
        """Reads one value for each row, numbers or words, of all files.

        Raises:
            ValueError: A file has another shape, or numbers where the first one has words.
        """
        values = [array.read() for array in self.arrays]
        for file, each in zip(self.files, values, strict=True):
            if each.ndim != 1:
                raise ValueError(f"{file} must contain one value per row, got shape {each.shape}")
            if (each.dtype.kind == "U") != (values[0].dtype.kind == "U"):
                raise ValueError(
                    f"{file} must contain {_kind(values[0])} as {self.files[0]} does, got "
                    f"{_kind(each)}"
                )
        return np.concatenate(values)

    def check_beside(self, features: RowFiles) -> None:
        """Raises ``ValueError`` unless this folder has the names and rows of the one of features.

        A single file may have the rows of all files.
        """
        if not self.source.path.is_dir():
            return
        ours, theirs = _names(self.files), _names(features.files)
        if ours != theirs:
            other = next(iter(sorted(set(ours) ^ set(theirs), key=_order)))
            has, lacks = (self, features) if other in ours else (features, self)
            raise ValueError(
                f"{self.source} must contain files of the same names as {features.source}, got "
                f"{other!r} in {has.source}, not in {lacks.source}"
            )
        for file, count, of_features in zip(self.files, self.counts, features.counts, strict=True):
            if count != of_features:
                raise ValueError(
                    f"{file} must have {of_features} values, one per row of features, got {count}"
                )


def _check_finite(part: Tensor, file: Source, start: int) -> None:
    """Names the file and its row, which the checks of the library cannot know."""
    for block in row_blocks(part):
        check_finite(block.float(), str(file), start)
        start += len(block)


def _order(name: str) -> tuple[list[str | int], str]:
    """Sorts names by their text and numbers; equal numbers, as 2 and 02, by the whole name."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _names(files: Sequence[Source]) -> list[str]:
    return [file.path.name for file in files]


def _kind(values: npt.NDArray[Any]) -> str:
    return "words" if values.dtype.kind == "U" else f"numbers ({values.dtype})"
