"""Checkpoints that are written completely or not at all.

A checkpoint is written to a temporary file, flushed to the disk and renamed. Then its SHA-256 is
written to a second file in the same way, in the format of ``sha256sum``. A checkpoint without a
checksum, or with a wrong one, is ignored: whenever a process is killed, the previous checkpoint is
still valid. Reading a checkpoint never executes code.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from mabm._core.files import DEEPEST, PART, moved_into, write_text
from mabm.models.weight_files import read_torch
from mabm.train.position import Position
from mabm.train.records.files import CHECKPOINT, is_unfinished

logger = logging.getLogger(__name__)

_VERSION: Final = 1
_NUM_KEPT: Final = 2  # if the disk loses the newest, the previous one is left


def save_checkpoint(folder: Path, position: Position, state: dict[str, Any]) -> Path:
    """Writes a checkpoint, and removes all others except the previous one.

    Unfinished checkpoints are removed too, and so are those of later positions, which the run has
    passed over because they are damaged.

    Args:
        folder: Folder of the run, which exists.
        position: Position to resume from.
        state: Tensors, numbers, strings, and lists, tuples and dictionaries of them.

    Returns:
        The file.

    Raises:
        OSError: The checkpoint cannot be written; earlier ones are kept.
        TypeError: ``state`` contains a value of another type, which could not be read again.
        ValueError: ``state`` is nested too deep.
    """
    state = _without_numpy(state, "state")
    path = folder / f"checkpoint-{position.stage}-{position.epoch:04d}-{position.iteration:06d}.pt"
    digest = write_torch(path, {"version": _VERSION, "position": list(position), **state})
    write_text(_sidecar(path), f"{digest}  {path.name}\n")
    existing = _checkpoints(folder)
    finished = [old for at, old in existing if at <= position and _sidecar(old).is_file()]
    for _, old in existing:
        if old not in finished[-_NUM_KEPT:]:
            # The checksum goes first: an interrupted removal leaves no valid checkpoint.
            _sidecar(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return path


def load_newest(
    folder: Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None
) -> tuple[Position, dict[str, Any]] | None:
    """Reads the newest valid checkpoint onto the CPU; ``None`` if there is none.

    A checkpoint that is damaged, has another format, or does not match the position in its name is
    skipped, and a warning is logged.

    Args:
        folder: Folder of the run.
        kinds: Entries that a state must have, and their types.

    Returns:
        The position to resume from, and the state.
    """
    for position, path in reversed(_checkpoints(folder)):
        if not _is_whole(path):
            logger.warning("%s is damaged or incomplete; using the previous one", path.name)
            continue
        try:
            content = read_torch(path)
        except ValueError as error:
            logger.warning("%s; using the previous one", error)
            continue
        fault = _fault(content, position, kinds or {})
        if fault is None:
            return position, cast(dict[str, Any], content)
        logger.warning(
            "%s is not a checkpoint of this run: %s; using the previous one", path, fault
        )
    return None


def _fault(
    content: object, position: Position, kinds: Mapping[str, type | tuple[type, ...]]
) -> str | None:
    """What is wrong with the content of a checkpoint, in words; ``None`` if nothing is."""
    if not isinstance(content, dict):
        return f"it contains a {type(content).__name__}"
    version = content.get("version", _VERSION)  # older checkpoints have none
    if type(version) is not int or version != _VERSION:
        return f"its format has version {version!r}, not {_VERSION}"
    stored = content.get("position")
    is_plain = isinstance(stored, list) and all(type(each) is int for each in stored)
    if not is_plain or stored != list(position):
        return f"its position is {stored!r}, not {list(position)}"
    for key, kind in kinds.items():
        if key not in content:
            return f"it has no {key!r}"
        if not isinstance(content[key], kind):
            return f"its {key!r} is a {type(content[key]).__name__}"
    return None


def newest_position(folder: Path) -> Position | None:
    """Position of the newest finished checkpoint, from its name only."""
    finished = [position for position, path in _checkpoints(folder) if _sidecar(path).is_file()]
    return finished[-1] if finished else None


def write_torch(path: Path, value: object) -> str:
    """Saves ``value`` to ``path`` completely or not at all; returns its SHA-256."""
    with moved_into(path) as stream:
        hashing = _Hashing(stream)
        torch.save(value, hashing)  # type: ignore[arg-type]  # it only calls write()
    return hashing.digest.hexdigest()


def clear_parts(folder: Path) -> None:
    """Removes the temporary files left by a killed run.

    Other files with the same extension are kept: unfinished browser downloads, and files that
    another command is writing.
    """
    for part in folder.glob(f"*{PART}"):
        if is_unfinished(part.name):
            part.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[tuple[Position, Path]]:
    """All files that are named as checkpoints, oldest position first."""
    checkpoints = []
    for path in folder.glob("checkpoint-*.pt"):
        match = CHECKPOINT.fullmatch(path.name)
        if match:
            checkpoints.append((Position(*map(int, match.groups())), path))
    return sorted(checkpoints)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    sidecar = _sidecar(path)
    if not (sidecar.is_file() and path.is_file()):
        return False
    with path.open("rb") as stream:
        digest = _digest(stream)
    if sidecar.stat().st_size > 2**16:  # a checksum and a name are far shorter
        return False
    return sidecar.read_bytes().split()[:1] == [digest.hexdigest().encode("ascii")]


def _without_numpy(value: object, place: str, depth: int = 0) -> Any:
    """The value with NumPy scalars replaced by Python numbers, which load without running code."""
    if depth > DEEPEST:
        raise ValueError(f"state must be nested at most {DEEPEST} deep; does it contain itself?")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {
            _without_numpy(key, place, depth + 1): _without_numpy(
                item, f"{place}[{key!r}]", depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [
            _without_numpy(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)
        ]
        return tuple(items) if isinstance(value, tuple) else items
    raise TypeError(f"{place} must be tensors and plain values, got {type(value).__name__}")


def _digest(stream: IO[bytes]) -> Any:
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest


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
