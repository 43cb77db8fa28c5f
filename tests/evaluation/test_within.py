"""Searches within a modality, against a loop over queries."""

import numpy as np
import pytest
from search_sets import make_test_set

from mabm.evaluation import evaluate_within_modalities, within

NAMES = ("visible", "infrared")


def slow_scores(
    features: np.ndarray, identity: np.ndarray, camera: np.ndarray, queries: np.ndarray
) -> dict[str, float]:
    """Rank-1, mAP and mINP by the definitions, a query at a time."""
    rank1, precisions, penalties = [], [], []
    for query in queries:
        gallery = (identity != identity[query]) | (camera != camera[query])
        order = np.argsort(-features[gallery] @ features[query], kind="stable")
        places = np.flatnonzero(identity[gallery][order] == identity[query])
        if len(places):
            rank1.append(places[0] == 0)
            precisions.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
            penalties.append(len(places) / (places[-1] + 1))
    return {
        "rank1": float(np.mean(rank1)),
        "mAP": float(np.mean(precisions)),
        "mINP": float(np.mean(penalties)),
    }


@pytest.mark.parametrize("data", ["sysu_mm01", "llcm", "emoji_xm"])
def test_equal_to_a_loop(data: str) -> None:
    columns = make_test_set(data)
    columns["identity"][::7] = columns["camera"][::11] = -1  # left out
    found = evaluate_within_modalities(*columns.values())
    assert list(found) == list(NAMES)
    for group, name in enumerate(NAMES):
        rows = (columns["modality"] == group) & (columns["identity"] >= 0)
        rows &= columns["camera"] >= 0
        parts = [columns[key][rows] for key in ("features", "identity", "camera")]
        expected = slow_scores(*parts, queries=np.arange(rows.sum()))
        assert {key: found[name][key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_without_a_second_camera_there_is_nothing_to_find() -> None:
    assert evaluate_within_modalities(*make_test_set("regdb").values()) == {}


def test_many_queries_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = make_test_set("emoji_xm")
    monkeypatch.setattr(within, "_MOST_QUERIES", 5)
    found = evaluate_within_modalities(*columns.values())
    rows = columns["modality"] == 0
    features, identity, camera = (columns[key][rows] for key in ("features", "identity", "camera"))
    queries = np.array(
        [row for row, (i, c) in enumerate(zip(identity, camera, strict=True))
         if ((identity == i) & (camera != c)).any()]
    )  # fmt: skip
    chosen = queries[np.arange(5) * len(queries) // 5]
    expected = slow_scores(features, identity, camera, chosen)
    assert {key: found["visible"][key] for key in expected} == pytest.approx(expected, abs=1e-12)
