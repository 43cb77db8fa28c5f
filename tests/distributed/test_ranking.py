"""Shards ranked by several processes: the lists of one process that has all samples."""

import numpy as np
import pytest
import torch
from cases import KINDS, Case, cases, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from team_stages import shards_of, splits
from thread_team import run_as_team

import mabm
from mabm import PRESETS
from mabm._core.work import Progress, Work
from mabm.distance import candidates, ranking, rung_choice, screening
from mabm.distance.options import DistanceOptions
from mabm.distance.products import HalfProduct
from mabm.distributed import neighbor_lists
from mabm.distributed import ranking as shard_ranking
from mabm.distributed.ranking import Visit, rank_shards
from mabm.distributed.team import Team

MAX_TEAM = 5


def rank_as_team(
    x: torch.Tensor, groups: torch.Tensor | None, counts: list[int], options: DistanceOptions
) -> tuple[list[mabm.Ranking], list[int]]:
    """The rankings of all processes, and the bytes that each has sent."""
    shards = shards_of(x, groups, counts)

    def act(team: Team) -> tuple[mabm.Ranking, int]:
        found = rank_shards(team, shards[team.rank], options)
        assert set(team.sent_bytes) <= {"ranking"}
        return found, team.sent_bytes["ranking"]

    rankings, sent = zip(*run_as_team(len(counts), act), strict=True)
    return list(rankings), list(sent)


def check(
    features: np.ndarray,
    modality: np.ndarray | None,
    counts: list[int],
    k1: int = 12,
    preset: str | mabm.Preset = "bmil",
) -> list[int]:
    """Compares every part of the rankings with that of one process; returns the bytes sent."""
    x = torch.from_numpy(features.astype(np.float32))
    groups = None if modality is None else torch.from_numpy(modality)
    preset = PRESETS[preset] if isinstance(preset, str) else preset
    expected = mabm.rank_neighbors(x, groups, k1=k1, preset=preset)
    options = DistanceOptions(k1, 1 if preset.query_expansion != "pooled" else 6, preset)
    rankings, sent = rank_as_team(x, groups, counts, options)
    ranks = torch.cat([found.ranks for found in rankings])
    scores = torch.cat([found.scores for found in rankings])
    assert torch.equal(ranks, expected.ranks)
    assert torch.equal(scores.view(torch.int64), expected.scores.view(torch.int64))
    for found, count in zip(rankings, counts, strict=True):
        assert len(found.ranks) == count
        assert found.widths == expected.widths
        assert (found.preset, found.k1, found.recall) == (preset, k1, None)
    if groups is None:
        assert all(found.groups is None for found in rankings)
    else:
        assert torch.equal(torch.cat([found.groups for found in rankings]), groups)
    return sent


