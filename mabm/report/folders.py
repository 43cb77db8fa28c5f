"""Folders of a machine in a page that may be shared: only their last part is shown."""

from __future__ import annotations

import json
import re
from typing import Final

# A comment, and the four kinds of strings: as TOML has them, so that a quote in one ends no other.
_TOKEN: Final = re.compile(
    r"""
      (?P<comment>\#[^\n]*)
    | (?P<lines>\"{3}(?:\\.|[^\\])*?\"{3} | \'{3}.*?\'{3})
    | (?P<basic>"(?:\\.|[^"\\\n])*")
    | '(?P<literal>[^'\n]*)'
    """,
    re.DOTALL | re.VERBOSE,
)
_WORD: Final = re.compile(r"[^\s\"',;=()\[\]{}]{2,}")
# Absolute, on a drive or server, by a variable, in a home folder, or by way of a folder above.
_ELSEWHERE: Final = re.compile(
    r"(?:file:|[/~$\\]|%\w+%|[a-z]:[\\/]).*|(?:.*[\\/])?\.\.(?:[\\/].*)?",
    re.DOTALL | re.IGNORECASE,
)
_SEPARATORS: Final = re.compile(r"[\\/]+")


def shorten_folders(toml: str) -> str:
    """TOML in which values that are paths to elsewhere, as in a home folder, keep their last part.

    Example:
        >>> from mabm.report.folders import shorten_folders
        >>> shorten_folders('root = "/home/ada/datasets/RegDB"')
        'root = "…/RegDB"'
    """
    return _TOKEN.sub(_shorten_token, toml)


def shorten(value: str, num_parts: int = 1) -> str:
    """A path without the folders above its last parts, unless it stays in the working folder.

    Args:
        value: A path, or any other text, which is returned as it is.
        num_parts: Last parts to keep, >= 1. The only part of a path is not kept.

    Example:
        >>> from mabm.report.folders import shorten
        >>> shorten("/home/ada/datasets/RegDB"), shorten("datasets/RegDB")
        ('…/RegDB', 'datasets/RegDB')
    """
    if not _ELSEWHERE.fullmatch(value):
        return value
    parts = [part for part in _SEPARATORS.split(value) if part]
    kept = parts[-num_parts:] if len(parts) > 1 else []
    return "/".join(["\N{HORIZONTAL ELLIPSIS}", *kept])


def _shorten_token(token: re.Match[str]) -> str:
    whole = token[0]
    if token["comment"] is not None:
        return _WORD.sub(lambda word: shorten(word[0]), whole)
    if token["lines"] is not None:
        return f"{whole[:3]}{shorten(whole[3:-3])}{whole[-3:]}"
    if token["literal"] is not None:
        return f"'{shorten(token['literal'])}'"
    try:
        value = json.loads(whole, strict=False)  # whose escapes are those of TOML, but for a few
    except ValueError:
        value = whole[1:-1]
    short = shorten(value)
    return whole if short == value else json.dumps(short, ensure_ascii=False)
