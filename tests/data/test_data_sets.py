"""The readers on miniature trees in the real layouts, whole ones and wrong ones."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from miniature_trees import LLCM_CAMERAS, Change, build_llcm, build_regdb, build_sysu, write

import mabm.data
from mabm.data import (
    DATA_SETS,
    INFRARED,
    UNKNOWN,
    VISIBLE,
    ImageReader,
    ImageSet,
    identity_splits,
    load_drawings,
    read_data,
    read_emoji_xm,
    read_llcm,
    read_regdb,
    read_sysu_mm01,
    render_identities,
)


def names(images: ImageSet, root: Path) -> set[tuple[str, int, int, int]]:
    return {
        (Path(record.image).relative_to(root).as_posix(), *_columns(record))  # type: ignore[arg-type]
        for record in images
    }


def _columns(record: mabm.data.ImageRecord) -> tuple[int, int, int]:
    assert record.identity is not None
    return record.identity, record.camera, record.modality


def remove(path: str) -> Change:
    def change(root: Path) -> None:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return change


def assert_cells_are_in_file_order(images: ImageSet) -> None:
    cells: dict[tuple[int, ...], list[str]] = {}
    for record in images:
        cells.setdefault(_columns(record), []).append(Path(record.image).name)  # type: ignore[arg-type]
    assert all(cell == sorted(cell) for cell in cells.values())
    assert max(len(cell) for cell in cells.values()) > 2


# ----------------------------------------------------------------------------------- SYSU-MM01


@pytest.fixture
def sysu(tmp_path: Path) -> Path:
    return build_sysu(tmp_path / "SYSU-MM01")


def test_sysu_mm01_is_read_by_its_lists_and_camera_table(sysu: Path) -> None:
    data = read_sysu_mm01(sysu)
    modality = {1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED}
    for images, identities in ((data.train, (1, 2, 3, 4)), (data.test, (5, 6))):
        assert names(images, sysu) == {
            (f"cam{camera}/{identity:04}/{number:04}.jpg", identity, camera, modality[camera])
            for camera in modality
            for identity in identities
            for number in (1, 2)
            if not (camera == 5 and identity % 3 == 0)
        }
    assert (data.name, data.trial) == ("sysu_mm01", None)
    assert ImageReader(data.train, size=(8, 4))[0].shape == (3, 8, 4)


def test_rows_come_by_identity_camera_and_file_name(tmp_path: Path) -> None:
    data = read_sysu_mm01(build_sysu(tmp_path, images=11))
    for images in (data.train, data.test):
        assert_cells_are_in_file_order(images)
        assert np.array_equal(np.lexsort((images.camera, images.identity)), np.arange(len(images)))


def test_what_file_managers_leave_is_passed_over(sysu: Path) -> None:
    expected = list(read_sysu_mm01(sysu).train)
    for name in ("Thumbs.db", ".DS_Store", "._0001.jpg", "notes.txt"):
        (sysu / "cam1" / "0001" / name).write_bytes(b"junk")
        (sysu / "cam1" / name).write_bytes(b"junk")
    (sysu / "cam1" / ".thumbnails").mkdir()
    (sysu / "__MACOSX").mkdir()
    assert list(read_sysu_mm01(sysu).train) == expected


def test_suffixes_may_be_in_upper_case_or_of_other_formats(sysu: Path) -> None:
    folder = sysu / "cam1" / "0001"
    (folder / "0001.jpg").rename(folder / "0001.JPG")
    (folder / "0002.jpg").rename(folder / "0002.Png")
    train = read_sysu_mm01(sysu).train
    found = [Path(p).name for p in train.images if Path(p).parent == folder]
    assert found == ["0001.JPG", "0002.Png"]


@pytest.mark.parametrize(
    "content", ["5,6", "5,6\r\n", "\ufeff5, 6\n\n", "6\r\n5\r\n", "0005,0006,\n", "5\t6"]
)
def test_lists_of_identities_may_be_written_in_many_ways(sysu: Path, content: str) -> None:
    expected = list(read_sysu_mm01(sysu).test)
    (sysu / "exp" / "test_id.txt").write_bytes(content.encode())
    assert list(read_sysu_mm01(sysu).test) == expected


def test_identity_folders_need_not_be_padded(sysu: Path) -> None:
    (sysu / "cam1" / "0005").rename(sysu / "cam1" / "5")
    assert (read_sysu_mm01(sysu).test.identity == 5).sum() == 12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove("exp/val_id.txt"), FileNotFoundError, "list exp/val_id.txt is missing"),
        (remove("exp"), FileNotFoundError, "folder exp is missing"),
        (remove("cam6"), FileNotFoundError, "folder cam6 is missing"),
        (write("exp/test_id.txt", "5,x7"), ValueError, r"test_id.txt must contain .*, got 'x7'"),
        (write("exp/test_id.txt", "\r\n"), ValueError, "exp/test_id.txt is empty"),
        (write("exp/test_id.txt", "2,5,6"), ValueError, "test_id.txt shares .* with training: 2$"),
        (
            write("exp/train_id.txt", "1,2,3,77,78"),
            FileNotFoundError,
            "no images of 2 of the training identities: 77, 78",
        ),
        (
            lambda root: (root / "cam2" / "5").mkdir(),
            ValueError,
            "cam2/0005 and cam2/5 are one identity's folder twice",
        ),
    ],
)
def test_a_wrong_sysu_mm01_is_told(
    sysu: Path, change: Change, error: type[Exception], message: str
) -> None:
    change(sysu)
    with pytest.raises(error, match=f"cannot read sysu_mm01 from {sysu}: ") as raised:
        read_sysu_mm01(sysu)
    problem, _, advice = str(raised.value).partition(";")
    assert advice.endswith(f"mabm census sysu_mm01 {sysu}")
    assert re.search(message, problem)


def test_a_root_at_the_wrong_level_is_told(sysu: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"root is one level too high: .* are in {sysu};"):
        read_sysu_mm01(sysu.parent)
    with pytest.raises(FileNotFoundError, match=f"root is one level too low: .* are in {sysu};"):
        read_sysu_mm01(sysu / "cam3")
    twice = sysu.parent / "twice" / "SYSU-MM01" / "SYSU-MM01"
    shutil.move(sysu, twice)
    with pytest.raises(
        FileNotFoundError, match=rf"two levels .*unpacked twice\?\): .* in {twice};"
    ):
        read_sysu_mm01(twice.parents[1])


# --------------------------------------------------------------------------------------- RegDB


@pytest.fixture
def regdb(tmp_path: Path) -> Path:
    return build_regdb(tmp_path / "RegDB")


def test_regdb_is_read_by_the_lists_of_its_trial(regdb: Path) -> None:
    trials = [read_regdb(regdb, trial=trial) for trial in (1, 2)]
    for trial, data in enumerate(trials, 1):
        assert (data.name, data.trial) == ("regdb", trial)
        for part, images in (("train", data.train), ("test", data.test)):
            expected = set()
            for kind, camera, modality in (("visible", 1, VISIBLE), ("thermal", 2, INFRARED)):
                text = (regdb / "idx" / f"{part}_{kind}_{trial}.txt").read_text()
                for line in text.splitlines():
                    path, label = line.split()
                    expected.add((path, int(label), camera, modality))
            assert names(images, regdb) == expected
        assert not set(data.train.images) & set(data.test.images)
        # Labels begin anew: identity 0 of the one is somebody else than identity 0 of the other.
        assert set(data.train.identity) == set(data.test.identity) == {0, 1}
    assert set(trials[0].train.images) != set(trials[1].train.images)


def test_regdb_cells_are_in_file_order_whatever_the_order_of_the_list(tmp_path: Path) -> None:
    root = build_regdb(tmp_path, images=4)
    expected = list(read_regdb(root, trial=1).test)
    for path in (root / "idx").iterdir():
        path.write_text("\n".join(reversed(path.read_text().splitlines())))
    data = read_regdb(root, trial=1)
    assert list(data.test) == expected
    assert_cells_are_in_file_order(data.test)


def test_lists_of_paths_may_be_written_in_many_ways(regdb: Path) -> None:
    expected = read_regdb(regdb, trial=1)
    for path in (regdb / "idx").iterdir():
        lines = path.read_text().replace("/", "\\").splitlines()
        path.write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\r\n  \r\n").encode())
    image = sorted((regdb / "Visible" / "1").iterdir())[0]
    image.rename(image.with_suffix(".BMP"))
    thermal = regdb / "idx" / "test_thermal_1.txt"
    thermal.write_bytes(thermal.read_bytes().replace(b".bmp", b".BMP"))
    found = read_regdb(regdb, trial=1)
    for before, after in ((expected.train, found.train), (expected.test, found.test)):
        assert np.array_equal(before.identity, after.identity)
        assert [Path(p).stem for p in before.images] == [Path(p).stem for p in after.images]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove("Thermal"), FileNotFoundError, "folder Thermal is missing"),
        (
            remove("idx/test_thermal_1.txt"),
            FileNotFoundError,
            "of trial 1, 1 list missing: idx/test_thermal_1.txt",
        ),
        (
            remove("Visible/2/male_front_v_00001_2.bmp"),
            FileNotFoundError,
            "_visible_1.txt lists 1 image that cannot be found: Visible/2/male_front_v_00001_2.bmp",
        ),
        (
            write("idx/train_visible_1.txt", "\nVisible/1/male_front_v_00001_1.bmp\n"),
            ValueError,
            r"train_visible_1.txt, line 2, must be a path and a label, got 'Visible/1/.*1_1.bmp'",
        ),
        (
            write("idx/train_visible_1.txt", "Visible/1/male_front_v_00001_1.bmp one"),
            ValueError,
            "line 1, must be a path and a label, got .* one'",
        ),
        (
            write("idx/test_visible_1.txt", "Visible/1/male_front_v_00001_1.bmp 0\n" * 2),
            ValueError,
            r"line 2, lists Visible/1/male_front_v_00001_1.bmp again",
        ),
        (write("idx/test_visible_1.txt", ""), ValueError, "idx/test_visible_1.txt is empty"),
        (
            lambda root: shutil.copy(
                root / "idx" / "train_visible_1.txt", root / "idx" / "test_visible_1.txt"
            ),
            ValueError,
            "trial 1 has images in both its training and its test lists: Visible/",
        ),
    ],
)
def test_a_wrong_regdb_is_told(
    regdb: Path, change: Change, error: type[Exception], message: str
) -> None:
    change(regdb)
    with pytest.raises(error, match=message):
        read_regdb(regdb, trial=1)


@pytest.mark.parametrize("trial", [0, 11, -1])
def test_regdb_has_ten_trials(regdb: Path, trial: int) -> None:
    with pytest.raises(ValueError, match=rf"trial must be in \[1, 10\], got {trial}"):
        read_regdb(regdb, trial=trial)


# ---------------------------------------------------------------------------------------- LLCM


@pytest.fixture
def llcm(tmp_path: Path) -> Path:
    return build_llcm(tmp_path / "LLCM")


def test_llcm_is_read_by_its_lists_and_folders(llcm: Path) -> None:
    data = read_llcm(llcm)

    def name(person: int, camera: int, number: int, kind: str) -> str:
        return f"{person:04}/{person:04}_c{camera:02}_s185{camera:03}_f{number:04}_{kind}.jpg"

    cells = [
        (kind, modality, camera, number)
        for kind, modality in (("vis", VISIBLE), ("nir", INFRARED))
        for camera in (1, 3, 4)
        if camera in LLCM_CAMERAS[kind]
        for number in (1, 2)
    ]
    assert names(data.train, llcm) == {
        (f"{kind}/{name(person, camera, number, kind)}", label, camera, modality)
        for label, person in enumerate((2, 4, 6))
        for kind, modality, camera, number in cells
    }
    assert names(data.test, llcm) == {
        (f"test_{kind}/cam{camera}/{name(person, camera, number, kind)}", person, camera, modality)
        for person in (1, 3)
        for kind, modality, camera, number in cells
    }
    assert (data.name, data.trial) == ("llcm", None)


def test_llcm_cells_are_in_file_order(tmp_path: Path) -> None:
    assert_cells_are_in_file_order(read_llcm(build_llcm(tmp_path, images=11)).test)


def test_a_training_image_without_a_camera_in_its_name_has_an_unknown_one(llcm: Path) -> None:
    folder = llcm / "vis" / "0002"
    old = sorted(folder.iterdir())[0].name
    (folder / old).rename(folder / "0002-first.jpg")
    path = llcm / "idx" / "train_vis.txt"
    path.write_text(path.read_text().replace(old, "0002-first.jpg"))
    train = read_llcm(llcm).train
    assert train.camera.tolist().count(UNKNOWN) == 1
    assert train.images[train.camera.tolist().index(UNKNOWN)] == folder / "0002-first.jpg"


def test_cameras_and_identities_that_llcm_has_not_are_left_out(llcm: Path) -> None:
    expected = list(read_llcm(llcm).test)
    shutil.copytree(llcm / "test_nir" / "cam1", llcm / "test_nir" / "cam3")
    shutil.copytree(llcm / "test_vis" / "cam1" / "0001", llcm / "test_vis" / "cam1" / "0008")
    assert list(read_llcm(llcm).test) == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove("test_nir"), FileNotFoundError, "folder test_nir is missing"),
        (remove("test_nir/cam9"), FileNotFoundError, "folder test_nir/cam9 is missing"),
        (remove("idx/train_nir.txt"), FileNotFoundError, "list idx/train_nir.txt is missing"),
        (remove("vis/0004"), FileNotFoundError, "train_vis.txt lists 6 images .*: .* and 1 more"),
        (write("idx/test_id.txt", "1,3,9"), FileNotFoundError, "of 1 of the test identities: 9"),
    ],
)
def test_a_wrong_llcm_is_told(
    llcm: Path, change: Change, error: type[Exception], message: str
) -> None:
    change(llcm)
    with pytest.raises(error, match=message):
        read_llcm(llcm)


# ------------------------------------------------------------------------------------- by name


def test_emoji_xm_is_a_data_set_like_the_others() -> None:
    data = read_emoji_xm()
    splits = identity_splits()
    assert (data.name, data.trial) == ("emoji_xm", None)
    assert set(data.train.identity) == set(splits.unlabeled)
    assert set(data.test.identity) == set(splits.test)
    for images in (data.train, data.test):
        assert images.images.shape == (len(images), 3, 48, 48)  # type: ignore[union-attr]
        assert np.array_equal(images.modality, np.where(images.camera <= 5, VISIBLE, INFRARED))
        assert np.array_equal(np.lexsort((images.camera, images.identity)), np.arange(len(images)))
    drawings = load_drawings()
    visible = np.isin(drawings.identity, splits.test) & (drawings.modality == VISIBLE)
    assert (data.test.modality == VISIBLE).sum() == 2 * visible.sum()


def test_read_data_calls_the_reader_of_that_name(
    sysu: Path, regdb: Path, llcm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(read_data("sysu_mm01", sysu).train) == list(read_sysu_mm01(sysu).train)
    assert list(read_data("llcm", str(llcm)).test) == list(read_llcm(llcm).test)
    assert read_data("regdb", regdb, trial=2).trial == 2
    few = lambda identities: render_identities(identities[:2])  # noqa: E731
    monkeypatch.setattr("mabm.data.emoji_xm.render_identities", few)
    assert list(read_data("emoji_xm").test) == list(read_emoji_xm().test)
    assert tuple(DATA_SETS) == ("sysu_mm01", "regdb", "llcm", "emoji_xm", "image_list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("market", None, None), "name must be one of sysu_mm01, regdb, .*, got 'market'"),
        (("emoji_xm", "data", None), "root must be None for emoji_xm, .*, got data"),
        (("emoji_xm", None, 1), "trial must be None for emoji_xm, .*, got 1"),
        (("sysu_mm01", None, None), "root must be the folder of sysu_mm01, got None"),
        (("llcm", "data", 1), "trial must be None for llcm, .*, got 1"),
        (("regdb", "data", None), r"trial must be in \[1, 10\] for regdb, got None"),
        (("llcm", "no/such/folder", None), "no/such/folder does not exist"),
        (("llcm", __file__, None), "test_data_sets.py is a file"),
    ],
)
def test_read_data_checks_what_it_is_asked(
    arguments: tuple[str, str | None, int | None], message: str
) -> None:
    name, root, trial = arguments
    with pytest.raises(ValueError, match=message):
        read_data(name, root, trial=trial)


@pytest.mark.parametrize("module", ["census", "images", "records"])
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"mabm.data.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_importing_the_data_needs_no_pillow() -> None:
    code = "import sys, mabm.data; print('PIL' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.strip() == b"False"


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    for name in mabm.data.__all__:
        value = getattr(mabm.data, name)
        assert name.isupper() or value.__doc__
