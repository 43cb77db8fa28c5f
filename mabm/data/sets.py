"""Every data set by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mabm.data.emoji_xm import read_emoji_xm
from mabm.data.records import ReidData

_Reader = Callable[[Path | None, int | None], ReidData]


def _emoji_xm(root: Path | None, trial: int | None) -> ReidData:
    if root is not None:
        raise ValueError(f"emoji_xm ships with the library and has no root, got {root}")
    if trial is not None:
        raise ValueError(f"emoji_xm has no trials, got trial {trial}")
    return read_emoji_xm()


_READERS: Mapping[str, _Reader] = MappingProxyType({"emoji_xm": _emoji_xm})

DATA_SETS: Final = tuple(_READERS)
"""The names that :func:`read_data` knows."""


def read_data(name: str, root: Path | str | None = None, *, trial: int | None = None) -> ReidData:
    """Reads a data set."""
    if name not in _READERS:
        raise ValueError(f"name must be one of {', '.join(_READERS)}, got {name!r}")
    return _READERS[name](None if root is None else Path(root), trial)
