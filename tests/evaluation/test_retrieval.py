"""CMC, mAP and mINP: released outputs, a slow definition, what each protocol leaves out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mabm
from mabm.evaluation import retrieval

with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as data:
    RELEASED = dict(data)
ARGUMENTS = tuple(
    RELEASED[name]
    for name in ("distance", "query_ids", "gallery_ids", "query_cams", "gallery_cams")
)
GOLDEN_NAMES = {"sysu_mm01": "sysu", "regdb": "regdb", "llcm": "llcm"}

OWN = mabm.RetrievalProtocol("own", excluded_cameras=((1, 2), (2, 1)), exclude_same_camera=True)


@pytest.mark.parametrize("protocol", mabm.PROTOCOLS)
def test_released_scores(protocol: str) -> None:
    scores = mabm.evaluate_retrieval(*ARGUMENTS, protocol=protocol)
    name = GOLDEN_NAMES[protocol]
    np.testing.assert_array_equal(scores.cmc, RELEASED[f"{name}_cmc"])
    assert scores.cmc.dtype == np.float32
    assert scores.mean_average_precision == pytest.approx(RELEASED[f"{name}_map"], abs=1e-12)
    assert scores.mean_inverse_negative_penalty == pytest.approx(
        RELEASED[f"{name}_minp"], abs=1e-12
    )


def slow_scores(
    distance: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    protocol: mabm.RetrievalProtocol,
    max_rank: int,
) -> tuple[list[float], float, float, int] | None:
    """The definition, a query at a time."""
    first_ranks, precisions, penalties, lengths = [], [], [], []
    for i in range(len(distance)):
        ranked = []
        for j in sorted(range(distance.shape[1]), key=lambda j: (distance[i, j], j)):
            if (query_cameras[i], gallery_cameras[j]) in protocol.excluded_cameras:
                continue
            same = query_ids[i] == gallery_ids[j] and query_cameras[i] == gallery_cameras[j]
            if not (protocol.exclude_same_camera and same):
                ranked.append(int(gallery_ids[j]))
        counted = list(dict.fromkeys(ranked)) if protocol.cmc_by_identity else ranked
        everyone = distance.shape[1] if not protocol.cmc_by_identity else len(counted)
        lengths.append(everyone)
        places = [n for n, identity in enumerate(ranked, 1) if identity == query_ids[i]]
        if not places:
            continue
        first_ranks.append(counted.index(query_ids[i]) + 1)
        precisions.append(np.mean([n / place for n, place in enumerate(places, 1)]))
        penalties.append(len(places) / places[-1])
    if not first_ranks:
        return None
    length = min(max_rank, max(lengths))
    cmc = [float(np.mean([rank <= r for rank in first_ranks])) for r in range(1, length + 1)]
    return cmc, float(np.mean(precisions)), float(np.mean(penalties)), len(first_ranks)


@given(st.integers(0, 2**32 - 1), st.sampled_from([*mabm.PROTOCOLS.values(), OWN]), st.booleans())
def test_matches_the_definition(
    seed: int, protocol: mabm.RetrievalProtocol, has_ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(1, 12), rng.integers(1, 40)
    distance = rng.normal(size=(queries, gallery))
    if has_ties:
        distance = distance.round()
    identities = int(rng.integers(1, 12))
    arguments = (
        rng.integers(0, identities, queries),
        rng.integers(0, identities, gallery),
        rng.integers(1, 5, queries),
        rng.integers(1, 5, gallery),
    )
    max_rank = int(rng.integers(1, 25))
    expected = slow_scores(distance, *arguments, protocol, max_rank)
    if expected is None:
        with pytest.raises(ValueError, match="query_ids must have a match"):
            mabm.evaluate_retrieval(distance, *arguments, protocol=protocol, max_rank=max_rank)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_ELEMENTS_AT_ONCE", int(rng.integers(1, 400)))  # by 1 to all
        scores = mabm.evaluate_retrieval(distance, *arguments, protocol=protocol, max_rank=max_rank)
    assert scores.num_queries == expected[3]
    np.testing.assert_allclose(scores.cmc, expected[0], rtol=0, atol=1e-6)
    assert scores.mean_average_precision == pytest.approx(expected[1], abs=1e-12)
    assert scores.mean_inverse_negative_penalty == pytest.approx(expected[2], abs=1e-12)


def test_sysu_drops_camera_two_for_queries_of_camera_three_alone() -> None:
    distance = np.array([[0.1, 0.2]] * 2)
    ids, gallery = np.array([7, 7]), np.array([8, 7])
    cameras, gallery_cameras = np.array([3, 6]), np.array([2, 1])
    scores = mabm.evaluate_retrieval(
        distance, ids, gallery, cameras, gallery_cameras, protocol="sysu_mm01"
    )
    np.testing.assert_array_equal(scores.cmc, [0.5, 1.0])
    assert scores.mean_average_precision == 0.75


def test_llcm_drops_the_same_camera_of_the_same_identity_alone() -> None:
    distance = np.array([[0.1, 0.2, 0.3]])
    gallery_cameras = np.array([1, 1, 2])
    scores = mabm.evaluate_retrieval(
        distance, np.array([7]), np.array([7, 8, 7]), np.array([1]), gallery_cameras,
        protocol="llcm",
    )  # fmt: skip
    assert scores.mean_average_precision == 0.5
    np.testing.assert_array_equal(scores.cmc, [0.0, 1.0])


def test_perfect_and_worst_rankings() -> None:
    ids = np.arange(5)
    perfect = mabm.evaluate_retrieval(1 - np.eye(5), ids, ids, protocol="regdb")
    assert (perfect.mean_average_precision, perfect.mean_inverse_negative_penalty) == (1, 1)
    assert (perfect.cmc == 1).all()
    worst = mabm.evaluate_retrieval(np.eye(5), ids, ids, protocol="regdb")
    assert worst.mean_average_precision == pytest.approx(1 / 5)
    np.testing.assert_array_equal(worst.cmc, [0, 0, 0, 0, 1])


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in mabm.PROTOCOLS:
        whole = mabm.evaluate_retrieval(*ARGUMENTS, protocol=protocol)
        with monkeypatch.context() as patch:
            patch.setattr(retrieval, "_ELEMENTS_AT_ONCE", 7 * 90)
            parts = mabm.evaluate_retrieval(*ARGUMENTS, protocol=protocol)
        np.testing.assert_array_equal(parts.cmc, whole.cmc)
        assert parts.mean_average_precision == whole.mean_average_precision


def test_tensors_in_tensors_out_and_distances_as_they_are() -> None:
    scores = mabm.evaluate_retrieval(*map(torch.from_numpy, ARGUMENTS), protocol="llcm")
    assert isinstance(scores.cmc, torch.Tensor)
    # Differences that float32 does not hold decide.
    distance = np.array([[1 + 1e-12, 1.0]])
    scores = mabm.evaluate_retrieval(distance, np.ones(1, int), np.arange(2), protocol="regdb")
    assert scores.mean_average_precision == 1
    similarity = -np.array([[5, 9]])
    scores = mabm.evaluate_retrieval(similarity, np.ones(1, int), np.arange(2), protocol="regdb")
    assert scores.mean_average_precision == 1
    assert str(scores) == "RetrievalScores(rank-1 1.0000, mAP 1.0000, mINP 1.0000, 1 queries)"


GOOD = {
    "distance": np.zeros((2, 3)),
    "query_ids": np.array([0, 1]),
    "gallery_ids": np.array([0, 1, 2]),
    "query_cameras": np.array([3, 6]),
    "gallery_cameras": np.array([1, 2, 4]),
    "protocol": "sysu_mm01",
}
REFUSED = [
    ({"distance": [[0.0]]}, TypeError, "distance must be a torch.Tensor or a numpy.ndarray, got list"),
    ({"distance": np.zeros(3)}, ValueError, r"distance must be \(Q, G\) .*, got shape \(3,\)"),
    ({"distance": np.zeros((0, 3))}, ValueError, r"at least one of each, got shape \(0, 3\)"),
    ({"distance": np.zeros((2, 3), bool)}, TypeError, "distance must contain real numbers, got dtype torch.bool"),
    ({"distance": np.array([[0, 1, 2], [0, np.nan, 1]])}, ValueError, "distance must not be NaN, got NaN in row 1$"),
    ({"query_ids": np.arange(3)}, ValueError, r"query_ids must be \(2,\), one per row of distance, got shape \(3,\)"),
    ({"gallery_ids": np.arange(2)}, ValueError, r"gallery_ids must be \(3,\), one per column of distance, got shape \(2,\)"),
    ({"query_ids": np.zeros(2)}, TypeError, "query_ids must be integers, one identity each, got dtype torch.float64"),
    ({"query_cameras": None}, ValueError, "protocol 'sysu_mm01' needs query_cameras, got None"),
    ({"gallery_cameras": None}, ValueError, "protocol 'sysu_mm01' needs gallery_cameras, got None"),
    ({"query_cameras": np.zeros(2)}, TypeError, "query_cameras must be integers"),
    ({"gallery_cameras": np.arange(4)}, ValueError, r"gallery_cameras must be \(3,\)"),
    ({"protocol": "sisu"}, ValueError, r"protocol must be one of \('sysu_mm01', 'regdb', 'llcm'\), got 'sisu'"),
    ({"protocol": 1}, TypeError, "protocol must be a name or a RetrievalProtocol, got int: 1"),
    ({"max_rank": 0}, ValueError, "max_rank must be at least 1, got 0"),
    ({"max_rank": 20.0}, TypeError, "max_rank must be an integer, got float"),
    ({"query_ids": np.array([8, 9])}, ValueError, "query_ids must have a match in gallery_ids under protocol 'sysu_mm01', got none for any of 2 queries"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mabm.evaluate_retrieval(**{**GOOD, **change})


def test_published_protocols_are_read_only() -> None:
    with pytest.raises(TypeError):
        mabm.PROTOCOLS["own"] = OWN  # type: ignore[index]