@pytest.fixture(params=["cpu", "gpu"])
def in_small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either route, with blocks and tiles so small that there are several of each."""
    monkeypatch.setattr(shard_ranking, "_PIECES", 4)
    monkeypatch.setattr(neighbor_lists, "_MERGE_BYTES", 1)
    if request.param == "gpu":
        monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)
        monkeypatch.setattr(candidates, "wants_integers", lambda x: x.shape[1] > 2)
        monkeypatch.setattr(candidates, "product_of", HalfProduct)
        monkeypatch.setattr(candidates, "_TILE", 64)
    else:
        monkeypatch.setattr(screening, "_TILE", 16)
        monkeypatch.setattr(screening, "_BLOCK_BYTES", 1)
        monkeypatch.setattr(screening, "_FEW_ROWS", 1)
        monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    return str(request.param)


def check_case(case: Case, data: st.DataObject) -> None:
    counts = data.draw(splits(len(case.features), MAX_TEAM))
    check(case.features, case.modality, counts, case.k1, case.preset)


@given(cases(max_size=60), st.data())
def test_any_split_gives_the_ranking_of_one_process(case: Case, data: st.DataObject) -> None:
    check_case(case, data)


def test_any_split_in_small_parts(in_small_parts: str) -> None:
    @settings(max_examples=25)
    @given(cases(max_size=60), st.data())
    def each(case: Case, data: st.DataObject) -> None:
        check_case(case, data)

    each()


@pytest.mark.parametrize("size", range(1, MAX_TEAM + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_features(kind: str, size: int, in_small_parts: str) -> None:
    modality = np.random.default_rng(size).integers(0, 3, size=101)
    features = make_features(kind, modality, seed=size)
    counts = [101 // size] * (size - 1)
    preset = list(PRESETS)[(size + KINDS.index(kind)) % len(PRESETS)]  # each with each kind
    k1 = 30 if preset == "ca_jaccard" else 10
    check(features, modality, [*counts, 101 - sum(counts)], k1, preset)


@pytest.mark.parametrize(
    "counts",
    [[0], [0, 0], [0, 0, 0], [1, 0], [0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 5], [2, 0, 3]],
    ids=str,
)
def test_few_rows(counts: list[int], in_small_parts: str) -> None:
    count = sum(counts)
    features = np.random.default_rng(count).normal(size=(count, 4))
    check(features, np.arange(count) % 2, counts)
    check(features, None, counts, preset="spcl")


@pytest.mark.parametrize("preset", ["bmil", "ca_jaccard"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_one_modality_on_each_process(size: int, preset: str, in_small_parts: str) -> None:
    modality = np.repeat(np.arange(size), 20)
    features = make_features("clustered", modality, seed=3)
    check(features, modality, [20] * size, 30, preset)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "scale",
    [1e-42, 1e-20, 1e17, 3e37, 10.0 ** np.linspace(-20, 20, 80)[:, None]],
    ids=["denormal", "tiny", "huge", "sums that overflow", "every magnitude"],
)
def test_odd_magnitudes(scale: float | np.ndarray, size: int, in_small_parts: str) -> None:
    features = np.random.default_rng(7).normal(size=(80, 20)) * scale
    counts = [80 // size] * (size - 1)
    for preset in ("bmil", "spcl"):
        check(features, np.arange(80) % 2, [*counts, 80 - sum(counts)], preset=preset)


def test_lists_that_overflow_are_ranked_exactly(in_small_parts: str) -> None:
    # Far more equal rows than places, and all rows are on one of two points.
    features = np.repeat(np.random.default_rng(0).normal(size=(2, 6)), 150, axis=0)[::-1]
    for counts in ([150, 150], [70, 90, 140], [10, 140, 0, 150]):
        check(features, np.arange(300) % 2, counts, k1=6)


def test_minus_zero_and_zero_are_one_score() -> None:
    # By inner product, scores of the first row are 0 or -0: the lower number comes first.
    features = np.array([[0.0, 1.0], [-1.0, 0.0], [1.0, -0.0], [-1.0, -0.0], [1.0, 0.0]])
    for counts in ([2, 3], [1, 1, 3], [1, 2, 1, 1]):
        check(features, np.zeros(5, dtype=np.int64), counts, k1=5)


def test_fast_is_passed_through() -> None:
    modality = np.arange(90) % 2
    x = torch.from_numpy(make_features("gaussian", modality, seed=1))
    groups = torch.from_numpy(modality)
    options = DistanceOptions(10, 1, PRESETS["bmil"], "fast")
    asked: list[bool] = []

    def note(*args: object) -> object:
        asked.append(bool(args[3]))
        return propose(*args)

    propose = ranking.propose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "propose", note)
        rankings, _ = rank_as_team(x, groups, [40, 50], options)
    assert asked
    assert all(asked)
    found = torch.cat([each.ranks for each in rankings])
    expected = mabm.rank_neighbors(x, groups, k1=10).ranks
    assert (found == expected).double().mean() > 0.9


def travel_bytes(counts: list[int], rank: int, row_bytes: int) -> int:
    """Bytes of the rows that a process sends to the one before it, on their way."""
    steps, size = range(1, len(counts) // 2 + 1), len(counts)
    return row_bytes * sum(
        len(Visit.of(tuple(counts), (rank - 1) % size, step, piece))
        for step in steps
        for piece in range(shard_ranking._PIECES)
    )


def visits_at(counts: list[int], rank: int) -> list[Visit]:
    return [
        Visit.of(tuple(counts), rank, step, piece)
        for step in range(1, len(counts) // 2 + 1)
        for piece in range(shard_ranking._PIECES)
    ]


SPLITS = [[20, 30], [31, 0], [7, 8, 9], [9, 0, 20, 5], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize("counts", SPLITS, ids=str)
def test_each_pair_is_compared_once(counts: list[int]) -> None:
    firsts = np.cumsum([0, *counts])
    seen = np.zeros((firsts[-1], firsts[-1]), dtype=int)
    for rank in range(len(counts)):
        own = slice(firsts[rank], firsts[rank + 1])
        seen[own, own] += 1
        for visit in visits_at(counts, rank):
            rows = np.arange(counts[visit.owner])[visit.rows] + firsts[visit.owner]
            hosts = np.arange(counts[rank])[visit.hosts] + firsts[rank]
            seen[np.ix_(rows, hosts)] += 1
            seen[np.ix_(hosts, rows)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("counts", SPLITS, ids=str)
def test_bytes_of_lists_that_take_all(counts: list[int]) -> None:
    total, dim = sum(counts), 11
    features = np.random.default_rng(0).normal(size=(total, dim))
    sent = check(features, np.arange(total) % 2, counts, k1=2 * total)
    for rank, found in enumerate(sent):
        # Features, the group, and the least scores of two lists.
        expected = travel_bytes(counts, rank, 4 * dim + 4 + 2 * 8)
        for visit in visits_at(counts, rank):
            hosts = len(range(visit.hosts.start, visit.hosts.stop))
            # Two numbers of entries for each visitor; for each entry a number and a score.
            expected += len(visit) * (2 * 4 + hosts * (4 + 8))
        assert found == expected


def test_samples_that_are_not_wanted_do_not_travel() -> None:
    # The nearest of each sample are all on its own process.
    person = np.repeat(np.arange(9), 10)
    features = np.eye(9)[person] + 0.01 * np.random.default_rng(1).normal(size=(90, 9))
    sent = check(features, np.arange(90) % 2, [30, 30, 30], k1=6)
    travel = travel_bytes([30, 30, 30], 0, 4 * 9 + 4 + 2 * 8)
    assert sent == [travel + 30 * 2 * 4] * 3


def test_reports_rows_of_the_process() -> None:
    x = torch.randn(30, 5)
    shards = shards_of(x, None, [12, 18])
    options = DistanceOptions(4, 1, PRESETS["spcl"])

    def act(team: Team) -> list[Progress]:
        reports: list[Progress] = []
        rank_shards(team, shards[team.rank], options, Work.of(progress=reports.append))
        return reports

    for reports, count in zip(run_as_team(2, act), [12, 18], strict=True):
        assert {(each.stage, each.total) for each in reports} == {("ranking", count)}
        assert (reports[0].done, reports[-1].done) == (0, count)
