"""Counting a data set against its published numbers, and saying where its layout went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mabm._core.modalities import INFRARED, VISIBLE
from mabm._core.names import find_name
from mabm.data.images import decode_image
from mabm.data.layout import (
    Found,
    Scan,
    check_root,
    counted,
    is_image,
    listed,
    numbered_folders,
    within,
)
from mabm.data.llcm import scan_llcm
from mabm.data.regdb import NUM_TRIALS, check_trial, scan_regdb
from mabm.data.sysu_mm01 import CAMERA_MODALITY, scan_sysu_mm01

# What files of the formats in the published data begin with: JPEG, PNG, BMP, TIFF.
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*")
_LEFT_BY_FILE_MANAGERS: Final = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class CensusRow:
    """One thing counted.

    Attributes:
        what: What was counted.
        published: How many there are by publication; ``None`` where no number was published.
        found: How many there are.

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
        """Whether as many were found as were published, or none is published."""
        return self.published is None or self.published == self.found


@dataclass(frozen=True)
class Census:
    """A data set counted. ``str()`` of it is a table for people.

    Attributes:
        name: Name of the data set.
        root: Its folder.
        trial: Which trial was counted; ``None`` for all, or where there are none.
        rows: The counts.
        problems: What is missing, extra or damaged, a sentence each; where the root is wrong, what
            it should be.

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
        """Returns all of it as what JSON can hold."""
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
    """Counts a data set against its published numbers and looks for what is wrong with it.

    A wrong tree is reported, never raised. Of every image, it is looked whether the file is there,
    is not empty and begins as an image does; whether its end is there, only decoding tells.

    Args:
        name: ``"sysu_mm01"``, ``"regdb"`` or ``"llcm"``, in any spelling that :func:`read_data`
            takes.
        root: Folder of the data set.
        trial: Which trial of ``"regdb"``, 1 to 10; ``None`` for all ten.
        decode: Decode every image as well, which takes minutes.

    Returns:
        The census.

    Raises:
        ImportError: ``decode`` without Pillow.
        ValueError: An unknown name, a root that is no folder, or a trial where there is none.

    Example:
        >>> import tempfile
        >>> from mabm.data import take_census
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     take_census("regdb", folder, trial=1).problems
        ('folder idx is missing', 'folder Visible is missing', 'folder Thermal is missing')
    """
    found = find_name(name, _COUNTERS)
    if found is None:
        raise ValueError(f"name must be one of {', '.join(_COUNTERS)}, got {name!r}")
    name = found
    if trial is not None:
        if name != "regdb":
            raise ValueError(f"trial must be None for {name}, which has no trials, got {trial}")
        trial = check_trial(trial)
    folder = check_root(root)
    scans, rows = _COUNTERS[name](folder, trial)
    images = sorted({row.path for scan in scans for row in (*scan.train, *scan.test)})
    problems = [problem.text for scan in scans for problem in scan.problems]
    problems += _damaged(images, folder, decode=decode)
    problems += _no_images({image.parent for image in images}, folder)
    if name == "regdb":
        problems += _in_no_list(images, folder)
    return Census(name, folder, trial, tuple(rows), tuple(dict.fromkeys(problems)))


_Counted = tuple[Sequence[Scan], list[CensusRow]]


def _count_sysu_mm01(root: Path, trial: int | None) -> _Counted:
    scan = scan_sysu_mm01(root)
    # Wu et al., ICCV 2017, and the data set's documentation: 296 + 99 identities to train on, 96 to
    # test. The training images and the queries as every paper on the data set counts them. 301 is
    # the gallery of all-search, one image of each identity in each visible camera.
    gallery = {row[1:] for row in scan.test if row.modality == VISIBLE}
    rows = [
        CensusRow("training identities", 395, _identities(scan.train)),
        CensusRow("visible training images", 22_258, _images(scan.train, VISIBLE)),
        CensusRow("infrared training images", 11_909, _images(scan.train, INFRARED)),
        CensusRow("test identities", 96, _identities(scan.test)),
        CensusRow("infrared test images (queries)", 3_803, _images(scan.test, INFRARED)),
        CensusRow("visible test images", None, _images(scan.test, VISIBLE)),
        CensusRow("all-search gallery (identities x cameras)", 301, len(gallery)),
        CensusRow("identities in no list", None, _unlisted_identities(scan)),
    ]
    return [scan], rows


def _unlisted_identities(scan: Scan) -> int:
    cameras = [scan.root / f"cam{camera}" for camera in CAMERA_MODALITY]
    aside = Scan(scan.name, scan.root)  # what is wrong with these folders is noted already
    there = {
        identity
        for camera in cameras
        if camera.is_dir()
        for identity in numbered_folders(aside, camera)
    }
    return len(there - {row.identity for row in (*scan.train, *scan.test)})


def _count_regdb(root: Path, trial: int | None) -> _Counted:
    trials = range(1, NUM_TRIALS + 1) if trial is None else (trial,)
    scans = [scan_regdb(root, number) for number in trials]
    # Nguyen et al., Sensors 2017: 412 persons, ten images of each in each modality. Ye et al., AAAI
    # 2018: halved in ten trials.
    everything = [row for scan in scans for row in (*scan.train, *scan.test)]
    rows = []
    for modality, what in ((VISIBLE, "visible"), (INFRARED, "thermal")):
        found = {row.path for row in everything if row.modality == modality}
        rows.append(CensusRow(f"{what} images", 4_120, len(found)))
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, scan in zip(trials, scans, strict=True):
        parts = (scan.train, scan.test)
        persons = [_identities(part) for part in parts]
        images = [_images(part, modality) for part in parts for modality in (VISIBLE, INFRARED)]
        groups.setdefault((*persons, *images), []).append(number)
    for counts, members in groups.items():
        name = f"trial {members[0]}" if len(members) == 1 else f"trials {_spans(members)}"
        rows += [
            CensusRow(f"{name}: training persons", 206, counts[0]),
            CensusRow(f"{name}: visible training images", 2_060, counts[2]),
            CensusRow(f"{name}: thermal training images", 2_060, counts[3]),
            CensusRow(f"{name}: test persons", 206, counts[1]),
            CensusRow(f"{name}: visible test images", 2_060, counts[4]),
            CensusRow(f"{name}: thermal test images", 2_060, counts[5]),
        ]
    return scans, rows


def _count_llcm(root: Path, trial: int | None) -> _Counted:
    scan = scan_llcm(root)
    # Zhang and Wang, CVPR 2023, section 4.2. It gives 13,909 test images in all, to which the two
    # modalities do not add up; they do with the training images to the 46,767 of section 4.1.
    rows = [
        CensusRow("training identities", 713, _identities(scan.train)),
        CensusRow("visible training images", 16_946, _images(scan.train, VISIBLE)),
        CensusRow("infrared training images", 13_975, _images(scan.train, INFRARED)),
        CensusRow("test identities", 351, _identities(scan.test)),
        CensusRow("visible test images", 8_680, _images(scan.test, VISIBLE)),
        CensusRow("infrared test images", 7_166, _images(scan.test, INFRARED)),
    ]
    return [scan], rows


_COUNTERS: Mapping[str, Callable[[Path, int | None], _Counted]] = MappingProxyType(
    {"sysu_mm01": _count_sysu_mm01, "regdb": _count_regdb, "llcm": _count_llcm}
)


def _identities(rows: Iterable[Found]) -> int:
    return len({row.identity for row in rows})


def _images(rows: Iterable[Found], modality: int) -> int:
    return sum(row.modality == modality for row in rows)


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


def _in_no_list(images: Iterable[Path], root: Path) -> list[str]:
    known = set(images)
    names = [
        within(path, root)
        for kind in ("Visible", "Thermal")
        for path in sorted((root / kind).rglob("*"))
        if is_image(path.name) and path not in known
    ]
    if not names:
        return []
    return [f"{counted(names, 'image')} in no list, passed over: {listed(names)}"]


def _spans(numbers: Sequence[int]) -> str:
    """Returns ascending numbers as words: 1 to 3, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(
        f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans
    )


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
