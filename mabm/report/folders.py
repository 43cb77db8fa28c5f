"""Folders of a machine in a page that may be shared: their last part alone is shown."""

from __future__ import annotations

import re
from typing import Final

_QUOTED: Final = re.compile(r"""(["'])((?:/|~|[A-Za-z]:[\\/]|\\\\)[^"'\n]*)\1""")
_ABSOLUTE: Final = re.compile(r"(?:/|~|[A-Za-z]:[\\/]|\\\\).*", re.DOTALL)
_SEPARATORS: Final = re.compile(r"[\\/]+")


def shorten_folders(toml: str) -> str:
    """TOML in which values that are absolute paths, or in a home folder, keep their last part.

    Example:
        >>> from mabm.report.folders import shorten_folders
        >>> shorten_folders('root = "/home/ada/datasets/RegDB"')
        'root = "…/RegDB"'
    """
    return _QUOTED.sub(lambda found: f"{found[1]}{shorten(found[2])}{found[1]}", toml)


def shorten(value: str) -> str:
    """A path without the folders above its last part, if it is absolute or in a home folder.

    Example:
        >>> from mabm.report.folders import shorten
        >>> shorten("/home/ada/datasets/RegDB"), shorten("datasets/RegDB")
        ('…/RegDB', 'datasets/RegDB')
    """
    if not _ABSOLUTE.fullmatch(value):
        return value
    parts = [part for part in _SEPARATORS.split(value) if part]
    return f"\N{HORIZONTAL ELLIPSIS}/{parts[-1]}" if len(parts) > 1 else "\N{HORIZONTAL ELLIPSIS}"
