"""Snapshots: searches shown are those that are scored, chosen without a hand in it."""

import numpy as np
import pytest
import torch

from mabm.evaluation import SEARCH_TASKS, RetrievalProtocol, SearchTask
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot


def read(rows: list[int]) -> np.ndarray:
    return np.zeros((len(rows), 3, 4, 4), dtype=np.uint8)


def random_images(seed: int, count: int = 60) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32)
    modality = rng.integers(0, 2, count)
    camera = 1 + 2 * rng.integers(0, 2, count) + modality  # 1, 3 visible; 2, 4 infrared
    return features, rng.integers(0, 8, count), camera, modality


TASK = SearchTask(
    "none",
    "infrared-to-visible",
    1,
    0,
    RetrievalProtocol("odd", excluded_cameras=((2, 3),), exclude_same_camera=True),
)


@pytest.mark.parametrize("seed", range(3))
def test_search_equals_brute_force(seed: int) -> None:
    features, identity, camera, modality = random_images(seed)
    expected = []
    gallery = np.flatnonzero(modality == 0)
    for query in np.flatnonzero(modality == 1):
        kept = [row for row in gallery if (camera[query], camera[row]) != (2, 3)]
        kept.sort(key=lambda row: (-float(features[row] @ features[query]), row))
        right = [identity[row] == identity[query] for row in kept]
        if any(right):
            hits = np.flatnonzero(right)
            precision = float(np.mean([(n + 1) / (hit + 1) for n, hit in enumerate(hits)]))
            expected.append((-round(precision, 9), query, kept[:12], right[:12]))
    expected.sort(key=lambda found: found[:2])
    shown = RetrievalSnapshot.from_search(
        features, identity, camera, modality, task=TASK, read=read, num_queries=99, num_shown=12
    )
    assert shown.query.tolist() == [query for _, query, _, _ in expected]
    for ranked, right, (_, _, rows, hits) in zip(shown.ranked, shown.right, expected, strict=True):
        assert ranked.tolist() == [*rows, *[-1] * (12 - len(rows))]
        assert right.tolist() == [*hits, *[False] * (12 - len(hits))]
    assert f"{len(expected)} of {len(expected)} queries" in shown.caption
    assert f"gallery of {len(gallery)} images" in shown.caption


def test_few_queries_run_from_best_to_worst() -> None:
    arrays = random_images(5)
    every = RetrievalSnapshot.from_search(*arrays, task=TASK, read=read, num_queries=999)
    few = RetrievalSnapshot.from_search(*map(torch.from_numpy, arrays), task=TASK, read=read)
    assert len(few.query) == 8
    assert few.ranked.shape == (8, 10)
    places = [every.query.tolist().index(row) for row in few.query.tolist()]
    assert places[0] == 0
    assert places[-1] == len(every.query) - 1
    assert set(np.diff(places)) <= {(len(every.query) - 1) // 7, (len(every.query) - 1) // 7 + 1}


def test_gallery_is_that_of_trial_0() -> None:
    task = SEARCH_TASKS["sysu_mm01"][0]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 5)).astype(np.float32)
    identity, camera = np.arange(120) % 5, 1 + np.arange(120) // 5 % 6
    modality = np.isin(camera, (3, 6)).astype(np.int64)
    shown = RetrievalSnapshot.from_search(
        features, identity, camera, modality, task=task, read=read, num_shown=99
    )
    assert shown.task == "all-search"
    assert shown.ranked.shape[1] == 20  # one of each of 5 identities in each of 4 cameras
    rows = shown.ranked[shown.ranked >= 0]
    cells = {(identity[row], camera[row]) for row in rows}
    assert len(cells) == len(set(rows.tolist())) == 20
    for query, ranked in zip(shown.query, shown.ranked, strict=True):
        seen = set(camera[ranked[ranked >= 0]].tolist())
        assert seen == ({1, 4, 5} if camera[query] == 3 else {1, 2, 4, 5})
    assert shown.caption.endswith("gallery of 20 images (trial 0)")


@pytest.mark.parametrize("matches", [False, True])
def test_nothing_to_show(matches: bool) -> None:
    features = np.eye(4, dtype=np.float32)
    identity = np.array([0, 1, 2, 3])
    modality = np.array([1, 1, 0, 0]) if not matches else np.ones(4, dtype=np.int64)
    camera = modality + 5
    shown = RetrievalSnapshot.from_search(
        features, identity, camera, modality, task=TASK, read=read
    )
    assert len(shown.query) == len(shown.ranked) == len(shown.right) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query must be \(Q,\), ranked and right \(Q, R\), got"):
        RetrievalSnapshot("x", np.zeros(2), np.zeros((3, 2)), np.zeros((3, 2), bool), read)
    features, labels = np.eye(4, dtype=np.float32), np.zeros(4, np.int64)
    ClusteringSnapshot(features, labels, labels, read)
    with pytest.raises(ValueError, match=r"identity must be \(4,\), one per row of features"):
        ClusteringSnapshot(features, labels, labels, read, identity=labels[:3])
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        ClusteringSnapshot(features[0], labels, labels, read)
    with pytest.raises(TypeError, match="labels must be integers"):
        ClusteringSnapshot(features, features[0], labels, read)
