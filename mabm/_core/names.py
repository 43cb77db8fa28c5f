"""Names of data sets: one spelling in what is written, several in what is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

T = TypeVar("T")

DATA_SETS: Final = ("sysu_mm01", "regdb", "llcm", "emoji_xm")
"""The names of data sets, and of the configurations that train on them."""

_SHORT: Final = {"sysu": "sysu_mm01"}


def find_name(name: object, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is meant, in the spelling that it has there.

    The case of letters does not matter, nor does ``-`` or ``_``; ``sysu`` is short for
    ``sysu_mm01``.

    Args:
        name: What was typed or read; nothing but a string is a name.
        names: Names that there are.

    Returns:
        The name, or ``None`` where none of them is meant.
    """
    if not isinstance(name, str):
        return None
    word = _folded(name)
    known = {_folded(each): each for each in names}
    return known.get(word) or known.get(_SHORT.get(word, word))


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


class NamedMapping(Mapping[str, T]):
    """A read-only mapping whose names are found in every spelling that :func:`find_name` knows.

    Iteration gives each name once, as it is spelled in documents.
    """

    def __init__(self, values: Mapping[str, T]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> T:
        found = find_name(name, self._values)
        if found is None:
            raise KeyError(name)
        return self._values[found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"
