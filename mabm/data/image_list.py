"""Your own images: a table that lists image files, and what is known about each.

::

    path,modality,camera,identity,split
    day/0001.jpg,visible,1,,train           training image of an unknown person
    night/0001.jpg,infrared,2,,train
    day/0907.jpg,visible,1,7,test           test image
    night/0907.jpg,infrared,2,7,test

Comma-separated text in UTF-8 with these columns, in any order; others are ignored.

- ``path``: a file, absolute or relative to the table's folder; ``~`` is the home folder.
- ``modality``: ``visible`` or ``infrared`` (or ``thermal``), or the number 0 or 1.
- ``camera``: a number; empty or -1 if unknown. The column may be missing.
- ``identity``: a number; empty or -1 if unknown. The column may be missing. Test images need one.
- ``split``: ``train`` or ``test``; without this column, all images are training images.

All test images of one modality are searched in all of the other. Images of the same identity and
camera are not compared, since such a pair does not show that a person was found again; unknown
cameras differ from all cameras.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mabm._core.modalities import INFRARED, MODALITIES, VISIBLE
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm._core.tables import modality_number, other_separator, read_rows, shortened, whole_number
from mabm.data.data_set import DataSet
from mabm.data.records import UNKNOWN, ImageSet, ReidData

NAME: Final = "image_list"
TRAIN: Final = "train"
TEST: Final = "test"
_NEEDED: Final = ("path", "modality")
_OPTIONAL: Final = ("camera", "identity", "split")


class ListedImages(NamedTuple):
    """The images of a table, in the order of its rows.

    Attributes:
        images: The images.
        is_test: (N,) bool, whether an image is a test image.

    Example:
        >>> import numpy as np
        >>> from mabm.data import ImageSet, ListedImages
        >>> images = ImageSet(np.zeros((2, 3, 8, 4), np.uint8), [5, 5], [1, 2], [0, 1])
        >>> len(ListedImages(images, np.array([True, False])).images)
        2
    """

    images: ImageSet
    is_test: npt.NDArray[np.bool_]


def read_image_list(root: Path | str) -> ReidData:
    """Reads a table of images as a data set.

    Args:
        root: The table: comma-separated text with the columns ``path`` and ``modality``, and
            optionally ``camera``, ``identity`` and ``split``.

    Returns:
        Its training and test images, both in the order of the rows. Unknown identities and cameras
        are ``UNKNOWN``. There may be no test images.

    Raises:
        FileNotFoundError: There is no such table, or an image that it lists is missing.
        ValueError: A column is missing, a value is not allowed, an image is both in training and
            test or has two modalities, or no test identity has images of both modalities; the
            message names the table and, if possible, the row.

    Example:
        >>> from mabm.data import read_image_list
        >>> data = read_image_list("people.csv")  # doctest: +SKIP
        >>> data.train, len(data.test)  # doctest: +SKIP
    """
    images, is_test = list_images(root)
    others = ~np.isin(images.modality, MODALITIES)
    if others.any():
        row = int(np.argmax(others))
        raise ValueError(
            f"{root}: modality of images to train and test on must be 0 (visible) or 1 (infrared), "
            f"got {images.modality[row]} for {images.images[row]}"
        )
    _check_modalities(images, root)
    test = images.select(is_test)
    if len(test):
        _check_test(test, root)
    return ReidData(NAME, train=images.select(~is_test), test=test)


def list_images(path: Path | str) -> ListedImages:
    """Reads a table of images row by row, of any modalities.

    Args:
        path: The table: comma-separated text with the columns ``path`` and ``modality`` (any
            number), and optionally ``camera``, ``identity`` and ``split``.

    Raises:
        FileNotFoundError: There is no such table, or an image that it lists is missing.
        ValueError: A column is missing, a value is not allowed, or an image is both in training
            and test; the message names the table and, if possible, the row.

    Example:
        >>> from mabm.data import list_images
        >>> images, is_test = list_images("people.csv")  # doctest: +SKIP
    """
    table = Path(path)
    rows = list(read_rows(table, str(table)))
    names = _column_names(table, rows[0][1] if rows else [])
    if len(rows) < 2:
        raise ValueError(f"{table} must list images, got none")
    listed = []
    for number, row in rows[1:]:
        where = f"{table}, row {number}"
        if len(row) != len(names):
            raise ValueError(f"{where}: must have {len(names)} columns, got {len(row)}")
        cells = dict(zip(names, (cell.strip() for cell in row), strict=True))
        listed.append(_read_row(cells, table.parent, where))
    files = [row.file for row in listed]
    absent = [(number, file) for number, file in enumerate(files) if not file.is_file()]
    if absent:
        number, file = absent[0]
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise FileNotFoundError(
            f"{table} lists images that do not exist: {file} in row {rows[number + 1][0]}{more}"
        )
    _check_splits(listed)
    return ListedImages(
        ImageSet(
            files,
            [row.identity for row in listed],
            [row.camera for row in listed],
            [row.modality for row in listed],
        ),
        np.array([row.is_test for row in listed], dtype=bool),
    )


def _check_modalities(images: ImageSet, root: Path | str) -> None:
    """Refuses an image of two modalities, which every search would find at once."""
    modality_of: dict[str, int] = {}
    for record in images:
        file = os.path.realpath(str(record.image))
        if modality_of.setdefault(file, record.modality) != record.modality:
            raise ValueError(
                f"{root}: an image must be of one modality, got two for {record.image}"
            )


def _check_test(test: ImageSet, root: Path | str) -> None:
    """Refuses test images of which no search can find any."""
    cameras: dict[int, dict[int, set[int]]] = {group: {} for group in MODALITIES}
    for record in test:
        seen = cameras[record.modality].setdefault(int(record.identity or 0), set())
        # Unknown cameras differ from all others, and from each other.
        seen.add(record.camera if record.camera != UNKNOWN else UNKNOWN - record.modality)
    both = cameras[VISIBLE].keys() & cameras[INFRARED].keys()
    if not any(len(cameras[VISIBLE][each] | cameras[INFRARED][each]) > 1 for each in both):
        raise ValueError(
            f"{root}: test images must show an identity in both modalities, by two cameras where "
            "these are known, as one modality is searched in the other; got none"
        )


class _Row(NamedTuple):
    where: str
    file: Path
    modality: int
    camera: int
    identity: int
    is_test: bool


def _column_names(table: Path, header: list[str]) -> list[str]:
    names = [name.strip().lower() for name in header]
    if (separator := other_separator(header)) is not None:
        raise ValueError(
            f"{table} must have commas between its columns, got {separator}: "
            f"{shortened(','.join(header))}"
        )
    if not {*_NEEDED} <= {*names} or len(set(names)) < len(names):
        raise ValueError(
            f"{table} must have columns {' and '.join(_NEEDED)}, and maybe "
            f"{', '.join(_OPTIONAL)}, each once, got {header}"
        )
    return names


def _read_row(cells: Mapping[str, str], folder: Path, where: str) -> _Row:
    if not cells["path"]:
        raise ValueError(f"{where}: path must be a file, got none")
    try:
        file = folder / Path(cells["path"]).expanduser()
    except RuntimeError as error:  # there is no such user
        raise ValueError(
            f"{where}: path must be a file, got {shortened(cells['path'])}, a home folder that "
            "cannot be found"
        ) from error
    identity = _whole(cells.get("identity", ""), f"{where}: identity")
    split = cells.get("split", TRAIN).lower()
    if split not in (TRAIN, TEST):
        raise ValueError(f"{where}: split must be {TRAIN} or {TEST}, got {shortened(split)}")
    if split == TEST and identity == UNKNOWN:
        raise ValueError(f"{where}: identity must be known of a test image, got none for {file}")
    return _Row(
        where,
        file,
        modality_number(cells["modality"], where),
        _whole(cells.get("camera", ""), f"{where}: camera"),
        identity,
        split == TEST,
    )


def _whole(text: str, where: str) -> int:
    if text in ("", str(UNKNOWN)):
        return UNKNOWN
    number = whole_number(text)
    if number is None:
        raise ValueError(
            f"{where} must be an integer in [0, 2^63), or empty where unknown, got "
            f"{shortened(text)}"
        )
    return number


def _check_splits(rows: Iterable[_Row]) -> None:
    """Refuses an image that is both to train and to test on, under whatever path."""
    split_of: dict[str, bool] = {}
    for row in rows:
        if split_of.setdefault(os.path.realpath(row.file), row.is_test) != row.is_test:
            raise ValueError(
                f"{row.where}: an image must be either to train or to test on, got both for "
                f"{row.file}"
            )


_PROTOCOL: Final = RetrievalProtocol(NAME, exclude_same_camera=True)

DATA_SET: Final = DataSet(
    name=NAME,
    reader=read_image_list,
    is_list=True,
    search_tasks=(
        SearchTask(NAME, "infrared-to-visible", INFRARED, VISIBLE, _PROTOCOL),
        SearchTask(NAME, "visible-to-infrared", VISIBLE, INFRARED, _PROTOCOL),
    ),
)
