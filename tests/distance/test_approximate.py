"""Approximate ranking: exact scores and order of what a search finds, and its recall, measured."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, cases
from devices import Device
from hypothesis import given

import mabm

TELLING_APART = ("gaussian", "clustered", "flip_average")
"""Kinds of features without long runs of equal scores, of which a search may return any."""


class BruteForce:
    """Finds the nearest members by float64 products."""

    recall_rows = 10_000

    def find_candidates(self, members: Any, queries: Any, k: int, metric: str) -> Any:
        members, queries = members.double(), queries.double()
        if metric == "inner_product":
            scores = queries @ members.T
        else:
            scores = -(queries[:, None] - members).square().sum(2)
        return scores.topk(k, dim=1)


class Without(BruteForce):
    """Finds the nearest members in NumPy, but for some."""

    def __init__(self, is_lost: Callable[[Any, Any], Any]) -> None:
        self.is_lost = is_lost

    def find_candidates(self, members: Any, queries: Any, k: int, metric: str) -> Any:
        scores, indices = super().find_candidates(members, queries, len(members), metric)
        order = indices.argsort(dim=1)
        scores, indices = scores.gather(1, order).cpu().numpy(), indices.gather(1, order)
        indices = indices.cpu().numpy()
        return scores, np.where(self.is_lost(members.cpu().numpy(), indices), -1, indices)


class Nothing:
    """Finds nothing."""

    def find_candidates(self, members: Any, queries: Any, k: int, metric: str) -> Any:
        return np.zeros((len(queries), 1)), np.full((len(queries), 1), -1)


class Answer:
    """Answers what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def find_candidates(self, *_: object) -> Any:
        return self.answer


def table_of_scores(device: Device, case: Case) -> np.ndarray:
    """(N, N) the exact score of every pair."""
    x, preset = device.put(case.features), mabm.PRESETS["spcl"]
    everything = mabm.rank_neighbors(
        x, k1=len(x), preset=replace(preset, metric=case.preset.metric)
    )
    table = np.empty((len(x), len(x)))
    np.put_along_axis(table, device.get(everything.ranks), device.get(everything.scores), axis=1)
    return table


@given(cases(kinds=TELLING_APART))
def test_a_search_that_misses_nothing_gives_the_exact_ranking(device: Device, case: Case) -> None:
    options = {"k1": case.k1, "preset": case.preset}
    exact = mabm.rank_neighbors(*device.inputs(case), **options)
    found = mabm.rank_neighbors(*device.inputs(case), **options, precision=BruteForce())
    np.testing.assert_array_equal(device.get(found.ranks), device.get(exact.ranks))
    np.testing.assert_array_equal(device.get(found.scores), device.get(exact.scores))
    assert found.widths == exact.widths
    ones = (1.0,) * len(exact.widths)
    assert found.recall == mabm.RankingRecall(1.0, ones, len(case.features))
    assert exact.recall is None


@given(cases())
def test_whatever_is_found_is_ranked_by_exact_scores(device: Device, case: Case) -> None:
    options = {"k1": case.k1, "preset": case.preset}
    lossy = Without(lambda members, indices: indices % 3 == np.arange(len(indices))[:, None] % 3)
    found = mabm.rank_neighbors(*device.inputs(case), **options, precision=lossy)
    table = table_of_scores(device, case)
    row = np.arange(len(table))[:, None]
    for number, listed in enumerate(found.lists()):
        ranks = device.get(listed)
        filled = ranks >= 0
        groups = case.modality[ranks]
        if case.preset.lists == "per_group":
            assert (groups == np.unique(case.modality)[number])[filled].all()
        elif case.preset.lists == "intra_inter":
            assert ((groups == case.modality[:, None]) == (number == 0))[filled].all()
        scores = np.where(filled, table[row, ranks], -np.inf)
        before, after = scores[:, :-1], scores[:, 1:]
        in_order = (before > after) | ((before == after) & (ranks[:, :-1] < ranks[:, 1:]))
        assert (in_order | ~filled[:, 1:]).all()
    ranks, scores = device.get(found.ranks), device.get(found.scores)
    np.testing.assert_array_equal(scores, np.where(ranks >= 0, table[row, ranks], -np.inf))


