"""Copies of data sets that differ from the original layout, and are read like the original."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniature_trees import build_llcm, build_regdb, build_sysu
from PIL import Image
from prepared_trees import prepare_regdb, prepare_sysu
from scipy.io import savemat

from mabm.data import ImageSet, ReidData, read_data, take_census

Columns = tuple[list[int], list[int], list[int], list[bytes]]


def columns(images: ImageSet) -> Columns:
    """Identity, camera, modality and content of the images, in their order."""
    content = [Path(path).read_bytes() for path in images.images]
    return images.identity.tolist(), images.camera.tolist(), images.modality.tolist(), content


def is_same(found: ReidData, original: ReidData) -> bool:
    return all(
        columns(getattr(found, part)) == columns(getattr(original, part))
        for part in ("train", "test")
    )


def test_prepared_sysu_is_the_original(tmp_path: Path) -> None:
    original = build_sysu(tmp_path / "original")
    root = prepare_sysu(original, tmp_path / "prepared")
    found = read_data("sysu_mm01", root)
    assert is_same(found, read_data("sysu_mm01", original))
    assert {path.parts[-3] for path in found.train.images} == {"ir_modify", "rgb_modify"}
    census, expected = take_census("sysu_mm01", root), take_census("sysu_mm01", original)
    assert census.problems == ()
    counts = [{row.what: row.found for row in each.rows} for each in (census, expected)]
    assert counts[0].pop("identities in no list") == 0
    assert counts[1].pop("identities in no list") == 1
    assert counts[0] == counts[1]
    (root / "ir_modify").rename(root / "IR_modify")
    assert is_same(read_data("sysu_mm01", root), read_data("sysu_mm01", original))
    # Beside the original images, these are read.
    for folder in ("IR_modify", "rgb_modify"):
        shutil.move(root / folder, original / folder)
    assert {path.parts[-3][:3] for path in read_data("sysu", original).train.images} == {"cam"}


def test_prepared_regdb_is_the_original(tmp_path: Path) -> None:
    original = build_regdb(tmp_path / "original")
    root = prepare_regdb(original, tmp_path / "prepared")
    for trial in (1, 2):
        assert is_same(
            read_data("regdb", root, trial=trial), read_data("regdb", original, trial=trial)
        )
    for trial in (1, 2):
        census = take_census("regdb", root, trial=trial)
        expected = take_census("regdb", original, trial=trial)
        assert [row.found for row in census.rows] == [row.found for row in expected.rows]
        assert census.problems == ()
    with pytest.raises(
        FileNotFoundError, match=r"folder rgb_modify/3/bounding_box_train, .* is mi"
    ):
        read_data("regdb", root, trial=3)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ir_modify", "the root is one level too low: ir_modify, rgb_modify are in"),
        ("rgb_modify/query", "the root is two levels too low: ir_modify, rgb_modify are in"),
        ("..", "the root is one level too high: ir_modify, rgb_modify are in"),
    ],
)
def test_a_part_of_a_prepared_tree_is_told_where_its_root_is(
    place: str, words: str, tmp_path: Path
) -> None:
    root = prepare_sysu(build_sysu(tmp_path / "original"), tmp_path / "data" / "prepared")
    with pytest.raises(FileNotFoundError) as failure:
        read_data("sysu_mm01", root / place)
    assert words in str(failure.value)
    assert str(root) in str(failure.value)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda root: shutil.rmtree(root / "ir_modify" / "query"), FileNotFoundError,
         "folder ir_modify/query is missing"),
        (lambda root: shutil.rmtree(root / "ir_modify"), FileNotFoundError,
         "folder ir_modify/bounding_box_train, ir_modify/bounding_box_test, ir_modify/query is"),
        (lambda root: (root / "ir_modify/query/0005_c1_0009.jpg").touch(), ValueError,
         "ir_modify/query has images whose names do not begin with an identity and a camera of"),
        (lambda root: (root / "rgb_modify/query/photo.jpg").touch(), ValueError, "photo.jpg"),
        (lambda root: (root / "rgb_modify/query/0001_c1_0001.jpg").touch(), ValueError,
         "identities are in training and in test: 1"),
    ],
)  # fmt: skip
def test_a_prepared_tree_with_something_wrong_is_refused(
    change: Callable[[Path], object], error: type[Exception], words: str, tmp_path: Path
) -> None:
    root = prepare_sysu(build_sysu(tmp_path / "original"), tmp_path / "prepared")
    change(root)
    with pytest.raises(error, match=words):
        read_data("sysu_mm01", root)
    assert any(words in problem for problem in take_census("sysu_mm01", root).problems)


LISTS = ("train_id", "val_id", "test_id", "available_id")


def with_matrices(root: Path) -> Path:
    """Turns the lists of identities into files of MATLAB."""
    for name in LISTS:
        file = root / "exp" / f"{name}.txt"
        ids = np.array([[int(word) for word in file.read_text().split(",")]], dtype=np.float64)
        savemat(file.with_suffix(".mat"), {"id": ids})
        file.unlink()
    return root


def test_lists_of_sysu_are_read_from_matlab_alone(tmp_path: Path) -> None:
    root = build_sysu(tmp_path / "original")
    expected = read_data("sysu_mm01", root)
    with_matrices(root)
    assert is_same(read_data("sysu_mm01", root), expected)
    assert take_census("sysu_mm01", root).problems == ()
    # A list of text comes first.
    (root / "exp" / "test_id.txt").write_text("5\n")
    assert set(read_data("sysu_mm01", root).test.identity) == {5}


def test_a_matlab_list_that_cannot_be_read_says_what_is_read_in_its_place(tmp_path: Path) -> None:
    root = with_matrices(build_sysu(tmp_path))
    file = root / "exp" / "val_id.mat"
    file.write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(ValueError, match=r"exp/val_id\.mat cannot be read \(.*exp/val_id\.txt"):
        read_data("sysu_mm01", root)
    savemat(file, {"ids": np.array([[4.0]])})
    with pytest.raises(ValueError, match=r"exp/val_id\.mat cannot be read"):
        read_data("sysu_mm01", root)
    for wrong in ([[4.5]], [[-4.0]], [[]], [["a"]]):
        savemat(file, {"id": np.array(wrong)})
        with pytest.raises(ValueError, match=r"exp/val_id\.mat"):
            read_data("sysu_mm01", root)


def test_regdb_is_read_in_lower_case(tmp_path: Path) -> None:
    expected = read_data("regdb", build_regdb(tmp_path / "original"), trial=1)
    root = build_regdb(tmp_path / "lower")
    for name in ("Visible", "Thermal"):
        (root / name).rename(root / name.lower())
    assert is_same(read_data("regdb", root, trial=1), expected)
    assert take_census("regdb", root, trial=1).problems == ()
    with pytest.raises(FileNotFoundError, match="one level too high: idx, Visible, Thermal are in"):
        read_data("regdb", tmp_path / "lower" / "..", trial=1)


@pytest.mark.parametrize("suffix", [".jpg", ".PNG"])
def test_regdb_is_read_from_converted_images(suffix: str, tmp_path: Path) -> None:
    root = build_regdb(tmp_path)
    expected = read_data("regdb", root, trial=1)
    for file in list(root.glob("*/*/*.bmp")):
        Image.open(file).save(file.with_suffix(suffix))
        file.unlink()
    found = read_data("regdb", root, trial=1)
    for part in ("train", "test"):
        was, now = getattr(expected, part), getattr(found, part)
        assert now.images == tuple(path.with_suffix(suffix) for path in was.images)
        assert (now.identity == was.identity).all()
        assert (now.modality == was.modality).all()
    (problem, *_) = take_census("regdb", root, trial=1).problems
    assert " images that are in another format: " in problem
    assert suffix in problem
    assert problem.endswith("(they are read)")


def test_the_format_of_the_list_comes_first(tmp_path: Path) -> None:
    root = build_regdb(tmp_path)
    expected = read_data("regdb", root, trial=1)
    file = next(root.glob("Visible/1/*.bmp"))
    Image.open(file).save(file.with_suffix(".jpg"))
    assert is_same(read_data("regdb", root, trial=1), expected)
    assert any(
        "1 image in no list" in each for each in take_census("regdb", root, trial=1).problems
    )


def test_folders_of_llcm_are_read_in_any_case(tmp_path: Path) -> None:
    expected = read_data("llcm", build_llcm(tmp_path / "original"))
    root = build_llcm(tmp_path / "other")
    (root / "vis").rename(root / "Vis")
    (root / "test_nir").rename(root / "test_NIR")
    assert is_same(read_data("llcm", root), expected)
