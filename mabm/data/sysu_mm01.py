"""SYSU-MM01 in its original layout.

::

    cam1/0001/0001.jpg      cam1 .. cam6: a folder for each identity that the camera saw
    exp/train_id.txt        identities, separated by commas; likewise val_id.txt, test_id.txt
                            (or train_id.mat and so on, with identities in the variable ``id``)

Cameras 1, 2, 4 and 5 are visible, 3 and 6 infrared; 2 and 3 are in the same room. Not every
identity was seen by every camera, and some identities have folders but are in no list. Training
uses the identities of ``train_id.txt`` and ``val_id.txt`` together, as in all published results.

Source: Wu et al., ICCV 2017 and IJCV 2020, and the documentation of the data set,
https://github.com/wuancong/SYSU-MM01.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mabm._core.modalities import INFRARED, VISIBLE
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.data import prepared
from mabm.data.counts import CensusRow, Counts, count_identities, count_images
from mabm.data.data_set import DataSet
from mabm.data.layout import (
    FoundImage,
    Scan,
    check_root,
    find_layout,
    images_in,
    listed,
    looks_like,
    note_without_images,
    numbered_folders,
    read_ids,
    resolve,
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
        root: The folder with ``cam1`` to ``cam6`` and ``exp``, or one with ``ir_modify`` and
            ``rgb_modify``, as prepared by other code bases.

    Returns:
        The images of the 395 training and of the 96 test identities, both ordered by identity,
        camera and file name. Identities are those of the data set. The queries of both searches are
        the infrared test images; see ``mabm.evaluation`` for the galleries.

    Raises:
        FileNotFoundError: A list, a camera's folder or all images of an identity are missing.
        ValueError: The root is not a folder, or a list is malformed.

    Example:
        >>> from mabm.data import read_sysu_mm01
        >>> data = read_sysu_mm01("datasets/SYSU-MM01")  # doctest: +SKIP
        >>> data.train.identity, data.test.camera  # doctest: +SKIP
    """
    return scan_sysu_mm01(check_root(root)).data()


def scan_sysu_mm01(root: Path) -> Scan:
    """Scans a tree of SYSU-MM01."""
    scan = Scan(NAME, root)
    parts = ["exp", *(f"cam{camera}" for camera in CAMERA_MODALITY)]
    if not looks_like(root, parts) and looks_like(root, prepared.PARTS):
        _scan_prepared(scan)
        return scan
    if not find_layout(scan, parts, other=prepared.PARTS):
        return scan
    train = {*read_ids(scan, "exp/train_id.txt"), *read_ids(scan, "exp/val_id.txt")}
    test = set(read_ids(scan, "exp/test_id.txt"))
    if train & test:
        scan.note_error(
            f"exp/test_id.txt shares identities with training: {listed(sorted(train & test))}"
        )
    for camera, modality in CAMERA_MODALITY.items():
        folders = numbered_folders(scan, resolve(root, f"cam{camera}"))
        for identity, folder in folders.items():
            rows = scan.train if identity in train else scan.test if identity in test else None
            if rows is not None:
                rows += [FoundImage(path, identity, camera, modality) for path in images_in(folder)]
    seen = {row.identity for row in (*scan.train, *scan.test)}
    note_without_images(scan, "the training identities", train - seen)
    note_without_images(scan, "the test identities", test - seen)
    _note_extra_cameras(scan, CAMERA_MODALITY)
    available = "exp/available_id.txt"
    if (root / available).is_file() and set(read_ids(scan, available)) != train | test:
        scan.note_minor(f"{available} is not the union of the other lists")
    return scan


def _scan_prepared(scan: Scan) -> None:
    def camera_of(modality: int, camera: int) -> int | None:
        return camera if CAMERA_MODALITY.get(camera) == modality else None

    prepared.scan_prepared(scan, camera_of)
    train, test = ({row.identity for row in rows} for rows in (scan.train, scan.test))
    if train & test:
        scan.note_error(f"identities are in training and in test: {listed(sorted(train & test))}")


def _note_extra_cameras(scan: Scan, known: Collection[int]) -> None:
    for folder in sorted(scan.root.iterdir()):
        number = re.fullmatch("cam([0-9]+)", folder.name)
        if number and int(number[1]) not in known:
            scan.note_minor(f"folder {folder.name} is extra: there is no such camera")


def count_sysu_mm01(root: Path, trial: int | None) -> Counts:
    """Counts a tree of SYSU-MM01 for its census."""
    scan = scan_sysu_mm01(root)
    # Wu et al., ICCV 2017, and the data set's documentation: 296 + 99 identities to train on, 96 to
    # test. The training images and the queries as every paper on the data set counts them. 301 is
    # the gallery of all-search, one image of each identity in each visible camera.
    gallery = {row[1:] for row in scan.test if row.modality == VISIBLE}
    rows = [
        CensusRow("training identities", 395, count_identities(scan.train)),
        CensusRow("visible training images", 22_258, count_images(scan.train, VISIBLE)),
        CensusRow("infrared training images", 11_909, count_images(scan.train, INFRARED)),
        CensusRow("test identities", 96, count_identities(scan.test)),
        CensusRow("infrared test images (queries)", 3_803, count_images(scan.test, INFRARED)),
        CensusRow("visible test images", None, count_images(scan.test, VISIBLE)),
        CensusRow("all-search gallery (identities x cameras)", 301, len(gallery)),
        CensusRow("identities in no list", None, _unlisted_identities(scan)),
    ]
    return Counts([scan], rows)


def _unlisted_identities(scan: Scan) -> int:
    cameras = [resolve(scan.root, f"cam{camera}") for camera in CAMERA_MODALITY]
    aside = Scan(scan.name, scan.root)  # what is wrong with these folders is noted already
    identities = {
        identity
        for camera in cameras
        if camera.is_dir()
        for identity in numbered_folders(aside, camera)
    }
    return len(identities - {row.identity for row in (*scan.train, *scan.test)})


def _search(name: str, gallery_cameras: tuple[int, ...], num_images: int = 1) -> SearchTask:
    return SearchTask(
        NAME,
        name,
        INFRARED,
        VISIBLE,
        PROTOCOL,
        query_cameras=_cameras(INFRARED),
        gallery_cameras=gallery_cameras,
        drawn="gallery",
        num_images=num_images,
        num_trials=10,
    )


def _cameras(modality: int) -> tuple[int, ...]:
    return tuple(camera for camera, kind in CAMERA_MODALITY.items() if kind == modality)


# Wu et al., ICCV 2017: cameras 2 (visible) and 3 (infrared) stand in one place.
PROTOCOL: Final = RetrievalProtocol(NAME, excluded_cameras=((3, 2),), cmc_by_identity=True)

_MULTI_SHOT: Final = 10  # images of an identity in a camera, by the data set's documentation

DATA_SET: Final = DataSet(
    name=NAME,
    aliases=("sysu",),
    reader=read_sysu_mm01,
    count=count_sysu_mm01,
    protocol=PROTOCOL,
    search_tasks=(
        _search("all-search", _cameras(VISIBLE)),
        _search("indoor-search", (1, 2)),
    ),
    more_search_tasks=(
        _search("all-search-multi-shot", _cameras(VISIBLE), _MULTI_SHOT),
        _search("indoor-search-multi-shot", (1, 2), _MULTI_SHOT),
    ),
)
