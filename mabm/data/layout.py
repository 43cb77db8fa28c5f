"""Scans of the folders of a data set: which images there are, and what is wrong.

A reader and its census scan a tree with the same code. A scan never raises on a wrong tree but
notes what is wrong; a reader then raises the first error that would change its result, while the
census reports everything.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import numpy as np

from mabm.data.records import ImageSet, ReidData

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})

_SHOWN: Final = 5  # of a list of things gone wrong; a person looks at the first few


class FoundImage(NamedTuple):
    """One image in the folders of a data set."""

    path: Path
    identity: int
    camera: int
    modality: int


class Problem(NamedTuple):
    """A deviation from the layout; ``error`` is the exception that a reader raises, if any."""

    text: str
    error: type[Exception] | None = None


@dataclass
class Scan:
    """What was found in one tree.

    Attributes:
        name: Name of the data set.
        root: Its folder.
        trial: Number of the trial that was scanned; ``None`` without trials.
        train: Training images.
        test: Test images.
        problems: What is wrong, in the order in which it was found.
    """

    name: str
    root: Path
    trial: int | None = None
    train: list[FoundImage] = field(default_factory=list)
    test: list[FoundImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note_missing(self, text: str) -> None:
        """Records a missing part without which the data set cannot be read."""
        self.problems.append(Problem(text, FileNotFoundError))

    def note_error(self, text: str) -> None:
        """Records malformed content with which the data set cannot be read."""
        self.problems.append(Problem(text, ValueError))

    def note_minor(self, text: str) -> None:
        """Records a problem that a reader ignores."""
        self.problems.append(Problem(text))

    def data(self) -> ReidData:
        """Returns what was found as a data set.

        Raises:
            FileNotFoundError: Something is missing.
            ValueError: Something has contents that break the layout.
        """
        for problem in self.problems:
            if problem.error is not None:
                raise problem.error(
                    f"cannot read {self.name} from {self.root}: {problem.text}; for all that is "
                    f"missing or extra: mabm census {self.name} {shlex.quote(str(self.root))}"
                )
        return ReidData(self.name, _image_set(self.train), _image_set(self.test), self.trial)


def check_root(root: Path | str) -> Path:
    """Returns the folder of a data set.

    Raises:
        ValueError: It is not a folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"root must be a folder, but {folder} {state}")
    return folder


def looks_like(root: Path, parts: Collection[str]) -> bool:
    """Whether a folder holds at least half of the folders of a layout, in upper or lower case."""
    return 2 * sum(resolve(root, part).is_dir() for part in parts) >= len(parts)


def find_layout(scan: Scan, parts: Sequence[str], *, other: Sequence[str] = ()) -> bool:
    """Whether a tree has all folders of a layout; notes what is wrong if not.

    Where the root has less than half of them, folders around it are searched: the root may be too
    high or too low, or the archive was unpacked into a folder of its own name.

    Args:
        scan: The tree.
        parts: Folders of the layout.
        other: Folders of another layout that is read too, to be searched for around the root.
    """
    root = scan.root
    if not looks_like(root, parts):
        for layout in (parts, other) if other else (parts,):
            for folder, level in _places_around(root):
                if looks_like(folder, layout):
                    scan.note_missing(f"the root is {level}: {listed(layout)} are in {folder}")
                    return False
    lacking = [part for part in parts if not resolve(root, part).is_dir()]
    for part in lacking:
        scan.note_missing(f"folder {part} is missing")
    return not lacking


def resolve(root: Path, name: str) -> Path:
    """A path within a tree, or one that differs only in case if there is no exact match."""
    place = root
    for part in PurePosixPath(name).parts:
        found = place / part
        if not found.exists() and place.is_dir():
            same = (each for each in sorted(place.iterdir()) if each.name.lower() == part.lower())
            found = next(same, found)
        place = found
    return place


def is_image(name: str) -> bool:
    """Whether a file of this name is an image.

    Images have an image suffix, in upper or lower case, and are not hidden: what file managers
    leave behind (``Thumbs.db``, ``.DS_Store``, ``._0001.jpg``) is not an image.
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_names(folder: Path) -> list[str]:
    """Returns the names of a folder's images, ascending; none if there is no folder."""
    return sorted(filter(is_image, os.listdir(folder))) if folder.is_dir() else []


def images_in(folder: Path) -> list[Path]:
    """Returns the images of a folder in the order of their names; none if there is no folder."""
    return [folder / name for name in image_names(folder)]


