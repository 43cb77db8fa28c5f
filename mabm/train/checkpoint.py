"""Checkpoints that are whole or not there.

A checkpoint is written beside its place, flushed to the disk and moved there, then its SHA-256 is
written likewise into a file of its own, as ``sha256sum`` writes it. One without a checksum, or
whose checksum differs, does not count: whenever a process is killed, the one before is good.
Reading one never executes code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import torch

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"checkpoint-(\d+)-(\d+)-(\d+)\.pt")
_KEPT: Final = 2  # should the disk lose the newest, there is the one before


class Position(NamedTuple):
    """What comes next: a stage (1 or 2; 3 is the end), an epoch and an iteration, from 0."""

    stage: int
    epoch: int
    iteration: int


def save_checkpoint(folder: Path, position: Position, state: dict[str, Any]) -> Path:
    """Writes a checkpoint, and removes those before the last two.

    Args:
        folder: Where checkpoints are; exists.
        position: What comes next.
        state: Tensors, numbers, strings, and lists and dictionaries of them.

    Returns:
        The file.
    """
    path = folder / f"checkpoint-{position.stage}-{position.epoch:04d}-{position.iteration:06d}.pt"
    digest = write_torch(path, {"position": list(position), **state})
    write_text(path.with_suffix(".pt.sha256"), f"{digest}  {path.name}\n")
    for _, old in _checkpoints(folder)[:-_KEPT]:
        # The checksum goes first: what is left of a removal cut short is no checkpoint.
        old.with_suffix(".pt.sha256").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> tuple[Position, dict[str, Any]] | None:
    """Reads the newest good checkpoint onto the CPU; ``None`` if there is none.

    Ones that are not whole are passed over, which the log says.
    """
    for position, path in reversed(_checkpoints(folder)):
        if _is_whole(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return position, state
        logger.warning("%s is damaged or was not finished; taking the one before", path.name)
    return None


def write_torch(path: Path, value: object) -> str:
    """Saves ``value`` at ``path`` as a whole or not at all; returns its SHA-256."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("wb") as stream:
        hashing = _Hashing(stream)
        torch.save(value, hashing)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    _move(beside, path)
    return hashing.digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` as a whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    _move(beside, path)


def clear_parts(folder: Path) -> None:
    """Removes what writes that were cut short have left."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[tuple[Position, Path]]:
    """All files that are named as checkpoints, oldest position first."""
    found = []
    for path in folder.glob("checkpoint-*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((Position(*map(int, match.groups())), path))
    return sorted(found)


def _is_whole(path: Path) -> bool:
    sidecar = path.with_suffix(".pt.sha256")
    if not sidecar.is_file():
        return False
    with path.open("rb") as stream:
        digest = _digest(stream)
    return sidecar.read_text(encoding="utf-8").split()[:1] == [digest.hexdigest()]


def _digest(stream: IO[bytes]) -> Any:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest


def _move(beside: Path, path: Path) -> None:
    os.replace(beside, path)
    # The folder too, or a machine that goes down forgets the move.
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Hashing:
    """A stream that hashes what is written through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()
