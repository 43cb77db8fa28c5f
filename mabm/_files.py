"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

PART: Final = ".part"
"""How the name of a file ends that is being written."""


@contextmanager
def moved_into(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place once it is written and on the disk."""
    beside = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    # The folder too, or a machine that goes down forgets the move.
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` in UTF-8 to ``path`` as a whole or not at all."""
    with moved_into(path) as stream:
        stream.write(text.encode("utf-8"))
