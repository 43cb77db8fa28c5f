"""LLCM in its original layout.

::

    vis/0001/0001_c01_s185535_f7010_vis.jpg     training images; likewise in nir/
    idx/train_vis.txt, idx/train_nir.txt        lists of them: a path and a label per line
    test_vis/cam1/0003/0003_c01_..._vis.jpg     test images by camera and identity; likewise in
                                                test_nir/
    idx/test_id.txt                             test identities, separated by commas

The nine cameras record visible images by day and infrared images by night, so both modalities have
the same camera numbers; camera 3 has no infrared test images.

Source: Zhang and Wang, CVPR 2023, and the authors' code, https://github.com/ZYK100/LLCM.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mabm._core.modalities import INFRARED, VISIBLE
from mabm._core.protocols import RetrievalProtocol, SearchTask, Side
from mabm.data.counts import CensusRow, Counts, count_identities, count_images
from mabm.data.data_set import DataSet
from mabm.data.layout import (
    FoundImage,
    Scan,
    check_root,
    counted,
    find_layout,
    images_in,
    listed,
    note_without_images,
    numbered_folders,
    read_ids,
    read_list,
    resolve,
    within,
)
from mabm.data.records import UNKNOWN, ReidData

NAME: Final = "llcm"
PARTS: Final = ("idx", "vis", "nir", "test_vis", "test_nir")
TEST_CAMERAS: Final = {
    VISIBLE: (1, 2, 3, 4, 5, 6, 7, 8, 9),
    INFRARED: (1, 2, 4, 5, 6, 7, 8, 9),
}
_FOLDER: Final = {VISIBLE: "vis", INFRARED: "nir"}


def read_llcm(root: Path | str) -> ReidData:
    """Reads LLCM.

    Args:
        root: The folder with ``vis``, ``nir``, ``test_vis``, ``test_nir`` and ``idx``.

    Returns:
        The images of 713 training and of 351 test identities, both ordered by identity, camera,
        modality and file name. The list or folder that contains an image defines its modality.
        Training identities are the labels in the lists, test identities the numbers of their
        folders: **the two are unrelated.** The camera of a training image is the ``c`` field of its
        file name (``c01``), or ``UNKNOWN`` without one; that of a test image is the number of its
        folder.

    Raises:
        FileNotFoundError: A list, an image in a list, a camera's folder or all images of a test
            identity are missing.
        ValueError: The root is not a folder, or a list is malformed.

    Example:
        >>> from mabm.data import read_llcm
        >>> data = read_llcm("datasets/LLCM")  # doctest: +SKIP
        >>> data.train.identity, data.test.camera  # doctest: +SKIP
    """
    return scan_llcm(check_root(root)).data()


def scan_llcm(root: Path) -> Scan:
    """Scans a tree of LLCM."""
    scan = Scan(NAME, root)
    if not find_layout(scan, PARTS):
        return scan
    for modality, kind in _FOLDER.items():
        name = f"idx/train_{kind}.txt"
        rows = [
            FoundImage(path, label, _camera_in_name(path.name), modality)
            for path, label in read_list(scan, name)
        ]
        unknown = [within(row.path, root) for row in rows if row.camera == UNKNOWN]
        if unknown:
            names = f"{counted(unknown, 'image')} without a camera in the file name"
            scan.note_minor(f"{name} lists {names}: {listed(unknown)}")
        scan.train += rows
    test = set(read_ids(scan, "idx/test_id.txt"))
    shared = test & {
        int(row.path.parent.name) for row in scan.train if row.path.parent.name.isdigit()
    }
    if shared:
        scan.note_minor(f"test identities are also trained on: {listed(sorted(shared))}")
    for modality, kind in _FOLDER.items():
        _scan_test(scan, resolve(root, f"test_{kind}"), modality, test)
    note_without_images(scan, "the test identities", test - {row.identity for row in scan.test})
    return scan


def _scan_test(scan: Scan, parent: Path, modality: int, test: set[int]) -> None:
    cameras = TEST_CAMERAS[modality]
    for camera in cameras:
        place = resolve(parent, f"cam{camera}")
        if not place.is_dir():
            scan.note_missing(f"folder {parent.name}/cam{camera} is missing")
            continue
        folders = numbered_folders(scan, place)
        extra = sorted(set(folders) - test)
        if extra:
            scan.note_minor(
                f"{parent.name}/cam{camera} has identities that are not in idx/test_id.txt: "
                f"{listed(extra)}"
            )
        for identity in sorted(test & set(folders)):
            for path in images_in(folders[identity]):
                scan.test.append(FoundImage(path, identity, camera, modality))
    known = {f"cam{camera}" for camera in cameras}
    for folder in sorted(path for path in parent.iterdir() if path.is_dir()):
        if folder.name.lower() not in known and not folder.name.startswith("."):
            scan.note_minor(
                f"folder {parent.name}/{folder.name} is extra: it is none of the cameras"
            )


def _camera_in_name(name: str) -> int:
    # <identity>_c<camera>_s<time>_f<frame>_<modality>.jpg
    camera = re.match("[0-9]+_c([0-9]+)_", name)
    return int(camera[1]) if camera else UNKNOWN


def count_llcm(root: Path, trial: int | None) -> Counts:
    """Counts a tree of LLCM for its census."""
    scan = scan_llcm(root)
    # Zhang and Wang, CVPR 2023, section 4.2. It gives 13,909 test images in total, to which the two
    # modalities do not add up; they do with the training images to the 46,767 of section 4.1.
    rows = [
        CensusRow("training identities", 713, count_identities(scan.train)),
        CensusRow("visible training images", 16_946, count_images(scan.train, VISIBLE)),
        CensusRow("infrared training images", 13_975, count_images(scan.train, INFRARED)),
        CensusRow("test identities", 351, count_identities(scan.test)),
        CensusRow("visible test images", 8_680, count_images(scan.test, VISIBLE)),
        CensusRow("infrared test images", 7_166, count_images(scan.test, INFRARED)),
    ]
    return Counts([scan], rows)


def _search(name: str, query: int, gallery: int, drawn: Side = "gallery") -> SearchTask:
    return SearchTask(
        NAME,
        name,
        query,
        gallery,
        PROTOCOL,
        query_cameras=TEST_CAMERAS[query],
        gallery_cameras=TEST_CAMERAS[gallery],
        drawn=drawn,
        num_trials=10,
    )


# Zhang and Wang, CVPR 2023.
PROTOCOL: Final = RetrievalProtocol(NAME, exclude_same_camera=True, cmc_by_identity=True)

DATA_SET: Final = DataSet(
    name=NAME,
    reader=read_llcm,
    count=count_llcm,
    protocol=PROTOCOL,
    search_tasks=(
        _search("infrared-to-visible", INFRARED, VISIBLE),
        _search("visible-to-infrared", VISIBLE, INFRARED),
    ),
    # What the authors' script calls "VIS to IR" draws infrared images and then exchanges the roles
    # of the two sides: the images drawn are the queries, and all visible ones are the gallery.
    more_search_tasks=(_search("sampled-infrared-to-visible", INFRARED, VISIBLE, drawn="queries"),),
)
