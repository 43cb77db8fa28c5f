"""What reports call an image: its file, or whose image by which camera it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mabm.data import UNKNOWN, DataSet, ImageSet


def name_images(images: ImageSet, data_set: DataSet, root: str | None) -> Callable[[int], str]:
    """Returns a function from the row of an image to its name.

    A file is named by its path from the folder of the data set, so that no folder above it is
    shown; files that have no folder in common, by their folder and name. Images that are no files
    are named by identity, camera and their number among the images of this identity by this camera.

    Args:
        images: The images.
        data_set: Names identities and cameras.
        root: Folder or table of the data set; ``None`` where it has none.
    """
    if isinstance(images.images, np.ndarray):
        return _name_frames(images, data_set)
    files = images.images
    folder = _folder_above(files, root)

    def name(row: int) -> str:
        path = files[row].absolute()
        if folder is None:
            return "/".join(path.relative_to(path.anchor).parts[-2:])
        return path.relative_to(folder).as_posix()

    return name


def _folder_above(files: tuple[Path, ...], root: str | None) -> Path | None:
    """The folder of the data set if all files are in it, else the one that they have in common.

    ``None`` where that is the root of the file system, or there is none.
    """
    paths = [path.absolute() for path in files]
    folder = None
    if root is not None:
        place = Path(root).absolute()
        folder = place if place.is_dir() else place.parent
    if folder is None or not all(path.is_relative_to(folder) for path in paths):
        try:
            folder = Path(os.path.commonpath([path.parent for path in paths]))
        except ValueError:  # none at all, or on several drives
            return None
    return None if folder == folder.parent else folder


def _name_frames(images: ImageSet, data_set: DataSet) -> Callable[[int], str]:
    columns = np.stack([images.identity, images.camera])
    order = np.lexsort(columns)  # stable: rows of one identity and camera stay in their order
    starts = np.ones(len(images), dtype=bool)
    starts[1:] = (np.diff(columns[:, order]) != 0).any(axis=0)
    places = np.arange(len(images))
    number = np.empty(len(images), dtype=np.int64)
    number[order] = 1 + places - np.maximum.accumulate(np.where(starts, places, 0))

    def name(row: int) -> str:
        identity, camera = int(images.identity[row]), int(images.camera[row])
        parts = [] if identity == UNKNOWN else [_name_identity(data_set, identity)]
        if camera != UNKNOWN:
            source = "" if data_set.camera_name is None else f" ({data_set.camera_name(camera)})"
            parts.append(f"camera {camera}{source}")
        return ", ".join([*parts, f"image {number[row]}"])

    return name


def _name_identity(data_set: DataSet, identity: int) -> str:
    if data_set.identity_name is None:
        return f"identity {identity}"
    return data_set.identity_name(identity)
