"""Searches run by name alone, on miniature trees, against loops over folders and images."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from miniature_trees import build_llcm, build_sysu

import mabm
from mabm.data import ImageSet, read_data

Sample = tuple[str, int, int]
"""File name, identity and camera of an image."""


@pytest.fixture(autouse=True)
def _python_random() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


def features_of(images: ImageSet) -> np.ndarray:
    """Random features, nearer to those of the same identity."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(int(images.identity.max()) + 1, 8))
    rows = centers[images.identity] + rng.normal(size=(len(images), 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def images_in(
    root: Path, folders: list[str], people: list[str], how_many: int | None
) -> list[Sample]:
    """Images of every identity in every folder: some, drawn, or all of them."""
    found: list[Sample] = []
    for person in people:
        for folder in folders:
            place = root / folder / person
            if not place.is_dir():
                continue
            names = sorted(os.listdir(place))
            if how_many == 1:
                names = [random.choice(names)]
            elif how_many is not None:
                names = random.sample(names, how_many)
            found += [(f"{folder}/{person}/{name}", int(person), int(folder[-1])) for name in names]
    return found


def slow_scores(
    similarity: Callable[[Sample, Sample], float],
    queries: list[Sample],
    gallery: list[Sample],
    leaves_out: Callable[[Sample, Sample], bool],
) -> tuple[float, float, float, float]:
    """Rank-1 and rank-5 over identities, mAP and mINP over images, by the definitions."""
    firsts, precisions, penalties = [], [], []
    for query in queries:
        compared = [other for other in gallery if not leaves_out(query, other)]
        ranked = sorted(compared, key=lambda other: -similarity(query, other))
        right = [place for place, other in enumerate(ranked, 1) if other[1] == query[1]]
        if not right:
            continue
        seen = list(dict.fromkeys(other[1] for other in ranked))
        firsts.append(seen.index(query[1]))
        precisions.append(np.mean([number / place for number, place in enumerate(right, 1)]))
        penalties.append(len(right) / right[-1])
    places = np.array(firsts)
    ranks = float(np.mean(places < 1)), float(np.mean(places < 5))
    return *ranks, float(np.mean(precisions)), float(np.mean(penalties))


def check(
    task: mabm.SearchTask,
    root: Path,
    images: ImageSet,
    draw: Callable[[], tuple[list[Sample], list[Sample]]],
    leaves_out: Callable[[Sample, Sample], bool],
) -> None:
    """Compares every trial of a task with the loops."""
    features = features_of(images)
    row = {str(path.relative_to(root)): number for number, path in enumerate(images.images)}
    found = mabm.evaluate_search(
        features, images.identity, images.camera, images.modality, task=task
    )
    product = features.astype(np.float64) @ features.T.astype(np.float64)
    assert found.trials == tuple(range(10))
    for trial in range(10):
        random.seed(trial)
        queries, gallery = draw()
        expected = slow_scores(
            lambda one, other: float(product[row[one[0]], row[other[0]]]),
            queries,
            gallery,
            leaves_out,
        )
        cmc = found.cmc[trial]
        scores = (
            cmc[0],
            cmc[4],
            found.mean_average_precision[trial],
            found.mean_inverse_negative_penalty[trial],
        )
        assert scores == pytest.approx(expected, abs=1e-12)
    assert found.std["mAP"] > 0
    assert 0.1 < found.mean["rank1"] < 1


@pytest.mark.parametrize(("place", "cameras"), [(0, (1, 2, 4, 5)), (1, (1, 2))])
def test_ten_shots_of_sysu(place: int, cameras: tuple[int, ...], tmp_path: Path) -> None:
    root = build_sysu(tmp_path, test=6, images=12, size=(6, 4))
    images = read_data("sysu_mm01", root).test
    people = sorted({f"{person:04}" for person in images.identity.tolist()})
    visible = [f"cam{camera}" for camera in cameras]

    def draw() -> tuple[list[Sample], list[Sample]]:
        queries = images_in(root, ["cam3", "cam6"], people, None)
        gallery = images_in(root, visible, people, 10)
        assert len(gallery) > 10 * len(people)
        return queries, gallery

    check(
        mabm.MORE_SEARCH_TASKS["sysu_mm01"][place],
        root,
        images,
        draw,
        lambda query, other: query[2] == 3 and other[2] == 2,
    )


def test_roles_of_llcm_as_released(tmp_path: Path) -> None:
    root = build_llcm(tmp_path, test=6, images=3, cameras=(1, 2, 3, 4), size=(6, 4))
    images = read_data("llcm", root).test
    people = sorted({f"{person:04}" for person in images.identity.tolist()})
    infrared = [f"test_nir/cam{camera}" for camera in (1, 2, 4, 5, 6, 7, 8, 9)]
    visible = [f"test_vis/cam{camera}" for camera in range(1, 10)]

    def draw() -> tuple[list[Sample], list[Sample]]:
        # The script draws the infrared side as a gallery, and then searches from it.
        return images_in(root, infrared, people, 1), images_in(root, visible, people, None)

    check(
        mabm.MORE_SEARCH_TASKS["llcm"][0],
        root,
        images,
        draw,
        lambda query, other: query[1:] == other[1:],
    )
