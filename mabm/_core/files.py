"""Atomic file writes, with errors that name the file and the reason; regular files."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, cast

PART: Final = ".part"
"""Suffix of a file while it is written."""

DEEPEST: Final = 64
"""Maximum nesting of dictionaries and lists to write; deeper ones probably contain themselves."""

_NO_SYNC: Final = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def moved_into(path: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file that replaces ``path`` once it is completely written to disk.

    If ``path`` is a symbolic link, the file that it points to is replaced.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``path``, and the old file is kept. It
            also replaces the errors that ``torch.save`` and others raise when a write fails.
    """
    target, beside = _places(path)
    with naming_file(path):
        raw = beside.open("wb")
    stream = _Watched(raw)
    try:
        try:
            yield cast(IO[bytes], stream)
        except Exception as error:
            if stream.error is not None:
                raise unwritten(path, stream.error) from error
            raise
        with naming_file(path):
            raw.flush()
            os.fsync(raw.fileno())
            raw.close()
            os.replace(beside, target)
    finally:
        with suppress(OSError):  # a full disk, already reported
            raw.close()
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        with naming_file(path):
            _sync_folder(target.parent)


def check_regular(path: Path) -> None:
    """Rejects a path that is not a regular file: a folder, a pipe or a device.

    Raises:
        OSError: There is no such file, or it cannot be accessed.
        ValueError: It is not a regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(
            f"{path} must be a regular file, got {kinds.get(stat.S_IFMT(mode), 'a device')}"
        )


def check_writable(path: Path) -> None:
    """Raises OSError if `moved_into` could not write to ``path``; leaves no file behind."""
    _, beside = _places(path)
    with naming_file(path):
        beside.open("wb").close()
        beside.unlink()


def _sync_folder(folder: Path) -> None:
    """Flushes a rename in a folder to disk, so that it survives a crash of the machine.

    Network file systems may not support this, and reading the folder may not be allowed. Both are
    ignored, since the file itself is complete.
    """
    try:
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _places(path: Path) -> tuple[Path, Path]:
    """Returns the file to replace, with links followed, and the temporary file next to it."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        code = errno.EISDIR if target.is_dir() else errno.EEXIST
        raise OSError(code, "Not a regular file", str(path))
    beside = target.with_name(f"{target.name}.{os.getpid()}{PART}")
    return target, beside


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` in UTF-8 to ``path`` atomically; raises OSError with ``filename``."""
    with moved_into(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Converts each ``OSError`` inside to an error of writing ``path``."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> OSError:
    """Returns the error of a write to ``path``: the same errno, and ``path`` as ``filename``."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


class _Watched(io.BufferedIOBase):
    """A file that records why a write failed, since callers may hide the error.

    It is not an ``io.BufferedWriter``, because NumPy would bypass its ``write``.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        with self._remembering():
            return self._stream.write(data)

    def flush(self) -> None:
        with self._remembering():
            self._stream.flush()

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._remembering():  # writes the buffer first
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Does nothing: the opener closes the file."""

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            raise
