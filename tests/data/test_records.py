"""Image records and sets: what they hold, what they refuse, and that they cannot be changed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mabm.data import INFRARED, UNKNOWN, VISIBLE, ImageRecord, ImageSet

FILES = tuple(Path(f"{number}.jpg") for number in range(4))


@pytest.fixture
def files() -> ImageSet:
    return ImageSet(FILES, [5, UNKNOWN, 7, 5], [1, 3, 6, UNKNOWN], [0, 1, 1, 0])


@pytest.fixture
def arrays() -> ImageSet:
    pixels = np.arange(3 * 3 * 4 * 2, dtype=np.uint8).reshape(3, 3, 4, 2)
    return ImageSet(pixels, [0, 1, 2], [1, 2, 3], [0, 0, 1])


def test_rows_are_records(files: ImageSet) -> None:
    assert len(files) == 4
    assert files[0] == ImageRecord(Path("0.jpg"), 5, 1, VISIBLE)
    assert files[1] == ImageRecord(Path("1.jpg"), None, 3, INFRARED)
    assert files[-1].camera == UNKNOWN
    assert [record.modality for record in files] == [0, 1, 1, 0]
    with pytest.raises(IndexError):
        files[4]


def test_columns_are_int64_whatever_came_in() -> None:
    images = ImageSet(FILES[:2], np.uint8([1, 2]), (3, 4), np.int32([0, 1]))
    for column in (images.identity, images.camera, images.modality):
        assert column.dtype == np.int64
        assert column.shape == (2,)


def test_strings_become_paths() -> None:
    assert ImageSet(["a/b.jpg"], [0], [0], [0]).images == (Path("a/b.jpg"),)  # type: ignore[list-item]


def test_nothing_can_be_changed(files: ImageSet, arrays: ImageSet) -> None:
    for images in (files, arrays, pickle.loads(pickle.dumps(arrays)), arrays.select([0, 1])):
        for column in (images.identity, images.camera, images.modality):
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 9
        with pytest.raises(AttributeError):
            images.camera = images.identity  # type: ignore[misc]
        if isinstance(images.images, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                images.images[0] = 0


def test_columns_are_copies_and_the_array_of_images_is_not() -> None:
    identity, pixels = np.zeros(2, np.int64), np.zeros((2, 3, 1, 1), np.uint8)
    images = ImageSet(pixels, identity, identity, identity)
    identity[0] = 7
    assert images.identity.tolist() == [0, 0]
    assert np.shares_memory(images.images, pixels)
    assert pixels.flags.writeable


def test_pickle_brings_everything_back(files: ImageSet, arrays: ImageSet) -> None:
    for images in (files, arrays):
        assert list(pickle.loads(pickle.dumps(images))) == list(images)


def test_select_takes_rows_in_the_order_asked_for(files: ImageSet, arrays: ImageSet) -> None:
    for images in (files, arrays):
        chosen = images.select([2, 0, 2])
        assert list(chosen) == [images[2], images[0], images[2]]
        assert list(images[1:3]) == [images[1], images[2]]
        assert len(images.select([])) == 0
        infrared = images.select(images.modality == INFRARED)
        assert list(infrared) == [record for record in images if record.modality == INFRARED]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([4], ValueError, r"rows must be in \[0, 4\), got 4"),
        ([0, -1], ValueError, r"rows must be in \[0, 4\), got -1"),
        ([True, False], ValueError, r"rows must have shape \(4,\), got \(2,\)"),
        ([[0, 1]], ValueError, r"rows must have shape \(R,\), got \(1, 2\)"),
        ([0.0], TypeError, "rows must be integers or a bool mask, got float64"),
    ],
)
def test_select_refuses(files: ImageSet, rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        files.select(rows)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (([0, 1], [0] * 4, [0] * 4), ValueError, r"identity must have shape \(4,\), got \(2,\)"),
        (([0] * 4, [[0] * 4], [0] * 4), ValueError, r"camera must have shape \(4,\), got \(1, 4\)"),
        (([0] * 4, [0] * 4, [0, 1, -1, 0]), ValueError, "modality must be >= 0, got -1"),
        (([0, -2, 0, 0], [0] * 4, [0] * 4), ValueError, "identity must be >= -1, got -2"),
        (([0] * 4, [0.5] * 4, [0] * 4), TypeError, "camera must contain integers, got float64"),
        (([None] * 4, [0] * 4, [0] * 4), TypeError, "identity must contain integers, got object"),
    ],
)
def test_columns_are_checked(columns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageSet(FILES, *columns)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 3, 4, 4)), TypeError, "images must contain uint8, got an array of float64"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"\(N, 3, H, W\), got \(1, 4, 4, 3\)"),
        (np.zeros((1, 3, 0, 4), np.uint8), ValueError, r"\(N, 3, H, W\), got \(1, 3, 0, 4\)"),
    ],
)
def test_arrays_are_checked(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageSet(images, [0], [0], [0])


def test_records_make_a_set(files: ImageSet, arrays: ImageSet) -> None:
    for images in (files, arrays):
        assert list(ImageSet.from_records(iter(images))) == list(images)
    assert len(ImageSet.from_records([])) == 0


def test_records_of_different_kinds_make_none(files: ImageSet, arrays: ImageSet) -> None:
    with pytest.raises(ValueError, match="either files or arrays, got 1 files and 1 arrays"):
        ImageSet.from_records([files[0], arrays[0]])
    wide = ImageRecord(np.zeros((3, 4, 9), np.uint8), 0, 0, 0)
    with pytest.raises(ValueError, match=r"one size, got \[\(3, 4, 2\), \(3, 4, 9\)\]"):
        ImageSet.from_records([arrays[0], wide])


def test_records_are_equal_if_what_they_hold_is(arrays: ImageSet) -> None:
    again = ImageRecord(arrays[1].image.copy(), 1, 2, 0)  # type: ignore[union-attr]
    assert again == arrays[1]
    assert hash(again) == hash(arrays[1])
    assert again in arrays
    assert arrays.index(again) == 1
    assert again != arrays[0]
    assert again != ImageRecord(Path("1.jpg"), 1, 2, 0)
    assert again != "1.jpg"


def test_repr_says_what_there_is(files: ImageSet, arrays: ImageSet) -> None:
    assert repr(files) == "ImageSet(4 files: 2 of modality 0, 2 of modality 1)"
    assert repr(arrays) == "ImageSet(3 arrays: 2 of modality 0, 1 of modality 1)"
    assert repr(files.select([])) == "ImageSet(0 files)"
