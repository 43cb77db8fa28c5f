"""Valid but unlikely inputs are reported in the log, once, with a suggestion."""

import logging
import re
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from devices import Device

import mabm
from mabm._core import advice
from mabm.cluster.pseudo_labels import advise_on_sizes
from mabm.compat.reranking import re_ranking

Logged = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Generator[Logged, None, None]:
    """The warnings since the last call; each test may log all kinds again."""
    advice.forget()

    def since() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return found

    with caplog.at_level(logging.WARNING, "mabm"):
        yield since
    advice.forget()


def people(num_people: int, num_each: int, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N, 64) unit rows of some people, one after the other."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num_people, 64)).repeat(num_each, axis=0)
    rows = centers + noise * rng.normal(size=centers.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


FEATURES = people(20, 10)
MODALITY = np.arange(200) % 2
USUAL: dict[str, Any] = {"k1": 20, "k2": 4}


def test_usual_settings_give_no_warning(device: Device, logged: Logged) -> None:
    halves = (FEATURES + people(20, 10, seed=1)) / 2  # means of unit vectors: 0.7 to 1 long
    for features in (FEATURES, halves, 7.5 * FEATURES):
        found = mabm.pseudo_labels(device.put(features), device.put(MODALITY), **USUAL)
        assert repr(found)
        assert len(mabm.pseudo_labels(device.put(features), k1=20, k2=4).labels) == 200
    mabm.rerank(device.put(FEATURES[:1]), device.put(FEATURES[1:]), [0], [1] * 199)
    assert logged() == []


@pytest.mark.parametrize(
    ("modality", "preset", "k1", "usual_k1", "message"),
    [
        (MODALITY, None, 102, 100, "k1 = 102, 51 for each modality, is more than half of the 100"),
        (MODALITY + 3, None, 102, 100, "of the 100 samples of modality 3: lists this long"),
        (np.arange(200) // 190, None, 12, 10, "6 for each modality, is more than half of the 10"),
        (np.arange(200) // 190, None, 12, 10, "of modality 1: .* try k1 = 10 or less, about as"),
        (None, None, 101, 100, "k1 = 101 is more than half of the 200 .* try k1 = 100 or less"),
        (MODALITY, "modal_invariant", 101, 100, "k1 = 101 is more than half of the 200 samples: "),
        (np.arange(200) // 199, None, 2, None, "of the 1 samples .* leave that modality out$"),
    ],
)
def test_lists_that_take_most_of_a_group(
    modality: Any, preset: str | None, k1: int, usual_k1: int | None, message: str, logged: Logged
) -> None:
    for call in (mabm.jaccard_graph, mabm.modality_jaccard, mabm.encode_samples):
        advice.forget()
        if usual_k1 is not None:
            call(FEATURES, modality, k1=usual_k1, k2=2, preset=preset)
            assert logged() == []
        call(FEATURES, modality, k1=k1, k2=2, preset=preset)
        (found,) = logged()
        assert re.search(message, found), found


def test_re_ranking_compares_k1_with_all_samples(logged: Logged) -> None:
    mabm.rerank(FEATURES[:5], FEATURES[5:30], k1=16)
    (found,) = logged()
    assert found.startswith("k1 = 16 is more than half of the 30 samples: ")


@pytest.mark.parametrize("call", [mabm.pseudo_labels, mabm.modality_jaccard, mabm.rank_neighbors])
def test_lengths_that_differ_widely(
    device: Device, call: Callable[..., Any], logged: Logged
) -> None:
    lengths = np.linspace(1, 3, 200, dtype=np.float32)
    features = device.put(FEATURES * lengths[:, None])
    call(features, device.put(MODALITY), k1=20)
    (found,) = logged()
    low, high = np.sort(lengths)[[9, 190]]
    assert f"from {low:.3g} (5th percentile) to {high:.3g} (95th)" in found
    assert "they are ranked by inner product" in found
    assert "torch.nn.functional.normalize(features, dim=1)" in found
    advice.forget()
    call(features, k1=20)  # by Euclidean distance
    call(device.put(FEATURES * np.linspace(1, 2, 200, dtype=np.float32)[:, None]), k1=20)
    assert logged() == []


def test_lengths_of_many_samples_are_judged_by_some(device: Device, logged: Logged) -> None:
    directions = np.random.default_rng(0).normal(size=(9000, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.linspace(1, 3, 9000)
    features = (directions * lengths[:, None]).astype(np.float32)
    mabm.rank_neighbors(device.put(features), device.put(np.arange(9000) % 2), k1=4)
    (found,) = logged()
    match = re.search(r"from (\S+) \(5th percentile\) to (\S+) \(95th\)", found)
    assert match is not None
    found_lengths = [float(number) for number in match.groups()]
    np.testing.assert_allclose(found_lengths, np.percentile(lengths, [5, 95]), rtol=0.01)


def test_one_cluster_of_an_absurd_share(device: Device, logged: Logged) -> None:
    crowd = people(1, 60, noise=0.05, seed=5)
    features = device.put(np.concatenate([people(60, 5, noise=0.01), crowd]))
    found = mabm.pseudo_labels(features, k1=20, k2=4, eps=0.6, min_samples=2)
    assert found.num_clusters == 61
    (message,) = logged()
    assert message.startswith("one of 61 clusters has 59 of 360 samples (16 %), while half of the ")
    assert "at most 5: it may contain several people; try a lower eps" in message
    assert "NeighborGraph.sweep" in message


SIZES = {
    "equal clusters": ([100] * 3, False),
    "two clusters": ([60, 60], False),
    "one of nine tenths beside another": ([90, 10], False),
    "a small one of all": ([40], False),
    "a large one alone": ([60], True),
    "a large one with much noise": ([60, -70], False),
    "a large one among many": ([300, *[10] * 50], True),
    "twice the median": ([200, *[100] * 10], False),
    "a share below a twentieth": ([100, *[10] * 300], False),
}


@pytest.mark.parametrize(("sizes", "warns"), SIZES.values(), ids=SIZES)
def test_few_equal_clusters_give_no_warning(sizes: list[int], warns: bool, logged: Logged) -> None:
    labels = np.concatenate(
        [np.full(abs(size), -1 if size < 0 else place) for place, size in enumerate(sizes)]
    )
    advice.forget()
    advise_on_sizes(torch.tensor([size for size in sizes if size > 0]), len(labels))
    assert len(logged()) == warns
    assert mabm.PseudoLabels(labels).num_clusters == sum(size > 0 for size in sizes)
    assert logged() == []  # labels by hand have no eps


def evaluated(distance: Any, ids: np.ndarray) -> mabm.RetrievalScores[Any]:
    return mabm.evaluate_retrieval(
        distance, ids[: len(distance)], ids[len(distance) :], protocol="regdb"
    )


IDS = np.random.default_rng(3).permutation(np.arange(20).repeat(10))
SHUFFLED = FEATURES[np.argsort(np.argsort(IDS, kind="stable"), kind="stable")]
SIMILARITY = SHUFFLED[:60] @ SHUFFLED[60:].T


def test_similarities_in_place_of_distances_are_reported(device: Device, logged: Logged) -> None:
    assert evaluated(device.put(1 - SIMILARITY), IDS).mean_average_precision > 0.9
    evaluated(device.put(-SIMILARITY), IDS)  # negative, and nearer for all that
    assert logged() == []
    assert evaluated(device.put(SIMILARITY), IDS).mean_average_precision < 0.1
    (message,) = logged()
    assert (
        "of the gallery on average, where 50 % is chance: distance seems to contain sim" in message
    )
    assert message.endswith("try 1 - similarity")


@pytest.mark.parametrize("seed", range(20))
def test_random_distances_are_not_reported_as_similarities(seed: int, logged: Logged) -> None:
    rng = np.random.default_rng(seed)
    evaluated(rng.random((2, 6)), np.arange(8) % 2)
    evaluated(rng.random((30, 100)), rng.integers(5, size=130))
    assert logged() == []


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_collapsed_encoder_is_named(device: Device, noise: float, logged: Logged) -> None:
    rng = np.random.default_rng(0)
    features = np.ones((200, 64)) + noise * rng.normal(size=(200, 64))
    camera, modality = np.arange(200) // 10, MODALITY
    identity = np.arange(200) // 10
    task = mabm.SEARCH_TASKS["regdb"][0]
    mabm.evaluate_search(device.put(features), identity, camera, modality, task=task)
    (message,) = logged()
    assert message.startswith("distances to the whole gallery are equal for 100 of 100 queries: ")
    assert "features have collapsed" in message
    mabm.evaluate_search(FEATURES, identity, camera, modality, task=task)
    assert logged() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_distances_of_any_type_are_looked_at(dtype: torch.dtype, logged: Logged) -> None:
    evaluated(torch.zeros(60, 140, dtype=dtype), IDS)
    (message,) = logged()
    assert "are equal for 60 of 60 queries" in message


def test_re_ranking_by_similarities(logged: Logged) -> None:
    query, gallery = SHUFFLED[:60], SHUFFLED[60:]
    similarity = [query @ gallery.T, query @ query.T, gallery @ gallery.T]
    re_ranking(*(np.sqrt(np.maximum(2 - 2 * part, 0)) for part in similarity))
    assert logged() == []
    re_ranking(*similarity)
    (message,) = logged()
    assert message.startswith("q_q_dist has a median of 1 from a sample to itself, and of ")
    assert "try numpy.sqrt(2 - 2 * similarity)" in message
    re_ranking(np.zeros((2, 3)), np.zeros((2, 2)), np.zeros((3, 3)))
    assert logged() == []


def test_each_kind_of_warning_is_logged_once(logged: Logged) -> None:
    for _ in range(3):
        mabm.jaccard_graph(FEATURES, k1=150)
        mabm.jaccard_graph(FEATURES * np.linspace(1, 3, 200)[:, None], MODALITY, k1=150)
    assert [message.partition(" ")[0] for message in logged()] == ["k1", "features"]


def test_each_kind_of_warning_is_logged_by_one_thread(logged: Logged) -> None:
    logger, start = logging.getLogger("mabm.tests"), threading.Barrier(8)

    def speak() -> None:
        start.wait()
        advice.advise(logger, "k1", "said")

    threads = [threading.Thread(target=speak) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logged() == ["said"]


def test_a_warning_below_the_log_level_is_given_later(logged: Logged) -> None:
    logger = logging.getLogger("mabm")
    wide = FEATURES * np.linspace(1, 3, 200)[:, None]
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        mabm.rank_neighbors(wide, MODALITY)
        mabm.jaccard_graph(FEATURES, k1=150)
    finally:
        logger.setLevel(before)
    assert logged() == []
    mabm.rank_neighbors(wide, MODALITY)
    mabm.jaccard_graph(FEATURES, k1=150)
    assert len(logged()) == 2


def test_the_log_changes_no_result(logged: Logged) -> None:
    wide = FEATURES * np.linspace(1, 3, 200)[:, None]
    loud = mabm.pseudo_labels(wide, MODALITY, k1=150).labels
    assert len(logged()) >= 2
    quiet = mabm.pseudo_labels(wide, MODALITY, k1=150).labels
    np.testing.assert_array_equal(loud, quiet)
