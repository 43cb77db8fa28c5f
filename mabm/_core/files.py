"""Files that are whole or not there, and errors that say which one could not be written and why."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, cast

PART: Final = ".part"
"""How the name of a file ends that is being written."""

DEEPEST: Final = 64
"""How deep dictionaries and lists that are written may be nested; beyond it, one holds itself."""

_NO_SYNC: Final = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def moved_into(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place once it is written and on the disk.

    A symbolic link stays: the file that it points to is replaced.

    Raises:
        OSError: The file cannot be written, for whatever reason the system gives; ``filename`` is
            ``path``. What was there stays. It also takes the place of the errors that
            ``torch.save`` and others raise when a write fails beneath them.
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
        with suppress(OSError):  # of a disk that is full, which an error has told already
            raw.close()
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        with naming_file(path):
            _sync_folder(target.parent)


def check_writable(path: Path) -> None:
    """Raises what `moved_into` would raise before anything is written; nothing stays behind."""
    _, beside = _places(path)
    with naming_file(path):
        beside.open("wb").close()
        beside.unlink()


def _sync_folder(folder: Path) -> None:
    """Puts a move within a folder on the disk, or a machine that goes down forgets it.

    Network file systems may not know how, and one need not be allowed to list the folder; the file
    is whole all the same.
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
    """The file that is replaced, all links followed, and the one written beside it."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        code = errno.EISDIR if target.is_dir() else errno.EEXIST
        raise OSError(code, "Not a regular file", str(path))
    beside = target.with_name(f"{target.name}.{os.getpid()}{PART}")
    return target, beside


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` in UTF-8 to ``path`` as a whole or not at all; errors as `moved_into`."""
    with moved_into(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Makes every ``OSError`` inside one of writing ``path``."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> OSError:
    """The error of a write to ``path``: of the same kind, and with ``filename``."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


class _Watched(io.BufferedIOBase):
    """A file that remembers why a write failed, since what calls it may not tell.

    It is no ``io.BufferedWriter``, past which NumPy would write on its own.
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
        with self._remembering():  # what is in the buffer is written first
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: who opened the file closes it."""

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            raise
