"""A default device is PyTorch's for new tensors of the user; work is done where arguments are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from search_sets import make_test_set

import mabm
from mabm.evaluation import SEARCH_TASKS, evaluate_within_modalities
from mabm.report.snapshots import RetrievalSnapshot


def searches(data: str) -> list[dict[str, float]]:
    columns = make_test_set(data)
    return [mabm.evaluate_search(*columns.values(), task=task).mean for task in SEARCH_TASKS[data]]


def shown(data: str) -> list[Any]:
    found = RetrievalSnapshot.from_search(
        *make_test_set(data).values(),
        task=SEARCH_TASKS[data][0],
        read=lambda rows: np.zeros((len(rows), 3, 4, 4), dtype=np.uint8),
    )
    return [found.query.tolist(), found.ranked.tolist(), found.facts]


def reranked(data: str) -> list[list[float]]:
    features = torch.from_numpy(make_test_set(data)["features"])
    distance: list[list[float]] = mabm.rerank(features[:20], features[20:], k1=10).tolist()
    return distance


def labels(modality_of: Callable[[np.ndarray], Any]) -> list[int]:
    columns = make_test_set("regdb")
    modality = modality_of(columns["modality"])
    found: list[int] = mabm.pseudo_labels(columns["features"], modality, k1=10).labels.tolist()
    return found


CALLS: dict[str, Callable[[], Any]] = {
    "searches of sysu_mm01": lambda: searches("sysu_mm01"),
    "searches of llcm": lambda: searches("llcm"),
    "searches within modalities": lambda: evaluate_within_modalities(
        *make_test_set("llcm").values()
    ),
    "searches that a report shows": lambda: shown("llcm"),
    "labels, modality in words": lambda: labels(lambda m: np.where(m, "infrared", "visible")),
    "labels, modality in booleans": lambda: labels(lambda m: (m == 1).tolist()),
    "labels, modality in an array of booleans": lambda: labels(lambda m: m == 1),
    "re-ranking": lambda: reranked("regdb"),
    "bytes of an estimate": lambda: mabm.estimate(3000, 512).stage_bytes,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_default_device_changes_nothing(name: str) -> None:
    expected = CALLS[name]()
    with torch.device("meta"):  # whatever is put there by mistake has no values
        found = CALLS[name]()
    assert found == expected
    assert found
