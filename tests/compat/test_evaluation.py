"""The old evaluation functions: released outputs, and a test loop as those code bases write it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mabm.compat.evaluation import eval_llcm, eval_regdb, eval_sysu

with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as data:
    RELEASED = dict(data)
DISTANCE = RELEASED["distance"]
IDS = (RELEASED["query_ids"], RELEASED["gallery_ids"])
CAMERAS = (RELEASED["query_cams"], RELEASED["gallery_cams"])


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval_sysu, (*IDS, *CAMERAS), "sysu"),
        (eval_regdb, IDS, "regdb"),
        (eval_llcm, (*IDS, *CAMERAS), "llcm"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_released_scores(function, arguments, name: str, kind) -> None:  # type: ignore[no-untyped-def]
    cmc, mAP, mINP = function(kind(DISTANCE), *map(kind, arguments))  # noqa: N806
    assert isinstance(cmc, np.ndarray)
    assert cmc.dtype == np.float32
    np.testing.assert_array_equal(cmc, RELEASED[f"{name}_cmc"])
    assert mAP == pytest.approx(RELEASED[f"{name}_map"], abs=1e-12)
    assert mINP == pytest.approx(RELEASED[f"{name}_minp"], abs=1e-12)
    assert isinstance(mAP, float)
    assert isinstance(mINP, float)


def test_max_rank() -> None:
    cmc, _, _ = eval_regdb(DISTANCE, *IDS, max_rank=5)
    np.testing.assert_array_equal(cmc, RELEASED["regdb_cmc"][:5])
    cmc, _, _ = eval_regdb(DISTANCE, *IDS, max_rank=500)
    assert cmc.shape == (90,)


def test_identities_of_any_type() -> None:
    words = [np.array([f"person {n}" for n in ids]) for ids in IDS]
    found = eval_sysu(DISTANCE, *words, *CAMERAS)
    expected = eval_sysu(DISTANCE, *IDS, *CAMERAS)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


@pytest.mark.parametrize("kind", [np.float64, np.float32, object, np.uint8])
@pytest.mark.parametrize("function", [eval_sysu, eval_llcm])
def test_cameras_as_whole_numbers_of_any_type(function, kind: type) -> None:  # type: ignore[no-untyped-def]
    found = function(DISTANCE, *IDS, *(cameras.astype(kind) for cameras in CAMERAS), 20)
    expected = function(DISTANCE, *IDS, *CAMERAS)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_cameras_by_name_where_they_are_only_compared() -> None:
    words = [np.array([f"camera {n}" for n in cameras]) for cameras in CAMERAS]
    found, expected = eval_llcm(DISTANCE, *IDS, *words), eval_llcm(DISTANCE, *IDS, *CAMERAS)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_a_test_loop_as_those_code_bases_write_it() -> None:
    rng = np.random.default_rng(0)
    query_label, query_cam = np.repeat(np.arange(12), 4), np.tile([3, 6], 24)
    centers, gap = rng.normal(size=(12, 32)), rng.normal(size=32)
    query_feat = centers[query_label] + 0.3 * gap + 0.5 * rng.normal(size=(48, 32))

    all_cmc = all_mAP = all_mINP = 0  # noqa: N806
    for _trial in range(3):
        gall_label, gall_cam = np.repeat(np.arange(12), 4), np.tile([1, 2, 4, 5], 12)
        gall_feat = centers[gall_label] + 0.5 * rng.normal(size=(48, 32))
        distmat = np.matmul(query_feat, np.transpose(gall_feat))
        cmc, mAP, mINP = eval_sysu(-distmat, query_label, gall_label, query_cam, gall_cam)  # noqa: N806
        all_cmc = all_cmc + cmc
        all_mAP = all_mAP + mAP  # noqa: N806
        all_mINP = all_mINP + mINP  # noqa: N806
    cmc, mAP, mINP = all_cmc / 3, all_mAP / 3, all_mINP / 3  # noqa: N806

    line = f"Rank-1: {cmc[0]:.2%} | Rank-10: {cmc[9]:.2%} | mAP: {mAP:.2%} | mINP: {mINP:.2%}"
    assert line.startswith("Rank-1: ")
    assert 0.8 < cmc[0] <= 1
    assert cmc.shape == (12,)
    assert 0.5 < mAP <= 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distmat": np.zeros(3)}, ValueError, r"distmat must be \(Q, G\), got shape \(3,\)"),
        ({"q_pids": np.arange(3)}, ValueError, r"q_pids must be \(60,\) as distmat has it, got shape \(3,\)"),
        ({"g_pids": np.arange(3)}, ValueError, r"g_pids must be \(90,\)"),
        ({"q_camids": np.arange(3)}, ValueError, r"q_camids must be \(60,\)"),
        ({"g_camids": None}, ValueError, r"g_camids must be \(90,\) .* got shape \(\)"),
        ({"q_camids": CAMERAS[0] + 0.5}, TypeError, r"q_camids must be whole numbers, got array\("),
        ({"q_camids": CAMERAS[0] * np.nan}, TypeError, "q_camids must be whole numbers"),
        ({"g_camids": np.array(["2"] * 90)}, TypeError, "g_camids must be whole numbers, got .*'2'"),
        ({"g_camids": np.array([None] * 90)}, TypeError, "g_camids must be whole numbers, got .*None"),
        ({"max_rank": 0}, ValueError, "max_rank must be at least 1, got 0"),
        ({"q_pids": np.full(60, 99)}, ValueError, "must have a match .* got none for any of 60 queries"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "distmat": DISTANCE,
        "q_pids": IDS[0],
        "g_pids": IDS[1],
        "q_camids": CAMERAS[0],
        "g_camids": CAMERAS[1],
    }
    with pytest.raises(error, match=message):
        eval_sysu(**{**arguments, **change})
