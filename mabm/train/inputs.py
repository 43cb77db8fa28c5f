"""The images of a run: all of a data set, or some of its identities."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mabm._core.arrays import IntArray
from mabm.data import ImageReader, ImageSet, ReidData, read_data
from mabm.data.records import UNKNOWN
from mabm.models.weight_files import TORCH_SUFFIXES, read_torch
from mabm.train.config import DataConfig


@dataclass(frozen=True)
class Inputs:
    """The images to train and to test on.

    Attributes:
        data: Records of the images. Identities of training images are used for diagnostics only.
        train: Reads the training images.
        test: Reads the test images.
    """

    data: ReidData
    train: ImageReader
    test: ImageReader

    @property
    def modality(self) -> Tensor:
        """(N,) int64 modality of the training images."""
        return torch.from_numpy(self.data.train.modality.copy())

    @property
    def cameras(self) -> Tensor | None:
        """(N,) int64 camera of the training images; ``None`` if no camera is known."""
        cameras = self.data.train.camera
        return torch.from_numpy(cameras.copy()) if (cameras != UNKNOWN).any() else None

    def digest(self) -> str:
        """A checksum of the training images: their order, cameras, modalities and content.

        Content is the pixels of arrays, or the names of files relative to their common folder, so
        that the folder may move.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        train = self.data.train
        digest = hashlib.sha256()
        for column in (train.camera, train.modality):
            digest.update(column.tobytes())
        if isinstance(train.images, np.ndarray):
            digest.update(np.ascontiguousarray(train.images).data)
        elif train.images:
            paths = [path.absolute() for path in train.images]  # may be relative and absolute
            folder = os.path.commonpath(paths)
            for path in paths:
                digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0")
        return digest.hexdigest()


def read_inputs(config: DataConfig) -> Inputs:
    """Reads the records of a data set and prepares the reading of its images.

    Raises:
        FileNotFoundError: A folder or list is missing.
        ValueError: The data does not have the expected layout, or a number of identities is too
            large.
    """
    data = choose_identities(
        read_data(config.name, config.root, trial=config.trial),
        held_out=config.held_out,
        identities=config.identities,
    )
    size, cache = (config.height, config.width), config.cache
    place = None if cache is None else Path(cache)
    return Inputs(
        data,
        ImageReader(data.train, size=size, cache=place),
        ImageReader(data.test, size=size, resampling=config.test_resampling, cache=place),
    )


def check_start(weights: str | None, data: ReidData) -> None:
    """Rejects initial weights from another trial, which have seen test images of this one.

    Args:
        weights: A file of weights, the name of shipped weights, or ``None``. A file written by a
            run says what it was trained on.
        data: The data set to train on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is from a run on another trial of the same data set, or damaged.
    """
    if data.trial is None or weights is None:
        return
    if Path(weights).suffix.lower() not in TORCH_SUFFIXES:
        return
    content = read_torch(Path(weights))
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict) or meta.get("data") != data.name:
        return
    if meta.get("trial") != data.trial:
        raise ValueError(
            f"model.weights must be from trial {data.trial}, got trial "
            f"{meta.get('trial')} in {weights}: about half of the test identities of one trial of "
            f"{data.name} are training identities of another"
        )


def choose_identities(
    data: ReidData, *, held_out: int = 0, identities: int | None = None
) -> ReidData:
    """Holds identities out of training, evenly spaced in their order.

    Args:
        data: Records.
        held_out: Number of identities that are held out and replace the test images.
        identities: Number of the other identities to train on; all by default.

    Raises:
        ValueError: There are not enough identities, or they are not known.
    """
    if not held_out and identities is None:
        return data
    identity = data.train.identity
    known = np.unique(identity[identity != UNKNOWN])
    left_out = _spaced(known, held_out, "held_out")
    others = np.setdiff1d(
        np.unique(identity), left_out
    )  # including unknown ones, unless ``identities`` is set
    if identities is not None:
        others = _spaced(np.setdiff1d(known, left_out), identities, "identities")
    test = data.test if not held_out else _select(data.train, left_out)
    return dataclasses.replace(data, train=_select(data.train, others), test=test)


def _spaced(names: IntArray, count: int, what: str) -> IntArray:
    if count > len(names):
        raise ValueError(
            f"{what} must be at most {len(names)}, the number of identities, got {count}"
        )
    return names[np.arange(count) * len(names) // max(count, 1)]


def _select(images: ImageSet, identities: IntArray) -> ImageSet:
    return images.select(np.flatnonzero(np.isin(images.identity, identities)))
