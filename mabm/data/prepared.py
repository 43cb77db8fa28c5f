"""SYSU-MM01 and RegDB in the layout that other code bases copy them to before training.

::

    ir_modify/bounding_box_train/0001_c3_0001.jpg       infrared training images
    ir_modify/query/, ir_modify/bounding_box_test/      infrared test images
    rgb_modify/                                         the same for visible images

RegDB has a folder per trial in between: ``ir_modify/1/bounding_box_train``. A file name consists of
the identity, the camera, and the original name. Images are copied unchanged, and all splits of the
data set are included, so such a tree gives the same result as the original one. An image in both
``query`` and ``bounding_box_test`` counts once.

Source: the scripts ``prepare_sysu.py`` and ``prepare_regdb.py`` of ADCA (Yang et al., ACM MM 2022)
and of the code bases after it, such as https://github.com/yangbincv/ADCA.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mabm._core.modalities import INFRARED, VISIBLE
from mabm.data.layout import FoundImage, Scan, images_in, listed, resolve, within

PARTS: Final = ("ir_modify", "rgb_modify")
_FOLDERS: Final = {VISIBLE: "rgb_modify", INFRARED: "ir_modify"}
_TRAIN: Final = "bounding_box_train"
_TEST: Final = ("bounding_box_test", "query")  # what is in both counts as of the first


def scan_prepared(scan: Scan, camera_of: Callable[[int, int], int | None]) -> None:
    """Scans a prepared tree into its training and test images.

    Args:
        scan: Where it goes; its root has ``ir_modify`` and ``rgb_modify``, and its trial is the
            folder within them, if any.
        camera_of: Takes a modality and the camera in the name of an image, and returns the camera
            of the data set; ``None`` where the modality has no such camera.
    """
    for modality, name in _FOLDERS.items():
        parent = name if scan.trial is None else f"{name}/{scan.trial}"
        folders = [resolve(scan.root, f"{parent}/{each}") for each in (_TRAIN, *_TEST)]
        lacking = [within(folder, scan.root) for folder in folders if not folder.is_dir()]
        if lacking:
            scan.note_missing(f"folder {listed(lacking)} is missing")
            continue
        scan.train += _images_of(scan, folders[0], modality, camera_of)
        known: set[str] = set()
        for folder in folders[1:]:
            rows = _images_of(scan, folder, modality, camera_of)
            scan.test += [row for row in rows if row.path.name not in known]
            known |= {row.path.name for row in rows}


def original_name(path: Path) -> str:
    """The original name of a copied image."""
    return re.sub("^[0-9]+_c[0-9]+_", "", path.name)


def _images_of(
    scan: Scan, folder: Path, modality: int, camera_of: Callable[[int, int], int | None]
) -> list[FoundImage]:
    rows, strange = [], []
    for path in images_in(folder):
        words = re.match("([0-9]+)_c([0-9]+)_", path.name)
        camera = None if words is None else camera_of(modality, int(words[2]))
        if words is None or camera is None:
            strange.append(path.name)
        else:
            rows.append(FoundImage(path, int(words[1]), camera, modality))
    if strange:
        scan.note_error(
            f"{within(folder, scan.root)} has images whose names do not begin with an identity and "
            f"a camera of their modality, such as 0001_c3_: {listed(strange)}"
        )
    return rows
