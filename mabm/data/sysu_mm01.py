"""SYSU-MM01 in its original layout.

::

    cam1/0001/0001.jpg      cam1 .. cam6: a folder for each identity that the camera saw
    exp/train_id.txt        identities, set apart by commas; likewise val_id.txt and test_id.txt

Cameras 1, 2, 4 and 5 are visible, 3 and 6 infrared; 2 and 3 stand in one room. Not every identity
was seen by every camera, and there are folders of identities that are in no list. Training is on
the identities of ``train_id.txt`` and ``val_id.txt`` together, as in all published results.

Source: Wu et al., ICCV 2017 and IJCV 2020, and the documentation of the data set,
https://github.com/wuancong/SYSU-MM01.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mabm._core.modalities import INFRARED, VISIBLE
from mabm.data.layout import (
    Found,
    Scan,
    check_root,
    find_layout,
    images_in,
    listed,
    note_without_images,
    numbered_folders,
    read_ids,
)
from mabm.data.records import ReidData

NAME: Final = "sysu_mm01"
CAMERA_MODALITY: Final = {
    1: VISIBLE,
    2: VISIBLE,
    3: INFRARED,
    4: VISIBLE,
    5: VISIBLE,
    6: INFRARED,
}


def read_sysu_mm01(root: Path | str) -> ReidData:
    """Reads SYSU-MM01.

    Args:
        root: The folder with ``cam1`` to ``cam6`` and ``exp``.

    Returns:
        The images of the 395 training and of the 96 test identities, both ordered by identity,
        camera and file name. Identities are those of the data set. The queries of both searches are
        the infrared test images; see ``mabm.evaluation`` for the galleries.

    Raises:
        FileNotFoundError: A list, a camera's folder or all images of an identity are missing.
        ValueError: The root is no folder, or a list does not say what it must.

    Example:
        >>> from mabm.data import read_sysu_mm01
        >>> data = read_sysu_mm01("datasets/SYSU-MM01")  # doctest: +SKIP
        >>> data.train.identity, data.test.camera  # doctest: +SKIP
    """
    return scan_sysu_mm01(check_root(root)).data()


def scan_sysu_mm01(root: Path) -> Scan:
    """Looks through a tree of SYSU-MM01."""
    scan = Scan(NAME, root)
    parts = ["exp", *(f"cam{camera}" for camera in CAMERA_MODALITY)]
    if not find_layout(scan, parts):
        return scan
    train = {*read_ids(scan, "exp/train_id.txt"), *read_ids(scan, "exp/val_id.txt")}
    test = set(read_ids(scan, "exp/test_id.txt"))
    if train & test:
        scan.wrong(
            f"exp/test_id.txt shares identities with training: {listed(sorted(train & test))}"
        )
    for camera, modality in CAMERA_MODALITY.items():
        folders = numbered_folders(scan, root / f"cam{camera}")
        for identity, folder in folders.items():
            rows = scan.train if identity in train else scan.test if identity in test else None
            if rows is not None:
                rows += [Found(path, identity, camera, modality) for path in images_in(folder)]
    seen = {row.identity for row in (*scan.train, *scan.test)}
    note_without_images(scan, "the training identities", train - seen)
    note_without_images(scan, "the test identities", test - seen)
    _note_extra_cameras(scan, CAMERA_MODALITY)
    available = "exp/available_id.txt"
    if (root / available).is_file() and set(read_ids(scan, available)) != train | test:
        scan.odd(f"{available} is not the union of the other lists")
    return scan


def _note_extra_cameras(scan: Scan, known: Collection[int]) -> None:
    for folder in sorted(scan.root.iterdir()):
        number = re.fullmatch("cam([0-9]+)", folder.name)
        if number and int(number[1]) not in known:
            scan.odd(f"folder {folder.name} is extra: there is no such camera")
