"""The history of a run: one line of JSON per epoch, readable even after a kill at any moment."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.files import DEEPEST, moved_into, naming_file


class History:
    """A file of epoch entries, one strict JSON object per line (JSON Lines, UTF-8).

    A line counts once its newline is written. An incomplete line of a killed process is ignored,
    and the next :meth:`append` or :meth:`truncate` removes it. Only one process may write.

    Attributes:
        path: The file; it need not exist yet.

    Example:
        >>> import tempfile, pathlib
        >>> from mabm.train.records.history import History
        >>> history = History(pathlib.Path(tempfile.mkdtemp()) / "history.jsonl")
        >>> history.append({"stage": 1, "epoch": 1, "losses": {"visible": 0.1}})
        >>> history.append({"stage": 1, "epoch": 2, "losses": {"visible": float("nan")}})
        >>> history.read()[1]
        {'stage': 1, 'epoch': 2, 'losses': {'visible': None}}
        >>> history.truncate(stage=1, epoch=1)
        >>> len(history.read())
        1
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds one line, which is on the disk when this returns.

        Args:
            entry: At least ``"stage"`` and ``"epoch"``, integers >= 0 (stage 0 is the start, before
                any training). Values are of types that JSON has, NumPy numbers and arrays, and
                tensors, at any depth; keys are strings. Numbers are read back unchanged, except
                that NaN and infinity, which JSON does not have, become null.

        Raises:
            OSError: The line cannot be written; the file is unchanged.
            TypeError: A value cannot be written as JSON, or a key is not a string.
            ValueError: ``"stage"`` or ``"epoch"`` is missing or negative, or the entry is nested
                too deep.
        """
        _position(entry, "entry")
        rest = memoryview((strict_json(entry) + "\n").encode())
        # Unbuffered, so that the line is one write: at worst, a kill leaves an incomplete line.
        with naming_file(self.path), self.path.open("ab", buffering=0) as stream:
            end = _end_of_last_line(self.path)
            if end < stream.tell():
                stream.truncate(end)
            try:
                while rest:  # after a partial write, the next one raises the reason
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                with suppress(OSError):
                    stream.truncate(end)
                raise

    def read(self) -> list[dict[str, Any]]:
        """All entries, first to last; empty if there is no file.

        Raises:
            ValueError: A complete line is not an entry; the message has its number.
        """
        return [entry for entry, _ in self._entries()]

    def truncate(self, *, stage: int, epoch: int) -> None:
        """Removes the entries after an epoch, to resume there: all of them or, if killed, none.

        Args:
            stage: Stage of the last entry to keep, -1 to remove all.
            epoch: Epoch of the last entry to keep.

        Raises:
            OSError: The file cannot be written.
            ValueError: A complete line is not an entry, or an argument is too low.
        """
        last = check_integer("stage", stage, at_least=-1), check_integer("epoch", epoch, at_least=0)
        kept = [line for entry, line in self._entries() if _position(entry, "entry") <= last]
        content = b"".join(kept)
        if not self.path.exists() or self.path.stat().st_size == len(content):
            return
        with moved_into(self.path) as stream:
            stream.write(content)

    def _entries(self) -> list[tuple[dict[str, Any], bytes]]:
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(
            b"\n"
        )  # after the last newline is an incomplete line
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self.path}, line {number} is not JSON: {error}") from error
            if not isinstance(entry, dict):
                raise ValueError(f"{self.path}, line {number} must be a JSON object, got {entry!r}")
            try:
                _position(entry, f"{self.path}, line {number}")
            except TypeError as error:
                raise ValueError(str(error)) from error
            entries.append((entry, line + b"\n"))
        return entries


def strict_json(value: object) -> str:
    """JSON in one line, with null for NaN and infinity.

    Args:
        value: Values of types that JSON has, NumPy numbers and arrays, and tensors, at any depth.

    Raises:
        TypeError: A value cannot be written as JSON, or a key is not a string.
        ValueError: The value is nested too deep.
    """
    return json.dumps(_json_value(value), ensure_ascii=False, allow_nan=False)


def _json_value(value: object, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"values must be nested at most {DEEPEST} deep; does one contain itself?")
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be str, got {type(key).__name__}: {key!r}")
        return {key: _json_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, depth + 1) for item in value]
    raise TypeError(f"values must be JSON-serializable, got {type(value).__name__}: {value!r}")


def _position(entry: Mapping[str, Any], name: str) -> tuple[int, int]:
    for key in ("stage", "epoch"):
        if key not in entry:
            raise ValueError(f"{name} must have a {key!r}, got {sorted(entry)}")
    stage, epoch = (
        check_integer(f"{key} of {name}", entry[key], at_least=0) for key in ("stage", "epoch")
    )
    return stage, epoch


def _end_of_last_line(path: Path) -> int:
    """Number of bytes up to the end of the last complete line."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1
