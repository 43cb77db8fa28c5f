"""Decoded images in one file that any number of processes fill and read.

The file holds a head, one mark per row, and the rows, at places that its name alone determines. It
starts as zeros, and whoever opens it first makes it: every step of that can be repeated or done by
two processes at once with the same outcome, so there is no lock, and nothing is left behind by a
process that dies.

A row is valid if its mark equals the checksum of its pixels. The mark is written after the pixels;
should the two reach the disk in another order, or only in part, the checksum does not match and the
row is decoded again. Two processes that write one row write the same bytes.

Rows are read and written by position, not through a mapping: on a full disk that is an error to
handle, where a store into a mapping kills the process.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mabm._core.files import naming_file
from mabm.data.records import ByteArray

_FORMAT: Final = 1  # changes with the layout below, and with how decode_image decodes
_MARKS_AT: Final = 128  # the head fits below, and marks stay aligned to their eight bytes
_MARK: Final = np.dtype("<u8")
_WRITTEN: Final = 1 << 32  # distinguishes a row whose checksum is 0 from a missing row

_log = logging.getLogger(__name__)


class DecodeCache:
    """Rows of bytes in a file, each written completely or not at all.

    Args:
        path: The file; it and its folder are made if they do not exist.
        num_rows: Number of rows.
        shape: Shape of each row.

    Raises:
        OSError: The file can be neither opened nor made.
        ValueError: The file exists and is not a cache of this shape.
    """

    def __init__(self, path: Path, num_rows: int, shape: tuple[int, ...]) -> None:
        self.path = path
        self.num_rows = num_rows
        self.shape = shape
        self._row_bytes = math.prod(shape)
        self._head = f"mabm decoded images {_FORMAT}: {(num_rows, *shape)}\n".encode()
        self._full = False
        self._open()

    def read(self, row: int, pixels: ByteArray) -> bool:
        """Fills ``pixels`` with a row if the cache has it; returns whether it has."""
        mark = os.pread(self._file, _MARK.itemsize, self._mark_at(row))
        if mark == bytes(_MARK.itemsize):
            return False
        stored = os.pread(self._file, self._row_bytes, self._row_at(row))
        if mark != _mark(row, stored):
            return False
        pixels[...] = np.frombuffer(stored, dtype=np.uint8).reshape(self.shape)
        return True

    def write(self, row: int, pixels: ByteArray) -> None:
        """Writes a row. When the disk is full, logs that once and writes no more."""
        if self._full:
            return
        stored = pixels.tobytes()
        try:
            _write_all(self._file, stored, self._row_at(row))
            _write_all(self._file, _mark(row, stored), self._mark_at(row))
        except OSError as error:
            self._full = True
            _log.warning("%s takes no more decoded images: %s", self.path, error.strerror)

    def num_written(self) -> int:
        """Counts the rows that carry a mark."""
        marks = os.pread(self._file, self.num_rows * _MARK.itemsize, _MARKS_AT)
        return int(np.count_nonzero(np.frombuffer(marks, dtype=_MARK)))

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        weakref.finalize(self, os.close, self._file)
        with naming_file(self.path):
            self._complete()

    def _complete(self) -> None:
        """Gives the file its size and its head, unless it has them."""
        size = self._row_at(self.num_rows)
        found = os.fstat(self._file).st_size
        head = os.pread(self._file, len(self._head), 0)
        # A process that died between the two steps below leaves nothing but zeros.
        if found > size or not self._head.startswith(head.rstrip(b"\0")):
            raise ValueError(f"{self.path} is no cache of {self.num_rows} images: delete it")
        if found < size:
            os.truncate(self._file, size)
        if head != self._head:
            _write_all(self._file, self._head, 0)

    def _mark_at(self, row: int) -> int:
        return _MARKS_AT + row * _MARK.itemsize

    def _row_at(self, row: int) -> int:
        return _MARKS_AT + self.num_rows * _MARK.itemsize + row * self._row_bytes

    # A file descriptor means nothing in another process.
    def __reduce__(self) -> tuple[Any, ...]:
        return DecodeCache, (self.path, self.num_rows, self.shape)


def cache_key(paths: Sequence[Path], size: tuple[int, int], resampling: str) -> str:
    """Returns a digest that changes whenever the decoded pixels might.

    Paths count from the innermost folder that holds them all, so that a data set can be moved.

    Raises:
        FileNotFoundError: A file is missing.
    """
    import PIL
    from PIL import features

    decoders = [f"{name} {features.version(name)}" for name in ("jpg", "libjpeg_turbo", "zlib")]
    settings = (_FORMAT, PIL.__version__, decoders, size, resampling, len(paths))
    digest = hashlib.sha256(f"{settings}\n".encode())
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    start = len(os.path.commonpath(folders)) if folders else 0
    for path in paths:
        found = os.stat(path)
        within = os.path.abspath(path)[start:]
        digest.update(f"{found.st_size} {found.st_mtime_ns} {len(within)} ".encode())
        digest.update(os.fsencode(within))
    return digest.hexdigest()[:32]


def _mark(row: int, stored: bytes) -> bytes:
    # The row number is part of the checksum: pixels in a wrong place do not pass.
    checksum = zlib.crc32(stored, zlib.crc32(row.to_bytes(8, "little")))
    return np.array(_WRITTEN | checksum, dtype=_MARK).tobytes()


def _write_all(file: int, content: Any, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
