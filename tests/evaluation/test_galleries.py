"""Galleries: those that Python's own ``random`` draws, without touching it."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature_trees import build_llcm, build_sysu

import mabm
from mabm.data import VISIBLE, read_data

CAMERAS = (1, 2, 4, 5)


@pytest.fixture
def _python_random() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


def files() -> dict[tuple[int, int], list[str]]:
    """File names of (identity, camera), sorted; some cells are missing, one has a single file."""
    rng = np.random.default_rng(0)
    cells = {}
    for person in rng.permutation(np.arange(3, 63)).tolist():
        for camera in range(1, 7):
            if rng.random() < 0.8:
                count = int(rng.integers(1, 40))
                cells[person, camera] = [f"{n:04d}.jpg" for n in range(1, count + 1)]
    return cells


def columns(
    cells: dict[tuple[int, int], list[str]],
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, str]]]:
    """Identity, camera and (identity, camera, name) of every row; the cells in a shuffled order."""
    names = [(*cell, name) for cell, group in cells.items() for name in group]
    return np.array([n[0] for n in names]), np.array([n[1] for n in names]), names


def drawn_by_python(
    cells: dict[tuple[int, int], list[str]], cameras: tuple[int, ...], trial: int
) -> list[tuple[int, int, str]]:
    """The definition, with the generator of the process."""
    random.seed(trial)
    found = []
    for person in sorted({person for person, _ in cells}):
        for camera in cameras:
            if (person, camera) in cells:
                found.append((person, camera, random.choice(sorted(cells[person, camera]))))
    return found


@pytest.mark.usefixtures("_python_random")
@pytest.mark.parametrize("cameras", [CAMERAS, (1, 2), (5, 2, 1), (6,)])
def test_equal_to_what_python_draws(cameras: tuple[int, ...]) -> None:
    cells = files()
    identity, camera, names = columns(cells)
    seen = set()
    for trial in range(10):
        expected = drawn_by_python(cells, cameras, trial)
        rows = mabm.draw_gallery(identity, camera, cameras=cameras, trial=trial)
        assert rows.dtype == np.int64
        assert [names[row] for row in rows] == expected
        seen.add(tuple(rows.tolist()))
    assert len(seen) == 10


@pytest.mark.usefixtures("_python_random")
@pytest.mark.parametrize("num_images", [1, 3, 10])
def test_several_of_each_are_what_python_samples(num_images: int) -> None:
    cells = files()
    identity, camera, names = columns(cells)
    for trial in range(10):
        random.seed(trial)
        expected = []
        for person in sorted({person for person, _ in cells}):
            for number in CAMERAS:
                there = sorted(cells.get((person, number), []))
                drawn = random.sample(there, min(num_images, len(there)))
                expected += [(person, number, name) for name in drawn]
        rows = mabm.draw_gallery(
            identity, camera, cameras=CAMERAS, trial=trial, num_images=num_images
        )
        assert [names[row] for row in rows] == expected
        assert len(set(rows.tolist())) == len(rows)


@pytest.mark.usefixtures("_python_random")
def test_random_state_is_left_alone_and_plays_no_part() -> None:
    identity, camera, _ = columns(files())
    before = random.getstate()
    first = mabm.draw_gallery(identity, camera, cameras=CAMERAS, trial=3)
    assert random.getstate() == before
    random.random()
    np.testing.assert_array_equal(
        mabm.draw_gallery(identity, camera, cameras=CAMERAS, trial=3), first
    )


def test_tensors_in_tensors_out() -> None:
    identity, camera, _ = columns(files())
    rows = mabm.draw_gallery(
        torch.from_numpy(identity), torch.from_numpy(camera), cameras=CAMERAS, trial=0
    )
    expected = mabm.draw_gallery(identity, camera, cameras=CAMERAS, trial=0)
    assert rows.tolist() == expected.tolist()


def test_nothing_to_draw_from() -> None:
    rows = mabm.draw_gallery(np.array([1, 2]), np.array([3, 3]), cameras=(1, 2), trial=0)
    assert rows.shape == (0,)
    assert rows.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"identity": "12"}, TypeError, "identity must be a tensor, an array, a list or a Series"),
        ({"identity": np.zeros(2)}, TypeError, "identity must be integers, one per row"),
        ({"camera": np.array([1])}, ValueError, r"camera must be \(2,\), one per row of identity"),
        ({"cameras": (1, 1)}, ValueError, r"cameras must not repeat, got \(1, 1\)"),
        ({"cameras": ("1",)}, TypeError, "cameras must be an integer, got str: '1'"),
        ({"trial": -1}, ValueError, "trial must be at least 0, got -1"),
        ({"trial": 1.0}, TypeError, "trial must be an integer, got float"),
        ({"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"identity": np.array([1, 2]), "camera": np.array([1, 1]), "cameras": (1,), "trial": 0}
    with pytest.raises(error, match=message):
        mabm.draw_gallery(**{**good, **change})


@pytest.mark.usefixtures("_python_random")
@pytest.mark.parametrize("name", ["sysu_mm01", "llcm"])
def test_equal_to_what_python_draws_from_folders(name: str, tmp_path: Path) -> None:
    build, folders = {
        "sysu_mm01": (build_sysu, {camera: f"cam{camera}" for camera in CAMERAS}),
        "llcm": (build_llcm, {camera: f"test_vis/cam{camera}" for camera in range(1, 10)}),
    }[name]
    root = build(tmp_path, test=5, images=7)
    images = read_data(name, root).test
    visible = np.flatnonzero(images.modality == VISIBLE)
    people = sorted(set(images.identity.tolist()))
    for trial in range(10):
        random.seed(trial)
        expected = []
        for person in people:
            for folder in folders.values():
                place = root / folder / f"{person:04d}"
                if place.is_dir():
                    expected.append(place / random.choice(sorted(os.listdir(place))))
        rows = mabm.draw_gallery(
            images.identity[visible], images.camera[visible], cameras=tuple(folders), trial=trial
        )
        drawn = [images.images[row] for row in visible[rows]]
        assert [path.name for path in drawn] == [path.name for path in expected]
        assert [path.parent.name for path in drawn] == [path.parent.name for path in expected]
