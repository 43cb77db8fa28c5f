"""Names of images in reports: files within the data set, and images that are no files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mabm.data import DATA_SETS, UNKNOWN, ImageSet
from mabm.train.image_names import name_images

LIST = DATA_SETS["image_list"]


def listed(*files: Path) -> ImageSet:
    ones = np.ones(len(files), dtype=np.int64)
    return ImageSet(files, ones, ones, 0 * ones)


def test_files_are_named_from_the_folder_of_the_data_set(tmp_path: Path) -> None:
    files = tmp_path / "cam1" / "a.jpg", tmp_path / "cam1" / "b.jpg"
    name = name_images(listed(*files), LIST, str(tmp_path))
    assert [name(0), name(1)] == ["cam1/a.jpg", "cam1/b.jpg"]
    table = tmp_path / "people.csv"
    table.touch()
    assert name_images(listed(*files), LIST, str(table))(0) == "cam1/a.jpg"


def test_files_elsewhere_are_named_from_the_folder_that_they_share(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    files = tmp_path / "x" / "day" / "a.jpg", tmp_path / "x" / "night" / "b.jpg"
    for root in (str(tmp_path / "sets"), None):
        name = name_images(listed(*files), LIST, root)
        assert [name(0), name(1)] == ["day/a.jpg", "night/b.jpg"]


@pytest.mark.parametrize("root", [None, "/", "/srv/people.csv"])
def test_files_without_a_common_folder_keep_their_last_two_parts(root: str | None) -> None:
    files = Path("/home/ada/a/x.jpg"), Path("/mnt/y.jpg"), Path("/z.jpg")
    name = name_images(listed(*files), LIST, root)
    assert [name(row) for row in range(3)] == ["a/x.jpg", "mnt/y.jpg", "z.jpg"]


def test_images_that_are_no_files_are_counted_by_identity_and_camera() -> None:
    pixels = np.zeros((5, 3, 2, 2), dtype=np.uint8)
    images = ImageSet(pixels, [7, 8, 7, 7, UNKNOWN], [1, 1, 1, 2, UNKNOWN], [0, 0, 0, 1, 1])
    name = name_images(images, LIST, None)
    assert [name(row) for row in range(5)] == [
        "identity 7, camera 1, image 1",
        "identity 8, camera 1, image 1",
        "identity 7, camera 1, image 2",
        "identity 7, camera 2, image 1",
        "image 1",
    ]
    named = dataclasses.replace(
        LIST, identity_name="person {}".format, camera_name="the {}th".format
    )
    assert name_images(images, named, None)(3) == "person 7, camera 2 (the 2th), image 1"


def test_images_are_counted_in_their_order_whatever_that_of_cameras() -> None:
    pixels = np.zeros((6, 3, 2, 2), dtype=np.uint8)
    images = ImageSet(pixels, [4, 4, 3, 4, 3, 4], [2, 1, 2, 2, 2, 1], [0] * 6)
    name = name_images(images, LIST, None)
    assert [name(row) for row in range(6)] == [
        "identity 4, camera 2, image 1",
        "identity 4, camera 1, image 1",
        "identity 3, camera 2, image 1",
        "identity 4, camera 2, image 2",
        "identity 3, camera 2, image 2",
        "identity 4, camera 1, image 2",
    ]


def test_drawings_say_emoji_and_artwork() -> None:
    emoji = DATA_SETS["emoji_xm"]
    images = ImageSet(np.zeros((1, 3, 2, 2), dtype=np.uint8), [8], [6], [1])
    name = name_images(images, emoji, None)
    assert name(0) == "alarm-clock, camera 6 (emojione-monotone), image 1"
