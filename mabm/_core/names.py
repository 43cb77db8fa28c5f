"""Names that are accepted in any case, with ``-`` or ``_``, and written in one spelling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


def find_name(name: object, names: Iterable[str]) -> str | None:
    """Finds a name among ``names`` in any spelling, and returns it as spelled there.

    Case is ignored, and ``-`` and ``_`` are the same.

    Args:
        name: The name as typed or read; a value that is not a string has no match.
        names: The names to choose from.

    Returns:
        The matching name, or ``None`` if there is no match.
    """
    if not isinstance(name, str):
        return None
    return {_folded(known): known for known in names}.get(_folded(name))


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


class NamedMapping(Mapping[str, T]):
    """A read-only mapping whose names are found in any spelling that :func:`find_name` accepts.

    Iteration yields each name once, in its standard spelling.

    Args:
        values: The values by name.
        aliases: Other names, each with the name that it stands for.
    """

    def __init__(self, values: Mapping[str, T], aliases: Mapping[str, str] | None = None) -> None:
        self._values = dict(values)
        self._aliases = dict(aliases or {})

    def find(self, name: object) -> str | None:
        """Returns the name that a spelling or an alias stands for, or ``None``."""
        alias = find_name(name, self._aliases)
        return find_name(name if alias is None else self._aliases[alias], self._values)

    def __getitem__(self, name: str) -> T:
        found = self.find(name)
        if found is None:
            raise KeyError(name)
        return self._values[found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"
