"""A data set in a folder of files: its order, what of it is read, and what is no data set."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Run, refused
from numpy.typing import NDArray

from mabm.cli.files.arrays import Source
from mabm.cli.files.inputs import read_features, read_modality
from mabm.cli.files.row_files import RowFiles

NAMES = ["1.npy", "2.npy", "10.npy", "part02.npy", "part2.npy", "part10a.npy", "part10b.npy"]
"""In the order that they are read in."""


def rows(count: int, dim: int = 3) -> NDArray[np.float32]:
    return np.arange(count * dim, dtype=np.float32).reshape(count, dim)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ``f`` of 7 files of 0 to 6 rows."""
    monkeypatch.chdir(tmp_path)
    Path("f").mkdir()
    begin = 0
    for count, name in enumerate(NAMES):
        np.save(f"f/{name}", rows(21)[begin : begin + count])
        begin += count
    Path("f/.DS_Store").touch()
    return Path("f")


def files(name: str) -> RowFiles:
    return RowFiles.of(Source.of(Path(name)))


def test_files_are_in_the_order_of_their_names(folder: Path) -> None:
    assert [each.path.name for each in files("f").files] == NAMES
    assert files("f").counts == (0, 1, 2, 3, 4, 5, 6)
    assert len(files("f")) == 21
    assert read_features(Source.of(folder), None)[0].equal(torch.from_numpy(rows(21)))


@pytest.mark.parametrize("first", range(0, 22, 3))
@pytest.mark.parametrize("last", range(0, 22, 4))
def test_consecutive_rows_are_read(folder: Path, first: int, last: int) -> None:
    if first <= last:
        found = files("f").features(slice(first, last))
        assert found.equal(torch.from_numpy(rows(21)[first:last]))
        assert found.dtype == torch.float32


def test_rows_of_one_file_are_mapped_and_others_are_not_read(folder: Path) -> None:
    opened = files("f")
    for name in NAMES[:-1]:
        Path("f", name).unlink()
    found = opened.features(slice(16, 20))
    with Path("f", NAMES[-1]).open("r+b") as stream:
        stream.seek(-3 * 6 * 4 + 3 * 4, 2)  # the second row of six
        stream.write(np.full(3, 7, np.float32).tobytes())
    assert found[0].tolist() == [7, 7, 7]  # it is the file, not a copy of it
    assert found[1:].equal(torch.from_numpy(rows(21)[17:20]))


def test_types_may_differ(folder: Path) -> None:
    np.save("f/part10b.npy", np.ones((6, 3)))
    np.save("f/part10a.npy", np.full((5, 3), 2, np.float16))
    assert files("f").features(slice(15, 21)).dtype == torch.float32
    found = files("f").features(slice(9, 17))
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == [27, 2, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("3.npy", rows(2, 4), "3.npy must have 3 columns as {}1.npy has, got 4"),
        ("3.npy", rows(2, 4)[0], "3.npy must contain (N, D) features, got shape (4,)"),
        ("3.npy", np.float32(1), "3.npy must contain (N, D) features, got shape ()"),
        ("3.npy", rows(2).astype(int), "3.npy must contain floating-point features, got int64"),
        ("3.npy", np.full((2, 3), np.inf, np.float32), "3.npy must be finite in float32, got NaN"),
        ("3.npy", np.full((2, 3), 1e200), "3.npy must be finite in float32, got NaN or Inf in row"),
        ("3.csv", None, "f must be a folder of .npy files alone, got {}3.csv"),
        ("3", None, "f must be a folder of .npy files alone, got {}3"),
        ("3.npy", None, "3.npy must be a .npy file of numbers: it does not start with the header"),
    ],
)
def test_what_is_no_data_set(
    folder: Path, run: Run, name: str, value: NDArray[np.generic] | None, message: str
) -> None:
    path = folder / name
    if value is None:
        path.write_text("1,2,3\n")
    else:
        np.save(path, value)
    err = refused(run, "cluster", "f", "--modality", "none")
    assert message.replace("{}", f"{folder}{os.sep}") in err


def test_folders_within_and_empty_ones(folder: Path, run: Run) -> None:
    Path("empty").mkdir()
    words = ("cluster", "empty", "--modality", "none")
    assert "empty must be a folder of .npy files, got an empty one" in refused(run, *words)
    Path("f/more.npy").mkdir()
    err = refused(run, "cluster", "f", "--modality", "none")
    assert f"{Path('f/more.npy')} must be a regular file, got a folder" in err


def test_a_modality_has_the_files_of_the_features(folder: Path, run: Run) -> None:
    Path("m").mkdir()
    for count, name in enumerate(NAMES):
        np.save(f"m/{name}", np.arange(count) % 2 > 0)  # bool is a modality too
    column = read_modality(Source.of(Path("m"))).numbers
    assert column.tolist() == [row % 2 for count in range(7) for row in range(count)]
    words = ("cluster", "f", "--modality", "m", "--k1", "4", "--k2", "2")
    assert run(*words)[0] == 0

    np.save("m/2.npy", np.array([0, 1, 1]))
    err = refused(run, *words)
    assert f"{Path('m/2.npy')} must have 1 values, one per row of features, got 3" in err
    np.save("m/2.npy", np.array(["visible"]))
    err = refused(run, *words)
    assert f"{Path('m/2.npy')} must contain words as" not in err  # the first has the others' type
    assert f"{Path('m/2.npy')} must contain numbers (bool) as {Path('m/1.npy')} does" in err
    np.save("m/2.npy", np.zeros((1, 1), int))
    assert f"{Path('m/2.npy')} must contain one value per row, got" in refused(run, *words)
    Path("m/2.npy").rename("m/4.npy")
    assert "m must contain files of the same names as f, got '2.npy' in f, not in m" in refused(
        run, *words
    )


def test_a_folder_is_refused_where_it_is_none(folder: Path, run: Run) -> None:
    err = refused(run, "cluster", "f", "--modality", "none", "--key", "x")
    assert "--key must be omitted for f" in err
    err = refused(run, "cluster", "f", "--modality", "none", "--output", "f/labels.npy")
    assert f"--output must not be in a folder of inputs, got {Path('f/labels.npy')}" in err


def test_assign_reads_the_same_folder(folder: Path, run: Run) -> None:
    words = ("--k1", "4", "--k2", "2", "--output")
    assert run("cluster", "f", "--modality", "none", *words, "labels.npz")[0] == 0
    words = ("assign", "f", "--features", "f", "--labels", "labels.npz", "--output", "new.npy")
    assert run(*words)[0] == 0
    with np.load("labels.npz") as kept:
        np.testing.assert_array_equal(np.load("new.npy"), kept["labels"])
