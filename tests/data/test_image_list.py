"""Tables of one's own images: what is read of them, and what is said of what cannot be."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniature_trees import build_image_list

import mabm
from mabm.data import (
    DATA_SETS,
    INFRARED,
    UNKNOWN,
    VISIBLE,
    list_images,
    read_data,
    read_image_list,
)

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a table of the given lines, beside empty files a.jpg to d.jpg."""
    for name in "abcd":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "link.jpg").symlink_to("a.jpg")

    def write(*lines: str, start: str = "", end: str = "\n") -> Path:
        file = tmp_path / "list.csv"
        file.write_text(start + end.join(lines) + end, encoding="utf-8", newline="")
        return file

    return write


def test_a_table_is_a_data_set(tmp_path: Path) -> None:
    file = build_image_list(tmp_path, train=2, test=1, images=1)
    data = read_data("image-list", file)
    assert data.name == "image_list"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    for images, part in ((data.train, "train"), (data.test, "test")):
        listed = [row for row in rows if row["split"] == part]
        assert images.images == tuple(tmp_path / row["path"] for row in listed)
        assert images.camera.tolist() == [int(row["camera"]) for row in listed]
        assert images.modality.tolist() == [VISIBLE, VISIBLE, INFRARED, INFRARED] * (
            2 if part == "train" else 1
        )
    assert set(data.train.identity) == {UNKNOWN}
    assert set(data.test.identity) == {2}


def test_columns_come_in_any_order_and_some_may_lack(table: Write, tmp_path: Path) -> None:
    file = table("remark,Modality , PATH", '"by night, late",thermal,a.jpg', "", ",0, b.jpg ")
    images, is_test = list_images(file)
    assert images.images == (tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert images.modality.tolist() == [INFRARED, VISIBLE]
    assert set(images.camera) == set(images.identity) == {UNKNOWN}
    assert not is_test.any()
    assert len(read_image_list(str(file)).test) == 0


def test_tables_of_spreadsheets_are_read(table: Write) -> None:
    lines = ("path,modality,camera,identity,split", "a.jpg,INFRARED,007,-1,Train")
    images, _ = list_images(table(*lines, start="\ufeff", end="\r\n"))
    assert (images.camera.tolist(), images.identity.tolist()) == ([7], [UNKNOWN])


def test_paths_are_from_the_table_or_absolute_or_from_home(
    table: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    (elsewhere / "e.jpg").touch()
    monkeypatch.setenv("HOME", str(elsewhere))
    monkeypatch.chdir(tmp_path.parent)
    table("path,modality", f"{elsewhere / 'e.jpg'},0", "a.jpg,1", "~/e.jpg,1")
    images, _ = list_images(Path(os.path.relpath(tmp_path)) / "list.csv")
    assert [path.resolve() for path in images.images] == [
        elsewhere / "e.jpg", tmp_path / "a.jpg", elsewhere / "e.jpg",
    ]  # fmt: skip


WRONG = [
    (["path;modality", "a.jpg;0"], "must have commas between its columns, got semicolons: 'path;"),
    (["path,camera", "a.jpg,1"], "must have columns path and modality, and maybe camera, identity"),
    (["path,modality,path", "a.jpg,0,a.jpg"], "each once, got"),
    (["path,modality"], "must list images, got none"),
    ([], "must have columns path and modality"),
    (["path,modality", "a.jpg"], ", row 2: must have 2 columns, got 1"),
    (["path,modality", "a.jpg,0", ",0"], ", row 3: path must be a file, got none"),
    (["path,modality", "a.jpg,warm"], ", row 2: modality must be an integer in [0, 2^63) or one"),
    (
        ["path,modality,camera", "a.jpg,0,one"],
        ", row 2: camera must be an integer in [0, 2^63), or",
    ),
    (["path,modality,identity", "a.jpg,0,1.5"], ", row 2: identity must be an integer in"),
    (["path,modality,split", "a.jpg,0,val"], ", row 2: split must be train or test, got 'val'"),
    (["path,modality,split", "a.jpg,0,"], ", row 2: split must be train or test, got ''"),
    (["path,modality,split", "a.jpg,0,test"], ", row 2: identity must be known of a test image"),
    (
        ["path,modality,identity,split", "a.jpg,0,1,test", "b.jpg,1,1,test", "a.jpg,0,1,train"],
        ", row 4: an image must be either to train or to test on, got both for ",
    ),
    (
        ["path,modality,identity,split", "a.jpg,0,1,test", "b.jpg,1,1,test", "x/../a.jpg,0,,train"],
        ", row 4: an image must be either to train or to test on, got both for ",
    ),
    (
        ["path,modality,identity,split", "a.jpg,0,1,test", "b.jpg,1,1,test", "link.jpg,0,1,train"],
        ", row 4: an image must be either to train or to test on, got both for ",
    ),
    (
        ["path,modality,identity,split", "a.jpg,0,1,test", "./a.jpg,1,1,test"],
        "an image must be of one modality, got two for ",
    ),
    (["path,modality", "~no such user/a.jpg,0"], ", row 2: path must be a file, got '~no such"),
    (["path,modality", "a.jpg,0", "b.jpg,2"], "must be 0 (visible) or 1 (infrared), got 2 for "),
    (
        ["path,modality,identity,split", "a.jpg,0,1,test", "b.jpg,0,1,test"],
        "test images must show an identity in both modalities",
    ),
    (
        ["path,modality,camera,identity,split", "a.jpg,0,3,1,test", "b.jpg,1,3,1,test"],
        "by two cameras where these are known",
    ),
]


@pytest.mark.parametrize(("lines", "words"), WRONG)
def test_what_is_wrong_is_named_with_its_row(lines: list[str], words: str, table: Write) -> None:
    file = table(*lines)
    with pytest.raises(ValueError, match="list") as failure:
        read_image_list(file)
    assert str(failure.value).startswith(str(file))
    assert words in str(failure.value)


def test_missing_images_are_named_with_their_row(table: Write, tmp_path: Path) -> None:
    file = table("path,modality", "a.jpg,0", "x.jpg,1", "y.jpg,1")
    with pytest.raises(FileNotFoundError) as failure:
        read_image_list(file)
    assert str(failure.value) == (
        f"{file} lists images that do not exist: {tmp_path / 'x.jpg'} in row 3 and 1 more"
    )
    with pytest.raises(FileNotFoundError, match="no such table"):
        read_image_list(tmp_path / "no such table.csv")
    with pytest.raises(ValueError, match="must be a regular file, got a folder"):
        read_image_list(tmp_path)
    with pytest.raises(ValueError, match="root must be the table of images, got None"):
        read_data("image_list")


def test_searches_compare_all_but_one_identity_in_one_camera() -> None:
    """One query; in the gallery its identity in the same camera, another, and it elsewhere."""
    task, back = DATA_SETS["image_list"].search_tasks
    assert (task.name, back.name) == ("infrared-to-visible", "visible-to-infrared")
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [0.5, 0.5]])
    identity, modality = torch.tensor([7, 7, 8, 7]), torch.tensor([1, 0, 0, 0])
    for cameras, precision in (
        ([1, 1, 2, 2], 1 / 2),  # the first is left out
        ([1, 3, 2, 2], (1 + 2 / 3) / 2),
        ([-1, -1, -1, -1], (1 + 2 / 3) / 2),  # an unknown camera is no camera
    ):
        scores = mabm.evaluate_search(
            features, identity, torch.tensor(cameras), modality, task=task
        )
        assert scores.mean["mAP"] == pytest.approx(precision)
