"""Every data set by its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

from mabm._core.names import NamedMapping
from mabm.data.data_set import DataSet
from mabm.data.records import ReidData

# Each is a module of this folder that holds the record DATA_SET; lists of names keep this order.
_MODULES: Final = (
    "sysu_mm01",
    "regdb",
    "llcm",
    "emoji_xm",
    "image_list",
)


def _by_name(*records: DataSet) -> NamedMapping[DataSet]:
    aliases = {alias: record.name for record in records for alias in record.aliases}
    return NamedMapping({record.name: record for record in records}, aliases)


DATA_SETS: Final = _by_name(
    *(importlib.import_module(f"mabm.data.{module}").DATA_SET for module in _MODULES)
)
"""The record of each data set by its name, in any spelling of it; read-only."""

CONFIGS: Final = tuple(name for record in DATA_SETS.values() for name in record.configs)
"""Names of the shipped configurations, ``mabm/train/configs/NAME.toml``."""


def read_data(name: str, root: Path | str | None = None, *, trial: int | None = None) -> ReidData:
    """Reads a data set by its name.

    Args:
        name: A key of ``DATA_SETS``; case is ignored, ``-`` and ``_`` are the same, and short names
            such as ``"sysu"`` are accepted.
        root: Folder of the data set, or the table of ``"image_list"``; ``None`` for one that ships
            with the library.
        trial: Number of the trial, from 1, for a data set with trials; ``None`` for the others.

    Returns:
        The result of the data set's reader, such as :func:`read_sysu_mm01`.

    Raises:
        FileNotFoundError: A part of the data set is missing; the message says which.
        ValueError: The name is unknown, a root or trial is missing or does not apply, or the data
            set does not have its published layout.

    Example:
        >>> from mabm.data import read_data
        >>> data = read_data("regdb", "datasets/RegDB", trial=1)  # doctest: +SKIP
    """
    found = DATA_SETS.find(name)
    if found is None:
        raise ValueError(f"name must be one of {', '.join(DATA_SETS)}, got {name!r}")
    return DATA_SETS[found].read(root, trial=trial)