@given(cases())
def test_recall_is_the_share_of_the_exact_lists_that_is_found(device: Device, case: Case) -> None:
    options = {"k1": case.k1, "preset": case.preset}
    lossy = Without(lambda members, indices: indices % 5 == 2)
    exact = mabm.rank_neighbors(*device.inputs(case), **options)
    found = mabm.rank_neighbors(*device.inputs(case), **options, precision=lossy)
    hits, sizes = [], []
    for wanted, listed in zip(exact.lists(), found.lists(), strict=True):
        rows = zip(device.get(wanted).tolist(), device.get(listed).tolist(), strict=True)
        pairs = [({*one} - {-1}, {*other}) for one, other in rows]
        hits.append(sum(len(one & other) for one, other in pairs))
        sizes.append(sum(len(one) for one, _ in pairs))
    assert found.recall is not None
    assert found.recall.total == sum(hits) / sum(sizes)
    assert found.recall.lists == tuple(
        hit / size if size else 1.0 for hit, size in zip(hits, sizes, strict=True)
    )


def test_recall_of_a_search_that_loses_known_samples(device: Device) -> None:
    # On a line, one apart: the lists of 5 around i are i - 2 to i + 2, but at the two ends.
    features = np.arange(100, dtype=np.float32)[:, None]
    lossy = Without(lambda members, indices: members[indices, 0] % 10 == 3)
    found = mabm.rank_neighbors(device.put(features), k1=5, precision=lossy)
    # Each of the 10 lost samples was in 5 lists, that of 3 in 6; its own has it all the same.
    assert found.recall == mabm.RankingRecall(459 / 500, (459 / 500,), 100)
    assert device.get(found.ranks)[50].tolist() == [50, 49, 51, 48, 52]
    assert device.get(found.ranks)[44].tolist() == [44, 45, 42, 46, 41]
    assert device.get(found.ranks)[43].tolist() == [43, 42, 44, 41, 45]


def test_recall_is_told_for_each_list(device: Device) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 8)).astype(np.float32)
    modality = np.arange(200) % 2
    features[:, 0] = modality  # tells the search which group it is asked about
    lossy = Without(lambda members, indices: (members[indices, 0] == 1) & (indices % 2 == 0))
    found = mabm.rank_neighbors(
        device.put(features), device.put(modality), k1=10, preset="bmil", precision=lossy
    )
    assert found.recall is not None
    whole, half = found.recall.lists
    assert whole == 1
    assert 0.3 < half < 0.7
    assert found.recall.total == pytest.approx((whole + half) / 2)


