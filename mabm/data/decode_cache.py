"""A cache of decoded images in one file that any number of processes read and write.

The file consists of a header, one mark per row, and the rows, at fixed positions. It starts as
zeros and is created by the first process that opens it: every step can be repeated, or done by two
processes at once, with the same result, so no lock is needed, and a killed process leaves nothing
behind.

A row is valid if its mark equals the checksum of its pixels. The mark is written after the pixels;
if the two reach the disk in another order, or only partly, the checksum does not match and the row
is decoded again. Two processes that write the same row write the same bytes.

Rows are read and written by position, not through a memory map: a full disk then raises an error,
whereas writing to a memory map would kill the process.
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
        path: The file; it and its folder are created if they do not exist.
        num_rows: Number of rows.
        shape: Shape of each row.

    Raises:
        OSError: The file cannot be opened or created.
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
        """Reads a row into ``pixels`` if it is cached; returns whether it is."""
        mark = os.pread(self._file, _MARK.itemsize, self._mark_at(row))
        if mark == bytes(_MARK.itemsize):
            return False
        stored = os.pread(self._file, self._row_bytes, self._row_at(row))
        if mark != _mark(row, stored):
            return False
        pixels[...] = np.frombuffer(stored, dtype=np.uint8).reshape(self.shape)
        return True

    def write(self, row: int, pixels: ByteArray) -> None:
        """Writes a row. If the disk is full, logs a warning once and stops writing."""
        if self._full:
            return
        stored = pixels.tobytes()
        try:
            _write_all(self._file, stored, self._row_at(row))
            _write_all(self._file, _mark(row, stored), self._mark_at(row))
        except OSError as error:
            self._full = True
            _log.warning("%s: no more images are cached: %s", self.path, error.strerror)

    def num_written(self) -> int:
        """Counts the rows that have a mark."""
        marks = os.pread(self._file, self.num_rows * _MARK.itemsize, _MARKS_AT)
        return int(np.count_nonzero(np.frombuffer(marks, dtype=_MARK)))

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        weakref.finalize(self, os.close, self._file)
        with naming_file(self.path):
            self._complete()

    def _complete(self) -> None:
        """Gives the file its size and header, unless it has them."""
        size = self._row_at(self.num_rows)
        found = os.fstat(self._file).st_size
        head = os.pread(self._file, len(self._head), 0)
        # A process that died between the two steps below leaves nothing but zeros.
        if found > size or not self._head.startswith(head.rstrip(b"\0")):
            raise ValueError(f"{self.path} is not a cache of {self.num_rows} images: delete it")
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

    Paths are relative to their innermost common folder, so that a data set can be moved.

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
