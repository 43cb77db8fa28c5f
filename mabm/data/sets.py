"""Every data set by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mabm._core.names import DATA_SETS, find_name
from mabm.data.emoji_xm import read_emoji_xm
from mabm.data.llcm import read_llcm
from mabm.data.records import ReidData
from mabm.data.regdb import read_regdb
from mabm.data.sysu_mm01 import read_sysu_mm01

_READERS: Mapping[str, Callable[[Path | str], ReidData]] = MappingProxyType(
    {"sysu_mm01": read_sysu_mm01, "llcm": read_llcm}
)


def read_data(name: str, root: Path | str | None = None, *, trial: int | None = None) -> ReidData:
    """Reads a data set by its name.

    Args:
        name: One of ``DATA_SETS``, in any case and with ``-`` or ``_``; ``"sysu"`` will do.
        root: Folder of the data set; ``None`` for ``"emoji_xm"``, which ships with the library.
        trial: 1 to 10 for ``"regdb"``; ``None`` for the others, which have no trials.

    Returns:
        What that data set's reader returns: :func:`read_sysu_mm01`, :func:`read_regdb`,
        :func:`read_llcm` or :func:`read_emoji_xm`.

    Raises:
        FileNotFoundError: Something of the data set is missing; the message says what.
        ValueError: An unknown name, a root or trial that is missing or not asked for, or a data set
            that does not say what it must.

    Example:
        >>> from mabm.data import read_data
        >>> data = read_data("regdb", "datasets/RegDB", trial=1)  # doctest: +SKIP
    """
    found = find_name(name, DATA_SETS)
    if found is None:
        raise ValueError(f"name must be one of {', '.join(DATA_SETS)}, got {name!r}")
    name = found
    if name == "emoji_xm" and root is not None:
        raise ValueError(f"root must be None for emoji_xm, which ships with mabm, got {root}")
    if name == "regdb" and trial is None:
        raise ValueError("trial must be in [1, 10] for regdb, got None")
    if name != "regdb" and trial is not None:
        raise ValueError(f"trial must be None for {name}, which has no trials, got {trial}")
    if name == "emoji_xm":
        return read_emoji_xm()
    if root is None:
        raise ValueError(f"root must be the folder of {name}, got None")
    if trial is not None:
        return read_regdb(root, trial=trial)
    return _READERS[name](root)