def test_rows_are_drawn_alike_from_alternating_groups(device: Device) -> None:
    features = np.random.default_rng(1).normal(size=(1024, 4)).astype(np.float32)
    half = Without(lambda members, indices: np.arange(len(indices))[:, None] % 2 == indices * 0)
    half.recall_rows = 256
    state = torch.random.get_rng_state()
    first, again = (
        mabm.rank_neighbors(device.put(features), k1=20, precision=half).recall for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again
    assert first is not None
    assert first.num_rows == 256
    assert 0.4 < first.total < 0.65  # every other row has only itself, one of 20


@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
def test_a_sample_is_a_candidate_of_its_own_list(device: Device, preset: str) -> None:
    features = np.random.default_rng(2).normal(size=(60, 8)).astype(np.float32)
    modality = np.arange(60) % 2
    inputs = device.put(features), device.put(modality)
    options = {} if preset == "ca_jaccard" else {"k1": 6, "k2": 2}
    ranked = {name: value for name, value in options.items() if name != "k2"}
    found = mabm.rank_neighbors(*inputs, **ranked, preset=preset, precision=Nothing())
    ranks = device.get(found.ranks)
    assert ((ranks >= 0).sum(axis=1) == 1).all()
    assert (ranks.max(axis=1) == np.arange(60)).all()
    starts = np.cumsum([0, *found.widths])
    own = modality if preset == "bmil" else 0 * modality
    assert (ranks.argmax(axis=1) == starts[own]).all()
    assert mabm.pseudo_labels(*inputs, **options, preset=preset, precision=Nothing()).num_noise


def test_a_longer_vector_still_ranks_before_the_sample_itself() -> None:
    features = np.array([[1.0, 0.0], [0.9, 0.1], [5.0, 5.0]], dtype=np.float32)
    ranking = mabm.rank_neighbors(features, np.zeros(3, int), k1=2, precision=BruteForce())
    assert ranking.ranks.tolist() == [[2, 0], [2, 0], [2, 0]]


def test_a_sample_that_is_found_twice_is_listed_once() -> None:
    features = np.arange(40, dtype=np.float32)[:, None]
    twice = np.repeat([[3, 3, 7, 7, 3, -1]], 40, axis=0)
    answer = Answer((np.ones((40, 6), np.float16), twice.astype(np.int8)))
    ranks = mabm.rank_neighbors(features, k1=6, precision=answer).ranks
    assert ranks[5].tolist() == [5, 3, 7, -1, -1, -1]
    assert ranks[3].tolist() == [3, 7, -1, -1, -1, -1]


def test_scores_that_are_no_numbers_leave_candidates_in() -> None:
    features = np.random.default_rng(3).normal(size=(20, 3)).astype(np.float32)
    every = np.tile(np.arange(20), (20, 1))
    exact = mabm.rank_neighbors(features, k1=6)
    for score in (np.nan, np.inf, -np.inf, 1e300):
        answer = Answer((np.full((20, 20), score), every))
        found = mabm.rank_neighbors(features, k1=6, precision=answer)
        np.testing.assert_array_equal(found.ranks, exact.ranks)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("preset", mabm.PRESETS)
def test_the_smallest_inputs(device: Device, count: int, preset: str) -> None:
    inputs = device.put(np.ones((count, 2), np.float32)), device.put(np.zeros(count, int))
    found = mabm.rank_neighbors(*inputs, preset=preset, precision=BruteForce())
    exact = mabm.rank_neighbors(*inputs, preset=preset)
    np.testing.assert_array_equal(device.get(found.ranks), device.get(exact.ranks))
    assert found.recall == mabm.RankingRecall(1.0, (1.0,) * len(exact.widths), count)


TAKE_PRECISION: dict[str, Callable[..., Any]] = {
    "encode_samples": lambda *a, **o: mabm.encode_samples(*a, **o).weights,
    "modality_jaccard": mabm.modality_jaccard,
    "jaccard_graph": lambda *a, **o: mabm.jaccard_graph(*a, **o).distances,
    "pseudo_labels": lambda *a, **o: mabm.pseudo_labels(*a, **o).labels,
    "rerank": lambda x, m, **o: mabm.rerank(x[:20], x[20:], m[:20], m[20:], **o),
    "predict_labels": lambda x, m, **o: mabm.predict_labels(
        x[:20], m[:20], x[20:], mabm.pseudo_labels(x[20:], m[20:], **o), **o
    ),
    "ModalityDBSCAN": lambda x, m, **o: mabm.ModalityDBSCAN(**o).fit(x, modality=m).labels_,
}


@pytest.mark.parametrize("name", TAKE_PRECISION)
def test_every_function_takes_a_search(name: str) -> None:
    rng = np.random.default_rng(4)
    person = rng.permutation(np.arange(12).repeat(10))
    features = rng.normal(size=(12, 16))[person] + 0.3 * rng.normal(size=(120, 16))
    inputs = features.astype(np.float32), np.arange(120) % 2
    found, exact, missed = (
        TAKE_PRECISION[name](*inputs, k1=12, k2=3, precision=precision)
        for precision in (BruteForce(), "exact", Nothing())
    )
    np.testing.assert_array_equal(found, exact)
    assert not np.array_equal(missed, exact)


ROWS = np.zeros((12, 3))
WRONG_ANSWERS = {
    "nothing": (None, TypeError, "must be scores and indices, got NoneType: None"),
    "one array": (ROWS, TypeError, "must be scores and indices, got ndarray"),
    "lists": ((ROWS.tolist(), ROWS.tolist()), TypeError, r"\[0\] must be .* got list"),
    "swapped": ((ROWS.astype(int), ROWS), TypeError, r"\[0\] must be floating point, got .*int64"),
    "fractions": ((ROWS, ROWS), TypeError, r"\[1\] must be integers, got dtype torch.float64"),
    "too few rows": (
        (ROWS[:5], ROWS[:5].astype(int)),
        ValueError,
        r"must be two of \(12, C\), one row per sample, got \(5, 3\) and \(5, 3\)",
    ),
    "two widths": ((ROWS, ROWS[:, :2].astype(int)), ValueError, r"got \(12, 3\) and \(12, 2\)"),
    "too large": ((ROWS, ROWS.astype(int) + 12), ValueError, r"be in \[-1, 12\), got 12 to 12"),
    "negative": ((ROWS, ROWS.astype(int) - 2), ValueError, r"must be in \[-1, 12\), got -2 to -2"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_wrong_answer_is_named(name: str) -> None:
    answer, error, message = WRONG_ANSWERS[name]
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    with pytest.raises(error, match=rf"^precision\.find_candidates\(\.\.\.\).*{message}"):
        mabm.rank_neighbors(features, precision=Answer(answer))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (0, ValueError, "precision.recall_rows must be at least 1, got 0"),
        (2.5, TypeError, "precision.recall_rows must be an integer, got float: 2.5"),
    ],
)
def test_rows_to_measure_on_are_checked_first(
    rows: object, error: type[Exception], message: str
) -> None:
    search = Answer(None)
    search.recall_rows = rows  # type: ignore[attr-defined]
    with pytest.raises(error, match=message):
        mabm.rank_neighbors(np.ones((12, 4), np.float32), precision=search)


def test_a_search_is_not_an_option_of_a_record() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of \('exact', 'fast'\), got"):
        mabm.RerankOptions(precision=BruteForce())  # type: ignore[arg-type]


def test_the_recall_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    features = np.arange(100, dtype=np.float32)[:, None]
    lossy = Without(lambda members, indices: members[indices, 0] % 10 == 3)
    with caplog.at_level(logging.INFO, logger="mabm"):
        mabm.pseudo_labels(features, k1=5, k2=1, precision=lossy)
    said = "recall 0.9180 on 100 rows (by list: 0.9180): ranked approximately, by Without"
    assert said in caplog.messages


def test_a_recall_is_one_of_the_ranking_that_has_it() -> None:
    parts = np.zeros((3, 2), dtype=np.int64), np.zeros((3, 2)), (2,), mabm.PRESETS["spcl"], 2, None
    recall = mabm.RankingRecall(0.5, (0.5,), 3)
    assert mabm.Ranking(*parts, recall).recall == recall
    with pytest.raises(TypeError, match="recall must be of RankingRecall, got float"):
        mabm.Ranking(*parts, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recall must be of 1 lists, got 2"):
        mabm.Ranking(*parts, mabm.RankingRecall(0.5, (0.5, 0.5), 3))
    with pytest.raises(ValueError, match=r"total must be in \[0, 1\], got 1.5"):
        mabm.RankingRecall(1.5, (0.5,), 3)
    with pytest.raises(ValueError, match=r"lists must be in \[0, 1\], got -1.0"):
        mabm.RankingRecall(0.5, (-1.0,), 3)
    with pytest.raises(ValueError, match="num_rows must be at least 0, got -1"):
        mabm.RankingRecall(0.5, (0.5,), -1)


def test_progress_is_that_of_the_groups() -> None:
    reports: list[mabm.Progress] = []
    features = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    mabm.rank_neighbors(
        features, np.arange(90) % 3, precision=BruteForce(), progress=reports.append
    )
    assert (reports[0].stage, reports[0].done, reports[-1].done) == ("ranking", 0, 90)
    assert all(report.total == 90 for report in reports)


def test_defaults_of_the_process_change_nothing() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32))
    modality = torch.arange(90) % 3
    lossy = Without(lambda members, indices: indices % 5 == 2)
    expected = mabm.rank_neighbors(features, modality, precision=lossy)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"), torch.inference_mode():
            found = mabm.rank_neighbors(features, modality, precision=lossy)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.ranks, expected.ranks)
    assert found.recall == expected.recall
