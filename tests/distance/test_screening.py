"""Screening on the CPU: the bounds of every rung hold, and only what they allow is dropped."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from numpy.typing import NDArray

import mabm
from mabm.distance import rung_choice, screening
from mabm.distance.list_layout import ListLayout
from mabm.distance.projection import Projection, leading_directions, projection_on
from mabm.distance.rung_choice import Plan
from mabm.distance.rungs import Measures, Rung, float_rung, measure, projected_rung

MakeRung = Callable[[torch.Tensor, Measures], Rung]


def project(x: torch.Tensor, measures: Measures) -> Rung:
    """The rung of the leading half of all directions, at most 32."""
    width = max(1, min(32, x.shape[1] // 2, len(x)))
    centered = (x - measures.center) * measures.unit
    directions = leading_directions(centered, width)
    assert directions is not None
    return projected_rung(x, measures, projection_on(directions))


def project_anywhere(x: torch.Tensor, measures: Measures, *, length: float) -> Rung:
    """The rung of a direction that means nothing, and is not even of length 1."""
    direction = torch.ones(x.shape[1], 1) * (length / math.sqrt(x.shape[1]))
    return projected_rung(x, measures, projection_on(direction))


def with_own_errors(x: torch.Tensor, measures: Measures, *, is_coarse: bool) -> Rung:
    """float32 with errors of rows and of columns that are far from small."""
    rung = float_rung(x, measures)
    errors = torch.arange(len(x)).to(torch.float32) % 7 / 64
    return dataclasses.replace(
        rung,
        biases=rung.biases + errors,
        margins=rung.margins + errors * 1.001,
        slacks=rung.slacks + errors.flip(0),
        is_coarse=is_coarse,
    )


RUNGS: dict[str, MakeRung] = {
    "float32": float_rung,
    "errors in one pass": functools.partial(with_own_errors, is_coarse=False),
    "errors in two passes": functools.partial(with_own_errors, is_coarse=True),
    "leading directions": project,
    "a short direction": functools.partial(project_anywhere, length=0.9),
    "a long direction": functools.partial(project_anywhere, length=1.1),
}


@pytest.fixture(params=RUNGS)
def make_rung(request: pytest.FixtureRequest) -> MakeRung:
    return RUNGS[request.param]


def noise(scale: float | NDArray[np.float64], seed: int = 7) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(30, 48)) * scale).astype(np.float32)


def close_rows(dim: int, spread: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(dim)
    return (1 + spread * rng.normal(size=(30, dim))).astype(np.float32)


INPUTS: dict[str, NDArray[np.float32]] = {
    **{kind: make_features(kind, np.arange(30) % 2, seed=8).astype(np.float32) for kind in KINDS},
    **{f"D={d} spread={s:g}": close_rows(d, s) for d in (1, 300, 2048) for s in (1e-4, 1e-6)},
    **{f"scale {scale:g}": noise(scale) for scale in (1e-42, 1e-30, 1e-20, 1e17, 1e20, 1e30)},
    "sums that overflow": noise(3e37),
    "differences that overflow": np.repeat([[3e38] * 3, [-3e38] * 3], [24, 6], axis=0).astype("f4"),
    "all equal": np.full((30, 7), 0.3, np.float32),
    "zeros": np.zeros((30, 7), np.float32),
    "one column": noise(1.0)[:, :1].copy(),
    "a giant row": noise(np.r_[1e6, np.ones(29)][:, None]),
    "a giant column": noise(np.r_[1e5, np.full(47, 1e-4)]),
    "every magnitude by column": noise(10.0 ** np.linspace(-12, 4, 48)),
    "every magnitude by row": noise(10.0 ** np.linspace(-20, 20, 30)[:, None]),
    "cancellation": np.concatenate([noise(1.0)[:15], -noise(1.0)[:15]]),
    "near ties": np.repeat(noise(1.0)[:3], 10, axis=0) * (1 + 1e-7 * noise(1.0, seed=2)),
    "few directions": (noise(1.0)[:, :4] @ noise(1.0)[:4]).astype(np.float32),
}


@functools.cache
def exact_scores(name: str, euclidean: bool) -> NDArray[np.float64]:
    """(N, N) exact scores; by Euclidean distance, minus half of its square."""
    wide = INPUTS[name].astype(np.float64)
    scores = np.empty((len(wide), len(wide)))
    for i, row in enumerate(wide):
        for j, other in enumerate(wide[: i + 1]):
            terms = -((row - other) ** 2) / 2 if euclidean else row * other
            scores[i, j] = scores[j, i] = math.fsum(terms.tolist())
    return scores


def one_list(count: int, width: int) -> ListLayout:
    groups = torch.zeros(count, dtype=torch.int32)
    return ListLayout(groups, torch.zeros(1, 1, dtype=torch.int32), [width])


def screen_with(
    x: torch.Tensor, make_rung: MakeRung, layout: ListLayout, capacity: int, euclidean: bool
) -> tuple[Rung, Measures, screening.ScreenLists]:
    """The lists of all rows after one rung."""
    measures = measure(x, euclidean)
    rung = make_rung(x, measures)
    order = torch.arange(len(x), dtype=torch.int32)
    lists = screening.ScreenLists.empty(order, layout.widths, capacity)
    screening.fill_lists(lists, rung, layout, order, None, lambda number: None)
    return rung, measures, lists


def gaps_of(rung: Rung) -> NDArray[np.float64]:
    """(N, N) twice the bound on the error of each pair."""

    def outer(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
        return np.outer(a.numpy().astype(np.float64), b.numpy().astype(np.float64))

    ones = torch.ones_like(rung.residuals)
    half = outer(rung.residuals, rung.residuals) + outer(ones, rung.margins)
    return 2 * (half + outer(rung.slacks, ones))


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_every_exact_score_is_within_the_bounds(
    name: str, euclidean: bool, make_rung: MakeRung
) -> None:
    x = torch.from_numpy(INPUTS[name])
    count = len(x)
    # Lists as long as there are samples drop nothing: every bound is there.
    rung, measures, lists = screen_with(x, make_rung, one_list(count, count), 2 * count, euclidean)
    overflowed = (lists.counts[:, 0] < 0).numpy()
    assert name == "sums that overflow" or not overflowed.any()
    bounds = np.full((count, count), np.nan)
    indices = lists.candidates[:, 0, :count].numpy().astype(np.int64)
    for row in np.flatnonzero(~overflowed):
        assert sorted(indices[row]) == list(range(count))
        bounds[row, indices[row]] = lists.bounds[row, 0, :count].numpy()
    scale = 2 * measures.area if euclidean else measures.area
    scores = exact_scores(name, euclidean) * scale
    # The constant of each row, and its error, are known: mabm::rank_candidates relies on them.
    offsets = measures.offsets.numpy()[:, None]
    kept = ~overflowed
    assert (scores <= bounds + offsets)[kept].all()
    errors = bounds + offsets - scores
    assert (np.ptp(errors, axis=1) <= gaps_of(rung).max(axis=1))[kept].all()


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_float32_are_tight(kind: str, euclidean: bool) -> None:
    x = torch.from_numpy(INPUTS[kind])
    measures = measure(x, euclidean)
    gaps = gaps_of(float_rung(x, measures))
    lengths = measures.lengths.numpy() + float(measures.center.norm()) * measures.unit
    assert (gaps <= 64 * x.shape[1] * 2.0**-24 * (lengths[:, None] + lengths) ** 2 + 1e-30).all()


def test_bounds_of_leading_directions_are_those_of_what_they_leave_out() -> None:
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(8, 1.0), np.full(56, 1e-2)]
    x = torch.from_numpy((rng.normal(size=(300, 64)) * spread).astype(np.float32))
    measures = measure(x, euclidean=False)
    rung = projected_rung(x, measures, projection_on(torch.eye(64)[:, :8].contiguous()))
    centered = (x - measures.center).numpy()[:, 8:] * measures.unit
    left_out = np.linalg.norm(centered, axis=1)
    assert (rung.residuals.numpy() >= left_out).all()
    lengths = measures.centered.numpy()
    assert (rung.residuals.numpy() ** 2 <= left_out**2 + 1e-4 * lengths**2).all()


@pytest.mark.parametrize("groups", [1, 2, 7])
def test_lists_are_what_the_bounds_leave(groups: int, make_rung: MakeRung) -> None:
    rng = np.random.default_rng(groups)
    count, width = 500, 4
    x = torch.from_numpy(rng.normal(size=(count, 40)).astype(np.float32))
    group = torch.from_numpy(rng.integers(0, groups, size=count).astype(np.int32))
    lists_of = torch.arange(groups, dtype=torch.int32).expand(groups, -1).contiguous()
    layout = ListLayout(group, lists_of, [width] * groups)
    rung, _, everything = screen_with(x, make_rung, one_list(count, count), count, False)
    bounds = np.empty((count, count), np.float32)
    np.put_along_axis(
        bounds, everything.candidates[:, 0].numpy().astype(np.int64), everything.bounds[:, 0], 1
    )
    lower = bounds.astype(np.float64) - gaps_of(rung)
    _, _, found = screen_with(x, make_rung, layout, count, False)
    for number in range(groups):
        members = np.flatnonzero(group.numpy() == number)
        for row in range(count):
            least = np.sort(lower[row, members])[-width]
            expected = members[bounds[row, members] >= np.float32(least)]
            size = int(found.counts[row, number])
            kept = set(found.candidates[row, number, :size].tolist())
            # A bound that is a rounding away from the threshold may stay.
            near = members[bounds[row, members] >= least - 1e-6 * abs(least)]
            assert set(expected.tolist()) <= kept <= set(near.tolist())


def test_lists_do_not_overflow_before_near_samples_are_seen() -> None:
    # Bounds wider than the spread of all but the nearest: until those are seen, all could be near.
    rng = np.random.default_rng(5)
    centers = np.linalg.qr(rng.normal(size=(128, 100)))[0].T
    rows = np.concatenate([np.tile(centers, (12, 1)), 0.25 * rng.normal(size=(1200, 64))], axis=1)
    rows[:, 128:] *= 0.3 / np.linalg.norm(rows[:, 128:], axis=1, keepdims=True)
    x = torch.from_numpy(rows.astype(np.float32))
    directions = projection_on(torch.eye(192)[:, :128].contiguous())

    def in_centers(x: torch.Tensor, measures: Measures) -> Rung:
        return projected_rung(x, measures, directions)

    _, _, lists = screen_with(x, in_centers, one_list(len(x), 10), 48, euclidean=False)
    assert bool((lists.counts == 12).all())


def force(monkeypatch: pytest.MonkeyPatch, make_rung: MakeRung, capacity: int) -> None:
    """Ranking takes this rung, with lists of this capacity, and exact scores for the rest."""

    def plan(x: torch.Tensor, layout: ListLayout, measures: Measures, sides: object) -> Plan:
        cells = torch.arange(len(x), dtype=torch.int32) % 5
        return Plan([lambda: make_rung(x, measures)], capacity, cells)

    monkeypatch.setattr(screening, "choose_rungs", plan)


def ranked_exactly(x: torch.Tensor, like: mabm.Ranking) -> torch.Tensor:
    groups = torch.zeros(len(x), dtype=torch.int64) if like.groups is None else like.groups
    layout = ListLayout.of(x, groups, like.preset, like.k1)
    return torch.ops.mabm.rank_exactly(
        x,
        torch.arange(len(x)),
        layout.groups,
        layout.list_of_group,
        layout.widths,
        like.preset.metric == "euclidean",
    )


@pytest.mark.parametrize("capacity", [7, 8, 24, 200])
@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
@pytest.mark.parametrize("name", INPUTS)
def test_ranks_are_exact_whatever_the_rung_and_the_capacity(
    name: str, preset: str, capacity: int, make_rung: MakeRung, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, make_rung, capacity)
    rows = np.concatenate([INPUTS[name], INPUTS[name][::-1] * np.float32(0.75)])
    x = torch.from_numpy(rows)
    k1 = 30 if preset == "ca_jaccard" else 6
    found = mabm.rank_neighbors(x, torch.arange(len(x)) % 3, k1=k1, preset=preset)
    ranks, scores = ranked_exactly(x, found)
    assert torch.equal(found.ranks, ranks)
    assert torch.equal(found.scores, scores)


def test_rungs_prove_what_they_can_and_leave_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    spread = np.r_[np.full(16, 1.0), np.full(48, 0.05)]
    features = rng.normal(size=(1500, 64)) * spread
    features[:700] = features[0]  # nothing tells them apart
    features[700:1000, :16] = features[700, :16]  # nor the leading directions these
    x = torch.from_numpy(features.astype(np.float32))

    def plan(x: torch.Tensor, layout: ListLayout, measures: Measures, sides: object) -> Plan:
        directions = projection_on(torch.eye(64)[:, :16].contiguous())
        rungs = [lambda: projected_rung(x, measures, directions), lambda: float_rung(x, measures)]
        return Plan(rungs, 80, torch.zeros(len(x), dtype=torch.int32))

    monkeypatch.setattr(screening, "choose_rungs", plan)
    with caplog.at_level("DEBUG", logger="mabm.distance.ranking"):
        found = mabm.rank_neighbors(x, k1=10)
    assert torch.equal(found.ranks, ranked_exactly(x, found)[0])
    numbers = [int(number) for number in re.findall(r"(\d+) by", caplog.text)]
    assert sum(numbers[:3]) == 1500
    leading, float32, exact = numbers[:3]
    assert leading > 400
    assert float32 > 200
    assert 700 <= exact < 750


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
def test_samples_too_far_apart_for_float32_are_in_the_lists(preset: str) -> None:
    x = torch.tensor([[3e38], [3e38], [3e38], [-3e38]])
    found = mabm.rank_neighbors(x, torch.zeros(4, dtype=torch.int64), k1=4, preset=preset)
    assert found.ranks.tolist() == [[0, 1, 2, 3]] * 3 + [[3, 0, 1, 2]]


def test_a_bound_that_is_not_finite_leaves_the_row_and_reads_no_padding() -> None:
    groups = torch.tensor([1 << 28, *[0] * 20], dtype=torch.int32)[1:]  # before it what is no group
    layout = ListLayout(groups, torch.zeros(1, 1, dtype=torch.int32), [4])

    def make(x: torch.Tensor, measures: Measures) -> Rung:
        rung = float_rung(x, measures)
        rung.residuals[3] = torch.inf
        return rung

    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(4))
    _, _, lists = screen_with(x, make, layout, 20, euclidean=False)
    assert (lists.counts < 0).all()  # everything may be near row 3


@pytest.mark.parametrize("max_memory", [None, 1, 1 << 16])
def test_rows_in_blocks_have_the_same_lists(max_memory: int | None) -> None:
    x = torch.randn(700, 70, generator=torch.Generator().manual_seed(1))
    layout = ListLayout.of(x, torch.arange(700) % 2, mabm.PRESETS["bmil"], 8)
    proposals = list(screening.screen(x, layout, False, False, max_memory, lambda number: None))
    assert (len(proposals) > 1) == (max_memory is not None)
    rows = torch.cat([proposal.rows for proposal in proposals])
    assert sorted(rows.tolist()) == list(range(700))
    expected = mabm.rank_neighbors(x, torch.arange(700) % 2, k1=8).ranks
    for proposal in proposals:
        for at, row in enumerate(proposal.rows.tolist()):
            for number in range(2):
                size = int(proposal.counts[at, number])
                kept = proposal.candidates[at, number, :size].tolist()
                wanted = expected[row, 4 * number : 4 * number + 4].tolist()
                assert set(wanted) <= set(kept)
                assert len(set(kept)) == size


def test_lists_that_take_too_much_memory_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(900, 20, generator=torch.Generator().manual_seed(3))
    modality = torch.arange(900) % 3
    expected = mabm.rank_neighbors(x, modality, k1=9)
    monkeypatch.setattr(screening, "_LIST_BYTES", 1)
    layout = ListLayout.of(x, modality, mabm.PRESETS["bmil"], 9)
    assert len(list(screening.screen(x, layout, False, False, None, lambda number: None))) > 1
    found = mabm.rank_neighbors(x, modality, k1=9)
    assert torch.equal(found.ranks, expected.ranks)


@pytest.mark.parametrize("side", [192, 384])
def test_blocks_of_samples_change_nothing(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, 33, generator=torch.Generator().manual_seed(2))
    modality = torch.arange(1000) % 3
    expected = mabm.rank_neighbors(x, modality, k1=9)
    monkeypatch.setattr(screening, "_BLOCK_BYTES", side * 4 * 33)
    found = mabm.rank_neighbors(x, modality, k1=9)
    assert torch.equal(found.ranks, expected.ranks)
    assert torch.equal(found.scores, expected.scores)


def test_features_of_few_directions_take_few(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    x = torch.randn(3000, 20, generator=generator) @ torch.randn(20, 512, generator=generator)
    x += 0.01 * torch.randn(3000, 512, generator=generator)
    measures = measure(x, euclidean=False)
    plan = rung_choice.choose_rungs(x, one_list(3000, 15), measures)
    assert [make().name for make in plan.rungs] == ["32 of 512 directions", "float32"]


def test_noise_takes_all_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    x = torch.randn(3000, 512, generator=torch.Generator().manual_seed(0))
    plan = rung_choice.choose_rungs(x, one_list(3000, 15), measure(x, euclidean=False))
    assert [make().operands.shape[1] for make in plan.rungs] == [512]


def test_no_row_of_plain_random_features_is_left_to_exact_scores(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = torch.Generator().manual_seed(0)
    with caplog.at_level("DEBUG", logger="mabm.distance.ranking"):
        for x in (torch.randn(2000, 256, generator=generator), torch.rand(2000, 256)):
            mabm.rank_neighbors(x)
            mabm.rank_neighbors(x, torch.arange(2000) % 2)
    assert len(caplog.messages) == 4
    assert all(message.endswith(", 0 by exact scores") for message in caplog.messages)


def test_the_mean_is_not_drawn_away_by_a_few_giant_rows() -> None:
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) + 5
    giant = x.clone()
    giant[:3] *= 1e6
    center = measure(giant, euclidean=False).center
    torch.testing.assert_close(center, x[3:].mean(dim=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("dim", "width"), [(7, 3), (300, 40), (2048, 64)])
def test_projected_rows_are_as_near_as_they_claim(dim: int, width: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    x = torch.randn(50, dim, generator=generator)
    directions = leading_directions(torch.randn(100, dim, generator=generator), width)
    assert directions is not None
    projection = projection_on(directions)
    assert isinstance(projection, Projection)
    wide = directions.double()
    exact = x.double() @ wide
    found = projection.project(x, torch.zeros(dim), 1.0).double()
    lengths = torch.linalg.vector_norm(x.double(), dim=1)
    errors = torch.linalg.vector_norm(found - exact, dim=1)
    assert bool((errors <= projection.rounding * lengths).all())
    gram = wide.T @ wide - torch.eye(width, dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(gram, 2)) <= projection.skewness
    assert projection.skewness < 1e-4
