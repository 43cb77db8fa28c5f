"""Snapshots: searches shown are those that are scored, chosen without a hand in it."""

import numpy as np
import pytest
import torch

from mabm.evaluation import SEARCH_TASKS, RetrievalProtocol, SearchTask
from mabm.report.snapshots import BEST, BETWEEN, WORST, ClusteringSnapshot, RetrievalSnapshot


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


def brute_force(seed: int) -> list[tuple[float, int, list[int], list[bool], int]]:
    """(-AP, query, ranked gallery, right, rank of the first match), best first, by hand."""
    features, identity, camera, modality = random_images(seed)
    found = []
    gallery = np.flatnonzero(modality == 0)
    for query in np.flatnonzero(modality == 1).tolist():
        kept = [row for row in gallery if (camera[query], camera[row]) != (2, 3)]
        kept.sort(key=lambda row: (-float(features[row] @ features[query]), row))
        right = [bool(identity[row] == identity[query]) for row in kept]
        if any(right):
            hits = np.flatnonzero(right)
            precision = float(np.mean([(n + 1) / (hit + 1) for n, hit in enumerate(hits)]))
            found.append((-round(precision, 9), query, kept, right, int(hits[0]) + 1))
    return sorted(found, key=lambda each: each[:2])


@pytest.mark.parametrize("seed", range(3))
def test_search_equals_brute_force(seed: int) -> None:
    features, identity, camera, modality = random_images(seed)
    expected = {found[1]: found for found in brute_force(seed)}
    shown = RetrievalSnapshot.from_search(
        features, identity, camera, modality, task=TASK, read=read, num_shown=12
    )
    assert len(shown.query) >= 8
    for query, ranked, right, facts in zip(
        shown.query.tolist(), shown.ranked, shown.right, shown.facts, strict=True
    ):
        precision, _, rows, hits, first = expected[query]
        assert ranked.tolist() == [*rows[:12], *[-1] * (12 - len(rows))]
        assert right.tolist() == [*hits[:12], *[False] * (12 - len(hits))]
        assert facts == f"AP {-100 * precision:.1f} %, first match at rank {first}"
    assert f"{len(expected)} queries with a match" in shown.caption
    assert f"a gallery of {(modality == 0).sum()} images" in shown.caption


@pytest.mark.parametrize("seed", range(3, 6))
def test_the_best_the_quartiles_and_the_worst_are_shown(seed: int) -> None:
    features, identity, camera, modality = random_images(seed)
    found = brute_force(seed)
    shown = RetrievalSnapshot.from_search(
        *map(torch.from_numpy, (features, identity, camera, modality)),
        task=TASK,
        read=read,
        num_each=3,
    )
    queries = [each[1] for each in found]
    worst_first = [each[1] for each in sorted(found, key=lambda each: (-each[0], each[1]))]

    def first_of_each(rows: list[int]) -> list[int]:
        people = [identity[row] for row in rows]
        return [row for place, row in enumerate(rows) if people[place] not in people[:place]][:3]

    best = first_of_each(queries)
    worst = first_of_each([row for row in worst_first if row not in best])
    quartiles = [queries[len(queries) * part // 4] for part in (1, 2, 3)]
    between = [row for row in quartiles if row not in best + worst]
    assert shown.query.tolist() == best + between + worst
    assert shown.group == [BEST] * 3 + [BETWEEN] * len(between) + [WORST] * 3
    assert len(set(identity[best])) == len(set(identity[worst])) == 3


def search(ranks: list[int], **options: int) -> RetrievalSnapshot:
    """A search of one query for each rank, whose only match is found there."""
    num_queries, num_gallery = len(ranks), max(ranks) + len(ranks)
    features = np.zeros((num_queries + num_gallery, num_queries), dtype=np.float32)
    features[:num_queries] = np.eye(num_queries)
    identity = np.arange(num_queries + num_gallery)
    gallery = features[num_queries:]
    for query, rank in enumerate(ranks):
        # Those that come before the match are nearer: 1 at the match, 2 at the ranks above it.
        match = num_queries + query
        identity[match] = query
        gallery[query, query] = 1
        others = [row for row in range(num_gallery) if row != query][: rank - 1]
        gallery[others, query] = 2
    modality = (np.arange(len(identity)) < num_queries).astype(np.int64)
    return RetrievalSnapshot.from_search(
        features, identity, modality + 5, modality, task=TASK, read=read, **options
    )


@pytest.mark.parametrize(
    ("ranks", "query", "group"),
    [
        ([3], [0], [BEST]),
        ([3, 1], [1, 0], [BEST, WORST]),
        ([1, 1], [0, 1], [BEST, BETWEEN]),
        ([4, 1, 2], [1, 2, 0], [BEST, BETWEEN, WORST]),
        ([4, 1, 2, 3], [1, 2, 0, 3], [BEST, BEST, WORST, WORST]),
    ],
)
def test_few_queries_are_the_best_and_the_worst(
    ranks: list[int], query: list[int], group: list[str]
) -> None:
    shown = search(ranks)
    assert shown.query.tolist() == query
    assert list(shown.group) == group


def test_of_a_perfect_search_none_is_worst() -> None:
    shown = search([1] * 12, num_each=2)
    assert shown.query.tolist() == [0, 1, 3, 6, 9]
    assert shown.group == [BEST] * 2 + [BETWEEN] * 3
    assert all(facts.startswith("AP 100.0 %") for facts in shown.facts)


def test_none_of_the_worst_scores_as_the_best() -> None:
    shown = search([1, 1, 1, 1, 1, 1, 2, 1], num_each=3)
    assert [q for q, name in zip(shown.query, shown.group, strict=True) if name == WORST] == [6]


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
    rows = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="facts must be empty or 2 words, got 1"):
        RetrievalSnapshot("x", rows[0], rows, rows > 0, read, facts=["one"])
    features, labels = np.eye(4, dtype=np.float32), np.zeros(4, np.int64)
    ClusteringSnapshot(features, labels, labels, read)
    with pytest.raises(ValueError, match=r"identity must be \(4,\), one per row of features"):
        ClusteringSnapshot(features, labels, labels, read, identity=labels[:3])
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        ClusteringSnapshot(features[0], labels, labels, read)
    with pytest.raises(TypeError, match="labels must be integers"):
        ClusteringSnapshot(features, features[0], labels, read)
