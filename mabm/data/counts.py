"""The counts of a census."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mabm.data.layout import FoundImage, Scan


@dataclass(frozen=True)
class CensusRow:
    """One line of a census.

    Attributes:
        what: What was counted.
        published: The published number; ``None`` if none was published.
        found: The number found.

    Example:
        >>> from mabm.data import CensusRow
        >>> CensusRow("images", published=8240, found=8239).agrees
        False
    """

    what: str
    published: int | None
    found: int

    @property
    def agrees(self) -> bool:
        """Whether the number found is the published one, or none was published."""
        return self.published is None or self.published == self.found


class Counts(NamedTuple):
    """A data set counted.

    Attributes:
        scans: What was found, one scan per trial.
        rows: The counts.
        listed_folders: Folders, by their names in the root, of which the data set's lists should
            name every image.
    """

    scans: Sequence[Scan]
    rows: Sequence[CensusRow]
    listed_folders: Sequence[str] = ()


def count_identities(rows: Iterable[FoundImage]) -> int:
    """Returns the number of identities."""
    return len({row.identity for row in rows})


def count_images(rows: Iterable[FoundImage], modality: int) -> int:
    """Returns the number of images of a modality."""
    return sum(row.modality == modality for row in rows)
