"""The census: compares a data set with its published numbers and lists problems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mabm.data.counts import CensusRow
from mabm.data.images import decode_image
from mabm.data.layout import check_root, counted, is_image, listed, within
from mabm.data.sets import DATA_SETS

# What files of the formats in the published data begin with: JPEG, PNG, BMP, TIFF.
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*")
_LEFT_BY_FILE_MANAGERS: Final = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Census:
    """The counts and problems of a data set; ``str()`` formats them as a table.

    Attributes:
        name: Name of the data set.
        root: Folder of the data set.
        trial: Number of the trial that was counted; ``None`` for all, or if there are no trials.
        rows: The counts.
        problems: What is missing, extra or damaged, one sentence each. For a wrong root, the right
            one is suggested.

    Example:
        >>> from pathlib import Path
        >>> from mabm.data import Census, CensusRow
        >>> rows = (CensusRow("images", published=8240, found=8240),)
        >>> Census("regdb", Path("RegDB"), None, rows, problems=()).is_complete
        True
    """

    name: str
    root: Path
    trial: int | None
    rows: tuple[CensusRow, ...]
    problems: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every count is as published and there are no problems."""
        return not self.problems and all(row.agrees for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns the census as JSON-serializable values."""
        return {
            "name": self.name,
            "root": str(self.root),
            "trial": self.trial,
            "complete": self.is_complete,
            "rows": [vars(row) for row in self.rows],
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        table = [("", "published", "found", ""), *(_cells(row) for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(3)]
        trial = "" if self.trial is None else f", trial {self.trial}"
        lines = [f"{self.name}{trial} in {self.root}", ""]
        for what, published, found, difference in table:
            counts = f"{published:>{widths[1]}}  {found:>{widths[2]}}"
            lines.append(f"{what:<{widths[0]}}  {counts}  {difference}".rstrip())
        if self.problems:
            noun = "problem" if len(self.problems) == 1 else "problems"
            lines += ["", f"{len(self.problems)} {noun}:"]
            lines += [f"- {problem}" for problem in self.problems]
        lines += ["", "complete" if self.is_complete else "NOT complete"]
        return "\n".join(lines)


def take_census(
    name: str, root: Path | str, *, trial: int | None = None, decode: bool = False
) -> Census:
    """Compares a data set with its published numbers and looks for problems.

    Problems of the folder are reported, not raised. Every image file must exist, not be empty and
    start like an image; only decoding finds out whether it is complete.

    Args:
        name: Name of a data set with published numbers, such as ``"sysu_mm01"`` (a key of
            ``DATA_SETS``, in any spelling).
        root: Folder of the data set.
        trial: Number of the trial to count, from 1; ``None`` counts all, and is required for a data
            set without trials.
        decode: Whether to decode every image as well, which takes minutes.

    Returns:
        The census.

    Raises:
        ImportError: ``decode`` is set and Pillow is not installed.
        ValueError: The name is unknown, the root is not a folder, or the trial does not exist.

    Example:
        >>> import tempfile
        >>> from mabm.data import take_census
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     take_census("regdb", folder, trial=1).problems
        ('folder idx is missing', 'folder Visible is missing', 'folder Thermal is missing')
    """
    countable = {known: each.count for known, each in DATA_SETS.items() if each.count is not None}
    found = DATA_SETS.find(name)
    if found not in countable:
        raise ValueError(f"name must be one of {', '.join(countable)}, got {name!r}")
    trial = DATA_SETS[found].trial_number(trial)
    folder = check_root(root)
    counts = countable[found](folder, trial)
    images = sorted({row.path for scan in counts.scans for row in (*scan.train, *scan.test)})
    problems = [problem.text for scan in counts.scans for problem in scan.problems]
    problems += _damaged(images, folder, decode=decode)
    problems += _no_images({image.parent for image in images}, folder)
    problems += _in_no_list(images, folder, counts.listed_folders)
    return Census(found, folder, trial, tuple(counts.rows), tuple(dict.fromkeys(problems)))


def _damaged(images: Iterable[Path], root: Path, *, decode: bool) -> list[str]:
    empty, unreadable, strange = [], [], []
    for image in images:
        name = within(image, root)
        try:
            with image.open("rb") as stream:
                beginning = stream.read(8)
        except OSError as error:
            unreadable.append(f"{name} ({error.strerror})")
            continue
        if not beginning:
            empty.append(name)
        elif not beginning.startswith(_BEGINNINGS):
            strange.append(name)
        elif decode:
            try:
                decode_image(image)
            except ValueError:
                strange.append(name)
    return [
        f"{counted(names, 'image file')} {state}: {listed(names)}"
        for state, names in (
            ("of 0 bytes", empty),
            ("that cannot be opened", unreadable),
            ("damaged, or no image", strange),
        )
        if names
    ]


def _no_images(folders: Iterable[Path], root: Path) -> list[str]:
    names = [
        within(path, root)
        for folder in sorted(folders)
        for path in sorted(folder.iterdir())
        if not is_image(path.name)
        and not path.name.startswith(".")
        and path.name.lower() not in _LEFT_BY_FILE_MANAGERS
    ]
    if not names:
        return []
    return [f"{counted(names, 'file')} extra among the images, passed over: {listed(names)}"]


def _in_no_list(images: Iterable[Path], root: Path, folders: Iterable[str]) -> list[str]:
    known = set(images)
    names = [
        within(path, root)
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if is_image(path.name) and path not in known
    ]
    if not names:
        return []
    return [f"{counted(names, 'image')} in no list, passed over: {listed(names)}"]


def _cells(row: CensusRow) -> tuple[str, str, str, str]:
    if row.published is None:
        return row.what, "-", f"{row.found:,}", ""
    difference = row.found - row.published
    word = "extra" if difference > 0 else "missing"
    return (
        row.what,
        f"{row.published:,}",
        f"{row.found:,}",
        f"{abs(difference):,} {word}" if difference else "",
    )
