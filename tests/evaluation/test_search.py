"""Searches: a slow definition, what each task compares with what, trials, means, plain data."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from devices import Device
from fresh_interpreter import run_program
from search_sets import make_test_set, unit

import mabm
from mabm.data import load_drawings
from mabm.evaluation import check_trial, format_search_scores

VISIBLE, INFRARED = 0, 1
PUBLISHED = (*mabm.SEARCH_TASKS.values(), *mabm.MORE_SEARCH_TASKS.values())
ALL_TASKS = [task for tasks in PUBLISHED for task in tasks]
SYSU_ALL, SYSU_INDOOR = mabm.SEARCH_TASKS["sysu_mm01"]
REGDB = mabm.SEARCH_TASKS["regdb"][0]

with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as data:
    RELEASED = dict(data)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: f"{task.data}-{task.name}")
def test_equal_to_its_parts(task: mabm.SearchTask) -> None:
    if task.num_images > 1:
        task = replace(task, num_images=2)  # there are at most three of an identity in a camera
    columns = make_test_set(task.data)
    features, identity, camera, modality = columns.values()
    found = mabm.evaluate_search(*columns.values(), task=task)
    assert (found.data, found.task) == (task.data, task.name)
    assert found.trials == tuple(range(task.num_trials))

    query = modality == task.query_modality
    others = modality == task.gallery_modality
    if task.data == "sysu_mm01":
        query &= np.isin(camera, (3, 6))
        others &= np.isin(camera, (1, 2) if task.name.startswith("indoor") else (1, 2, 4, 5))
    all_queries, others = np.flatnonzero(query), np.flatnonzero(others)
    for trial in range(task.num_trials):
        query, gallery = all_queries, others
        if task.data in ("sysu_mm01", "llcm"):
            of_queries = task.name == "sampled-infrared-to-visible"
            rows = query if of_queries else gallery
            drawn = rows[
                mabm.draw_gallery(
                    identity[rows],
                    camera[rows],
                    cameras=range(1, 10),  # they ascend in every published task
                    trial=trial,
                    num_images=2 if task.name.endswith("multi-shot") else 1,
                )
            ]
            query, gallery = (drawn, gallery) if of_queries else (query, drawn)
        distance = -features[query].astype(np.float64) @ features[gallery].T.astype(np.float64)
        expected = mabm.evaluate_retrieval(
            distance,
            identity[query],
            identity[gallery],
            camera[query],
            camera[gallery],
            protocol=task.protocol,
        )
        reached = len(expected.cmc)
        np.testing.assert_allclose(found.cmc[trial, :reached], expected.cmc, rtol=0, atol=1e-7)
        assert (found.cmc[trial, reached:] == found.cmc[trial, reached - 1]).all()
        assert found.mean_average_precision[trial] == pytest.approx(
            expected.mean_average_precision, abs=1e-12
        )
        assert found.mean_inverse_negative_penalty[trial] == pytest.approx(
            expected.mean_inverse_negative_penalty, abs=1e-12
        )
        assert found.num_queries[trial] == expected.num_queries
    assert 0.05 < found.mean["rank1"] < 1
    assert (found.std["mAP"] > 0) == (task.num_trials > 1)


def test_published_tasks() -> None:
    names = {data: [task.name for task in tasks] for data, tasks in mabm.SEARCH_TASKS.items()}
    assert names == {
        "sysu_mm01": ["all-search", "indoor-search"],
        "regdb": ["visible-to-thermal", "thermal-to-visible"],
        "llcm": ["infrared-to-visible", "visible-to-infrared"],
        "emoji_xm": ["infrared-to-visible", "visible-to-infrared"],
        "image_list": ["infrared-to-visible", "visible-to-infrared"],
    }
    extra = {data: [task.name for task in tasks] for data, tasks in mabm.MORE_SEARCH_TASKS.items()}
    assert extra == {
        "sysu_mm01": ["all-search-multi-shot", "indoor-search-multi-shot"],
        "regdb": [],
        "llcm": ["sampled-infrared-to-visible"],
        "emoji_xm": [],
        "image_list": [],
    }
    for task in ALL_TASKS:
        visible_first = task.name.startswith("visible")
        expected = (VISIBLE, INFRARED) if visible_first else (INFRARED, VISIBLE)
        assert (task.query_modality, task.gallery_modality) == expected
        assert task.num_trials == (10 if task.data in ("sysu_mm01", "llcm") else 1)
    to_visible, to_infrared = mabm.SEARCH_TASKS["llcm"]
    assert to_visible.gallery_cameras == to_infrared.query_cameras == tuple(range(1, 10))
    assert to_visible.query_cameras == to_infrared.gallery_cameras == (1, 2, 4, 5, 6, 7, 8, 9)
    for single, multi in zip(
        mabm.SEARCH_TASKS["sysu_mm01"], mabm.MORE_SEARCH_TASKS["sysu_mm01"], strict=True
    ):
        assert multi == replace(single, name=f"{single.name}-multi-shot", num_images=10)
    (released,) = mabm.MORE_SEARCH_TASKS["llcm"]
    assert released == replace(to_visible, name=released.name, drawn="queries")
    with pytest.raises(TypeError):
        mabm.SEARCH_TASKS["own"] = ()  # type: ignore[index]


def test_emoji_searches_never_meet_the_hand_of_the_querys_maker() -> None:
    drawings = load_drawings()
    vendor = dict(zip(drawings.camera.tolist(), drawings.vendor.tolist(), strict=True))
    modality = dict(zip(drawings.camera.tolist(), drawings.modality.tolist(), strict=True))
    same = {
        (a, b)
        for a in vendor
        for b in vendor
        if vendor[a] == vendor[b] and modality[a] != modality[b]
    }
    assert len(same) == 8
    for task in mabm.SEARCH_TASKS["emoji_xm"]:
        assert set(task.protocol.excluded_cameras) == same

    # By hand: camera 8 (Google, infrared) finds its identity in cameras 1 and 2 (Google) at once,
    # which do not count, and in camera 3 after one wrong image.
    features = unit(np.array([[1, 0], [1, 0], [1, 0], [1, 0.2], [1, 0.3]]))
    identity, camera = np.array([7, 7, 7, 8, 7]), np.array([8, 1, 2, 3, 3])
    found = mabm.evaluate_search(
        features, identity, camera, (camera == 8).astype(int), task=mabm.SEARCH_TASKS["emoji_xm"][0]
    )
    assert found.mean["rank1"] == 0
    assert found.mean["mAP"] == 0.5


def test_mean_and_deviation_by_hand() -> None:
    # One query of identity 7. Its gallery: itself turned by 10 or 30 degrees (camera 1, two files),
    # and identity 8 at 20 degrees. Whichever file a trial draws decides all.
    angles = np.deg2rad([0, 10, 30, 20])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    identity, camera = np.array([7, 7, 7, 8]), np.array([6, 1, 1, 1])
    columns = (features, identity, camera, np.array([1, 0, 0, 0]))
    drawn = [
        int(mabm.draw_gallery(identity[1:], camera[1:], cameras=(1, 2), trial=trial)[0])
        for trial in range(10)
    ]
    near = drawn.count(0)
    assert 0 < near < 10
    found = mabm.evaluate_search(*columns, task=SYSU_INDOOR)
    np.testing.assert_array_equal(found.cmc[:, 0], [1.0 if row == 0 else 0.0 for row in drawn])
    np.testing.assert_array_equal(found.cmc[:, 1:], 1.0)
    share = near / 10
    assert found.mean["rank1"] == pytest.approx(share)
    assert found.std["rank1"] == pytest.approx((share * (1 - share)) ** 0.5)  # of the population
    assert found.mean["mAP"] == pytest.approx(share + (1 - share) / 2)
    assert found.mean["rank20"] == 1
    assert found.std["rank20"] == 0
    assert list(found.mean) == ["rank1", "rank5", "rank10", "rank20", "mAP", "mINP"]
    short = mabm.evaluate_search(*columns, task=SYSU_INDOOR, max_rank=7)
    assert list(short.std) == ["rank1", "rank5", "mAP", "mINP"]
    assert short.cmc.shape == (10, 7)


def test_released_scores_through_a_search() -> None:
    # Features whose inner products order every gallery as the released distances do.
    distance = RELEASED["distance"]
    queries, gallery = distance.shape
    features = np.zeros((queries + gallery, queries), dtype=np.float32)
    features[:queries] = np.eye(queries)
    order = distance.argsort(axis=1, kind="stable").argsort(axis=1)
    features[queries:] = -order.T / gallery
    task = replace(REGDB, protocol=mabm.PROTOCOLS["sysu_mm01"])
    found = mabm.evaluate_search(
        features,
        np.concatenate([RELEASED["query_ids"], RELEASED["gallery_ids"]]),
        np.concatenate([RELEASED["query_cams"], RELEASED["gallery_cams"]]),
        np.repeat([VISIBLE, INFRARED], [queries, gallery]),
        task=task,
    )
    released = RELEASED["sysu_cmc"]
    np.testing.assert_allclose(found.cmc[0, : len(released)], released, rtol=0, atol=1e-7)
    assert found.mean["mAP"] == pytest.approx(float(RELEASED["sysu_map"]), abs=1e-12)
    assert found.mean["mINP"] == pytest.approx(float(RELEASED["sysu_minp"]), abs=1e-12)


def test_queries_without_a_match_count_nowhere() -> None:
    columns = make_test_set("regdb")
    visible, infrared = columns["modality"] == VISIBLE, columns["modality"] == INFRARED
    lost = columns["identity"] == np.intersect1d(
        columns["identity"][visible], columns["identity"][infrared]
    )[0]  # fmt: skip
    kept = ~(lost & infrared)
    found = mabm.evaluate_search(*(column[kept] for column in columns.values()), task=REGDB)
    without = ~lost
    expected = mabm.evaluate_search(
        *(column[kept & without] for column in columns.values()), task=REGDB
    )
    assert (lost & visible).any()
    np.testing.assert_array_equal(found.cmc, expected.cmc)
    assert found.mean == expected.mean
    assert found.num_queries == expected.num_queries


@pytest.mark.parametrize("task", [SYSU_ALL, REGDB], ids=lambda task: task.data)
def test_reranked(task: mabm.SearchTask) -> None:
    features, identity, camera, modality = make_test_set(task.data, seed=1).values()
    options = mabm.RerankOptions(k1=6, k2=2, lambda_value=0.2)
    found = mabm.evaluate_search(features, identity, camera, modality, task=task, rerank=options)
    assert found.rerank == options
    plain = mabm.evaluate_search(features, identity, camera, modality, task=task)
    assert found.mean["mAP"] != plain.mean["mAP"]
    # The last trial by hand.
    query = np.flatnonzero(modality == task.query_modality)
    gallery = np.flatnonzero(modality == task.gallery_modality)
    if task.gallery_cameras is not None:
        rows = mabm.draw_gallery(
            identity[gallery], camera[gallery], cameras=task.gallery_cameras, trial=9
        )
        gallery = gallery[rows]
    distance = mabm.rerank(
        features[query], features[gallery], modality[query], modality[gallery], k1=6, k2=2,
        lambda_value=0.2,
    )  # fmt: skip
    expected = mabm.evaluate_retrieval(
        distance, identity[query], identity[gallery], camera[query], camera[gallery],
        protocol=task.protocol,
    )  # fmt: skip
    assert found.mean_average_precision[-1] == expected.mean_average_precision
    with pytest.raises(ValueError, match="k1 must be in"):
        mabm.RerankOptions(k1=1)
    with pytest.raises(ValueError, match="k2 must be in"):
        mabm.RerankOptions(k2=40)
    with pytest.raises(ValueError, match="lambda_value must be in"):
        mabm.RerankOptions(lambda_value=2)
    with pytest.raises(ValueError, match="preset must be one of"):
        mabm.RerankOptions(preset="best")
    with pytest.raises(ValueError, match="precision must be one of"):
        mabm.RerankOptions(precision="loose")  # type: ignore[arg-type]


def test_of_any_kind_on_any_device(device: Device) -> None:
    columns = make_test_set("sysu_mm01")
    expected = mabm.evaluate_search(*columns.values(), task=SYSU_ALL)
    tensors = [device.put(torch.from_numpy(column)) for column in columns.values()]
    assert mabm.evaluate_search(*tensors, task=SYSU_ALL).to_dict() == expected.to_dict()
    mixed = [tensors[0], *list(columns.values())[1:]]
    assert mabm.evaluate_search(*mixed, task=SYSU_ALL).to_dict() == expected.to_dict()


def test_threads_change_nothing() -> None:
    code = (
        "import torch, mabm\n"
        "torch.set_num_threads({threads})\n"
        "x = torch.nn.functional.normalize(torch.randn(600, 513, generator=torch.Generator()"
        ".manual_seed(0)), dim=1)\n"
        "rows = torch.arange(600)\n"
        "task = mabm.SEARCH_TASKS['sysu_mm01'][0]\n"
        "print(mabm.evaluate_search(x, rows // 24, rows % 6 + 1, (rows % 3 == 2).long(),"
        " task=task).to_dict())"
    )
    one, three = (run_program(code.format(threads=threads)) for threads in (1, 3))
    assert one.stdout == three.stdout
    assert "'mAP'" in one.stdout, one.stderr


def test_plain_data_and_back() -> None:
    columns = make_test_set("sysu_mm01")
    options = mabm.RerankOptions(k1=6, k2=2)
    for rerank in (None, options):
        scores = mabm.evaluate_search(*columns.values(), task=SYSU_ALL, rerank=rerank)
        text = json.dumps(scores.to_dict(), allow_nan=False)
        back = mabm.SearchScores.from_dict(json.loads(text))
        assert back.to_dict() == scores.to_dict()
        assert back.rerank == rerank
        np.testing.assert_array_equal(back.cmc, scores.cmc)
    assert scores.to_dict()["rerank"] == asdict(options)
    assert set(scores.to_dict()) == {
        "data", "task", "rerank", "trials", "num_queries", "cmc", "mAP", "mINP", "mean", "std",
    }  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        scores.cmc[0, 0] = 2


def of_trial(trial: int, rank1: float, **change: object) -> mabm.SearchScores:
    parts = {"data": "regdb", "task": REGDB.name, "trials": (trial,), "cmc": [[rank1, 1.0]]}
    parts |= {"mean_average_precision": [rank1 / 2], "mean_inverse_negative_penalty": [0.25]}
    return mabm.SearchScores(**{**parts, "num_queries": (10,), **change})


def test_models_of_several_trials_are_averaged() -> None:
    parts = [of_trial(3, 0.6), of_trial(1, 0.8, num_queries=(9,)), of_trial(2, 0.7)]
    found = mabm.SearchScores.combine(iter(parts))
    assert found.trials == (1, 2, 3)
    assert found.num_queries == (9, 10, 10)
    np.testing.assert_array_equal(found.cmc[:, 0], [0.8, 0.7, 0.6])
    assert found.mean["rank1"] == pytest.approx(0.7)
    assert found.mean["mAP"] == pytest.approx(0.35)
    assert found.std["rank1"] == pytest.approx((2 / 3) ** 0.5 / 10)
    assert mabm.SearchScores.combine(parts[:1]).to_dict() == parts[0].to_dict()
    with pytest.raises(ValueError, match=r"every trial once, got several of \[3\]"):
        mabm.SearchScores.combine([parts[0], parts[0]])
    with pytest.raises(
        ValueError, match="of one task, with the same re-ranking, got regdb thermal"
    ):
        mabm.SearchScores.combine([parts[0], of_trial(2, 0.5, task="thermal-to-visible")])
    with pytest.raises(
        ValueError, match=r"same re-ranking, got .*RerankOptions.*, .* not re-ranked"
    ):
        mabm.SearchScores.combine([parts[0], of_trial(2, 0.5, rerank=mabm.RerankOptions())])
    with pytest.raises(ValueError, match="at least one result, got none"):
        mabm.SearchScores.combine([])


def test_a_trial_of_the_data_names_the_result() -> None:
    columns = make_test_set("regdb")
    assert mabm.evaluate_search(*columns.values(), task=REGDB, trial=7).trials == (7,)
    with pytest.raises(ValueError, match="trial must be None for task 'all-search', which draws"):
        mabm.evaluate_search(*make_test_set("sysu_mm01").values(), task=SYSU_ALL, trial=7)


def test_a_model_is_tested_on_its_own_trial() -> None:
    check_trial(3, 3)
    check_trial(3, None)
    check_trial(None, None)
    with pytest.raises(
        ValueError, match=r"got 3: .* test identities of other trials, .* on trial 3"
    ):
        check_trial(3, 4)
    with pytest.raises(ValueError, match=r"model_trial must be 4, .* got None"):
        check_trial(None, 4)


def test_table() -> None:
    several = mabm.SearchScores.combine([of_trial(1, 0.8), of_trial(2, 0.6)])
    other = of_trial(0, 1.0, task="thermal-to-visible", cmc=[[1.0] * 20], num_queries=(7,))
    lines = format_search_scores([several, other]).splitlines()
    assert len(lines) == 3
    columns = ["task", "rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "queries", "trials"]
    assert lines[0].split() == columns
    assert lines[1].split("  ")[0] == "regdb visible-to-thermal"
    assert "70.00 ± 10.00" in lines[1]
    assert "35.00 ± 5.00" in lines[1]
    assert lines[1].split()[-2:] == ["10", "2"]
    assert lines[2].startswith("regdb thermal-to-visible ")
    assert lines[2].split()[2:] == [*["100.00"] * 4, "50.00", "25.00", "7", "1"]
    ends = {line.rindex(cell) + len(cell) for line, cell in zip(lines[1:], "21", strict=True)}
    assert ends == {len(lines[0])}
    assert str(several) == format_search_scores([several])
    assert "rank5" not in str(several)
    mixed = replace(several, num_queries=(9, 10), rerank=mabm.RerankOptions())
    assert "visible-to-thermal, re-ranked" in str(mixed)
    assert " 9-10 " in str(mixed)
    assert repr(several) == (
        "SearchScores(regdb visible-to-thermal: rank1 0.7000, mAP 0.3500, mINP 0.2500, 2 trials)"
    )
    with pytest.raises(ValueError, match="got none"):
        format_search_scores([])


GOOD = make_test_set("sysu_mm01")
REFUSED = [
    ({"features": GOOD["features"][0]}, ValueError, r"features must be \(N, D\)"),
    ({"features": GOOD["features"] * np.nan}, ValueError, "features must be finite in float32"),
    ({"identity": GOOD["identity"][1:]}, ValueError, r"identity must be \(\d+,\), one per row"),
    ({"camera": GOOD["camera"] / 2}, TypeError, "camera must be integers, one per row of features"),
    ({"modality": None}, TypeError, "modality must be a tensor, .* got NoneType"),
    ({"modality": GOOD["modality"] * 0}, ValueError, r"for the query of task 'all-search' of sysu"),
    ({"camera": np.full_like(GOOD["camera"], 6)}, ValueError, "images for the gallery of task"),
    ({"identity": GOOD["identity"] - 1}, ValueError, r"identity must be known, .* got -1"),
    ({"identity": np.arange(len(GOOD["identity"]))}, ValueError, "query_ids must have a match"),
    ({"task": "all-search"}, TypeError, "task must be a SearchTask, got str: 'all-search'"),
    ({"rerank": True}, TypeError, "rerank must be RerankOptions or None, got bool"),
    ({"max_rank": 0}, ValueError, r"max_rank must be in \[1, 1048576\], got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mabm.evaluate_search(**{**GOOD, "task": SYSU_ALL, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"drawn": "one"}, ValueError, "drawn must be one of .* got 'one'"),
        ({"num_trials": 0}, ValueError, "num_trials must be at least 1, got 0"),
        ({"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
        ({"drawn": None}, ValueError, "num_trials must be 1 if nothing is drawn, got 10"),
        (
            {"drawn": None, "num_trials": 1, "num_images": 2},
            ValueError,
            "num_images must be 1 if nothing is drawn, got 2",
        ),
        ({"gallery_cameras": None}, ValueError, "gallery_cameras must be given with drawn='gall"),
        (
            {"drawn": "queries", "query_cameras": None},
            ValueError,
            "query_cameras must be given with drawn='queries'",
        ),
        ({"query_cameras": ()}, ValueError, r"query_cameras must be cameras without repeats"),
        ({"gallery_cameras": (1, 1)}, ValueError, r"gallery_cameras must be .* got \(1, 1\)"),
        ({"protocol": "sysu_mm01"}, TypeError, "protocol must be a RetrievalProtocol, got str"),
    ],
)  # fmt: skip
def test_impossible_tasks(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(SYSU_ALL, **change)


def test_impossible_scores() -> None:
    with pytest.raises(ValueError, match=r"cmc must be \(T, R\)"):
        of_trial(1, 0.5, cmc=[0.5])
    with pytest.raises(ValueError, match="got 2 trials"):
        of_trial(1, 0.5, trials=(1, 2))