def numbered_folders(scan: Scan, parent: Path) -> dict[int, Path]:
    """Returns the folders of a folder that are named by a number, such as ``0012``."""
    numbered: dict[int, Path] = {}
    for folder in sorted(path for path in parent.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            continue
        if not re.fullmatch("[0-9]+", folder.name):
            scan.note_minor(
                f"folder {within(folder, scan.root)} is extra: its name is not an identity"
            )
        elif int(folder.name) in numbered:
            first = within(numbered[int(folder.name)], scan.root)
            scan.note_error(
                f"{first} and {within(folder, scan.root)} are one identity's folder twice"
            )
        else:
            numbered[int(folder.name)] = folder
    return numbered


def read_ids(scan: Scan, name: str) -> list[int]:
    """Returns the ascending identities of a list of numbers, separated by commas or white space.

    If there is no such list, a file of the same name with the extension ``.mat`` is read.
    """
    matrix = Path(name).with_suffix(".mat").as_posix()
    if not resolve(scan.root, name).is_file() and resolve(scan.root, matrix).is_file():
        return _matrix_ids(scan, matrix)
    words = [word for word in re.split(r"[\s,]+", _text(scan, name)) if word]
    strange = [word for word in words if not re.fullmatch("[0-9]+", word)]
    if strange:
        scan.note_error(f"{name} must contain numbers separated by commas, got {strange[0]!r}")
        return []
    identities = {int(word) for word in words}
    if len(identities) < len(words):
        scan.note_minor(f"{name} has {len(words) - len(identities)} identities more than once")
    if not words and resolve(scan.root, name).is_file():
        scan.note_error(f"{name} is empty")
    return sorted(identities)


def read_list(scan: Scan, name: str) -> Iterator[tuple[Path, int]]:
    """Yields the images of a list whose lines are a path within the root and a label.

    If no file has the exact name, one that differs in case is used, otherwise one in another image
    format.
    """
    folders: dict[str, tuple[Path, dict[str, str]]] = {}
    converted: list[str] = []
    absent: list[str] = []
    seen: set[str] = set()
    lines = [line.strip() for line in _text(scan, name).splitlines()]
    if not any(lines) and resolve(scan.root, name).is_file():
        scan.note_error(f"{name} is empty")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        words = line.rsplit(maxsplit=1)
        if len(words) < 2 or not re.fullmatch("[0-9]+", words[1]):
            scan.note_error(f"{name}, line {number}, must be a path and a label, got {line!r}")
            return
        path = words[0].replace("\\", "/")
        folder, _, file = path.rpartition("/")
        if folder not in folders:
            folders[folder] = _names_in(resolve(scan.root, folder))
        place, known = folders[folder]
        found = known.get(file) or known.get(file.lower())
        if found is None and is_image(file):
            found = known.get(_stem(file))
            converted += [] if found is None else [found]
        if found is None:
            absent.append(path)
        elif f"{folder}/{found}" in seen:
            scan.note_error(f"{name}, line {number}, lists {path} again")
        else:
            seen.add(f"{folder}/{found}")
            yield place / found, int(words[1])
    if converted:
        scan.note_minor(
            f"{name} lists {counted(converted, 'image')} that are in another format: "
            f"{listed(converted)} (they are read)"
        )
    if absent:
        scan.note_missing(
            f"{name} lists {counted(absent, 'image')} that cannot be found: {listed(absent)}"
        )
        _explain_prefix(scan, name, absent[0])


def _matrix_ids(scan: Scan, name: str) -> list[int]:
    """Returns the ascending identities of a MATLAB file that holds them as the variable ``id``."""
    from scipy.io import loadmat  # comes with scikit-learn

    try:
        numbers = np.ravel(loadmat(resolve(scan.root, name), variable_names=["id"])["id"])
        identities = numbers.astype(np.int64)
        is_right = numbers.size > 0 and bool((identities == numbers).all())
    except Exception as error:  # whatever the reader says of damaged files and of later formats
        scan.note_error(
            f"{name} cannot be read ({str(error) or type(error).__name__}); a list "
            f"{Path(name).with_suffix('.txt')} of numbers separated by commas is read instead"
        )
        return []
    if not is_right or identities.min() < 0:
        scan.note_error(f"{name} must contain identities as the variable id, got {numbers[:5]}")
        return []
    return sorted(set(identities.tolist()))


def note_without_images(scan: Scan, name: str, identities: Iterable[int]) -> None:
    """Notes identities of a list that have no image."""
    lacking = sorted(identities)
    if lacking:
        scan.note_missing(f"there are no images of {len(lacking)} of {name}: {listed(lacking)}")


def listed(things: Iterable[object]) -> str:
    """Joins items by commas; of a long list, the first few and how many more there are."""
    words = [str(thing) for thing in things]
    shown = ", ".join(words[:_SHOWN])
    return shown if len(words) <= _SHOWN else f"{shown} and {len(words) - _SHOWN:,} more"


def counted(things: Sequence[object], noun: str) -> str:
    """Returns a number of items in words, such as ``"2 folders"``."""
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def within(path: Path, root: Path) -> str:
    """Returns a path relative to the root, or unchanged if it is not in there."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _names_in(folder: Path) -> tuple[Path, dict[str, str]]:
    """A folder, and its images by their names, by these in lower case, and by them without ending.

    An image of the exact name comes first, then one in another case, then one in another format.
    """
    files = image_names(folder)
    known = {_stem(each): each for each in reversed(files)}
    known.update({each.lower(): each for each in files})
    known.update({each: each for each in files})
    return folder, known


def _stem(name: str) -> str:
    return f"{os.path.splitext(name)[0].lower()}."  # the dot: no whole name ends in one


def _text(scan: Scan, name: str) -> str:
    path = resolve(scan.root, name)
    if not path.is_file():
        scan.note_missing(f"list {name} is missing")
        return ""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _places_around(root: Path) -> Iterator[tuple[Path, str]]:
    """Folders that may be meant by a root, and where the root is, seen from them."""
    inside = _folders_in(root)
    yield from ((folder, "one level too high") for folder in inside)
    for folder in inside:
        for inner in _folders_in(folder):
            yield inner, "two levels too high (unpacked twice?)"
    above = root.resolve().parent
    yield above, "one level too low"
    yield above.parent, "two levels too low"


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except PermissionError:  # somebody else's folder, beside what is looked for
        return []


def _explain_prefix(scan: Scan, name: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    for count in range(1, len(parts)):
        if scan.root.joinpath(*parts[count:]).is_file():
            prefix = PurePosixPath(*parts[:count])
            scan.note_minor(f"{name} puts {prefix} before paths that are right without it")
            return


def _image_set(rows: list[FoundImage]) -> ImageSet:
    def place(row: FoundImage) -> tuple[int, int, int, str, Path]:
        return row.identity, row.camera, row.modality, row.path.name, row.path

    ordered = sorted(rows, key=place)
    return ImageSet(
        [row.path for row in ordered],
        [row.identity for row in ordered],
        [row.camera for row in ordered],
        [row.modality for row in ordered],
    )
