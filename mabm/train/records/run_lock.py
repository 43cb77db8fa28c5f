"""A lock that keeps a second run out of a folder while the process of the first one is alive.

It is the operating system's lock of an open file (``flock``). A killed process releases it at once,
and on Linux it works over NFS. The file names the process that holds the lock. (The package
filelock is not suitable: worker processes must close the descriptor, which it hides, and its older
versions empty the file of another holder.)
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from mabm._core.files import naming_file
from mabm.train import distributed
from mabm.train.errors import RunInUseError
from mabm.train.records.files import LOCK

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Unix
    fcntl = None

logger = logging.getLogger(__name__)

_BUSY: Final = (errno.EAGAIN, errno.EACCES)
_held: set[int] = set()  # descriptors, for processes that inherit them


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the ``with``, keeps other runs out of ``folder``; creates it if it does not exist.

    When several processes train together, the first holds the lock, and all raise if it cannot get
    it. A folder that was created here is removed if it is empty at the end. If the file system does
    not support locks, a warning is logged and other runs are not kept out.

    Raises:
        OSError: The folder cannot be created or written to.
        RunInUseError: Another run uses the folder, in this process or another.
    """
    made: list[Path] = []
    descriptor, refusal = None, None
    if distributed.rank() == 0:
        try:
            made = _make(folder)
            descriptor = _lock(folder / LOCK)
        except (OSError, RunInUseError) as error:
            refusal = error
    refusal = distributed.share(refusal)
    try:
        if refusal is not None:
            raise refusal
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # already removed by others
                (folder / LOCK).unlink()  # before releasing it, when it may be another run's
            _held.discard(descriptor)
            os.close(descriptor)
        for each in made:
            with suppress(OSError):  # not empty
                each.rmdir()


def leave_locks() -> None:
    """Closes the locks that a child process inherited, so that it does not keep them locked."""
    while _held:
        os.close(_held.pop())


def _make(folder: Path) -> list[Path]:
    """Creates a folder and its parents; returns the folders it created, innermost first."""
    made = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        made.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _lock(path: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        with naming_file(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _take(descriptor, path)
            if _is_at(descriptor, path):
                _sign(descriptor)
                _held.add(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file of a run that ended and removed it after we opened it


def _take(descriptor: int, path: Path) -> None:
    if fcntl is None:
        logger.warning("%s cannot be locked here: do not start a second run there", path.parent)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise RunInUseError(
                f"{path.parent} must not be in use by another run, got {_holder(descriptor)}: "
                "wait for it, stop it, or use another folder"
            ) from None
        logger.warning(
            "%s cannot be locked (%s): do not start a second run there", path.parent, error.strerror
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    words = f"process {os.getpid()} on {socket.gethostname()}, since {since}\n"
    with suppress(OSError):  # the disk is full; the lock works anyway
        os.truncate(descriptor, 0)
        os.write(descriptor, words.encode())


def _holder(descriptor: int) -> str:
    words = os.pread(descriptor, 200, 0).decode(errors="replace")
    return " ".join(words.split()) or "an unknown process"
