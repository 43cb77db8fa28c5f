"""Two sides ranked among each other: what a list of all their pairs in slow loops has."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from numpy.typing import NDArray

from mabm import PRESETS
from mabm._core.work import QUIET
from mabm.distance import candidates, ranking, rung_choice, screening
from mabm.distance.candidates import Candidates
from mabm.distance.integer_products import IntegerProduct
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import FloatProduct, HalfProduct
from mabm.distance.rung_choice import Plan
from mabm.distance.rungs import Measures, Rung, float_rung, measure
from mabm.distance.sides import Sides

COUNT = 90
MODALITY = np.random.default_rng(0).permutation(np.arange(COUNT) % 7 % 3)
SIDES = {
    "halves": (slice(0, 45), slice(45, 90)),
    "the second first": (slice(30, 90), slice(0, 30)),
    "rows on no side": (slice(3, 40), slice(63, 89)),
    "one row": (slice(0, 1), slice(1, 90)),
    "one pair": (slice(8, 9), slice(70, 71)),
    "an empty side": (slice(0, 50), slice(50, 50)),
    "no rows": (slice(0, 0), slice(0, 0)),
}


def noise(scale: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.random.default_rng(7).normal(size=(COUNT, 48)) * scale


INPUTS: dict[str, NDArray[np.float64]] = {
    **{kind: make_features(kind, MODALITY, seed=8).astype(float) for kind in KINDS},
    "huge": noise(1e17),
    "sums that overflow": noise(3e37),
    "tiny": noise(1e-30),
    "denormal": noise(1e-42),
    "zeros": np.zeros((COUNT, 3)),
    "signs": np.sign(noise(1.0))[:, :4],
    "every magnitude by row": noise(10.0 ** np.linspace(-20, 20, COUNT)[:, None]),
}


def features(name: str) -> torch.Tensor:
    return torch.from_numpy(INPUTS[name].astype(np.float32))


def with_wide_errors(x: torch.Tensor, measures: Measures) -> Rung:
    """float32 with errors that leave many candidates, scored in two passes."""
    rung = float_rung(x, measures)
    errors = torch.arange(len(x)).to(torch.float32) % 7 / 64
    return dataclasses.replace(
        rung,
        biases=rung.biases + errors,
        margins=rung.margins + errors * 1.001,
        slacks=rung.slacks + errors.flip(0),
        is_coarse=True,
    )


@pytest.fixture(params=["screen", "wide errors", "few places", "float", "half", "integers"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What proposes candidates: rungs of the CPU, or products of a GPU in small tiles."""
    name: str = request.param
    makers: dict[str, tuple[Callable[[torch.Tensor, Measures], Rung], int]] = {
        "wide errors": (with_wide_errors, 40),
        "few places": (with_wide_errors, 7),
    }
    products = {"float": FloatProduct, "half": HalfProduct, "integers": IntegerProduct}
    if name in makers:
        make, capacity = makers[name]

        def plan(x: torch.Tensor, layout: ListLayout, measures: Measures, sides: object) -> Plan:
            cells = torch.arange(len(x), dtype=torch.int32) % 5
            rungs = [functools.partial(one, x, measures) for one in (make, float_rung)]
            return Plan(rungs, capacity, cells)

        monkeypatch.setattr(screening, "choose_rungs", plan)
        monkeypatch.setattr(screening, "_FEW_ROWS", 1)
    if name in products:
        monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)
        monkeypatch.setattr(candidates, "wants_integers", lambda x: name == "integers")
        monkeypatch.setattr(candidates, "_MOST_UNPROVEN", 1.0)
        floats = FloatProduct if name == "float" else HalfProduct
        monkeypatch.setattr(candidates, "product_of", floats)
        monkeypatch.setattr(candidates, "_TILE", 64 if name != "float" else 16)
    return name


@functools.cache
def exact_scores(name: str, euclidean: bool) -> NDArray[np.float64]:
    """(N, N) exact scores, by the op that ranks by them alone."""
    x = features(name)
    groups = torch.zeros(COUNT, dtype=torch.int32)
    ranks, scores = torch.ops.mabm.rank_exactly(
        x, torch.arange(COUNT), groups, torch.zeros(1, 1, dtype=torch.int32), [COUNT], euclidean
    )
    result = np.empty((COUNT, COUNT))
    np.put_along_axis(result, ranks.numpy(), scores.numpy(), 1)
    return result


def layout_of(preset: str, k1: int = 9) -> ListLayout:
    groups = torch.from_numpy(MODALITY)
    return ListLayout.of(torch.empty(COUNT, 0), groups, PRESETS[preset], k1)


def ranked_in_loops(
    scores: NDArray[np.float64], layout: ListLayout, sides: Sides
) -> tuple[list[list[int]], list[list[float]]]:
    groups, ends = layout.groups.tolist(), np.cumsum(layout.widths)
    ranks = [[-1] * int(ends[-1]) for _ in range(COUNT)]
    found = [[-np.inf] * int(ends[-1]) for _ in range(COUNT)]
    for own, other in (sides.ranges, sides.ranges[::-1]):
        for row in range(own.start, own.stop):
            for number, width in enumerate(layout.widths):
                members = [
                    column
                    for column in range(other.start, other.stop)
                    if layout.list_of_group[groups[row], groups[column]] == number
                    and (sides.least is None or scores[row, column] >= sides.least[row, number])
                ]
                members.sort(key=lambda column: (-scores[row, column], column))
                for place, column in enumerate(members[:width], int(ends[number]) - width):
                    ranks[row][place] = column
                    found[row][place] = float(scores[row, column])
    return ranks, found


def some_scores(scores: NDArray[np.float64], num_lists: int) -> torch.Tensor:
    """Scores that are met and scores that are not, from nothing known to all too low."""
    rng = np.random.default_rng(1)
    chosen = np.take_along_axis(scores, rng.integers(0, COUNT, (COUNT, num_lists)), 1)
    chosen[::7] = -np.inf
    chosen[3::11] = np.nextafter(chosen[3::11], np.inf)
    chosen[5] = 1e300
    return torch.from_numpy(chosen)


def check(name: str, preset: str, sides: Sides, k1: int = 9) -> None:
    euclidean = PRESETS[preset].metric == "euclidean"
    layout = layout_of(preset, 30 if preset == "ca_jaccard" else k1)
    ranks, scores = ranking.rank_lists(
        features(name), layout, euclidean, "exact", QUIET, lambda number: None, sides
    )
    expected = ranked_in_loops(exact_scores(name, euclidean), layout, sides)
    assert ranks.tolist() == expected[0]
    assert scores.tolist() == expected[1]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
@pytest.mark.parametrize("name", INPUTS)
def test_sides_are_ranked_among_each_other(name: str, preset: str, known: bool, route: str) -> None:
    scores = exact_scores(name, PRESETS[preset].metric == "euclidean")
    least = some_scores(scores, len(layout_of(preset).widths)) if known else None
    check(name, preset, Sides(SIDES["rows on no side"], least))


@pytest.mark.parametrize("k1", [3, 400])
@pytest.mark.parametrize("shape", SIDES)
def test_sides_of_any_size(shape: str, k1: int, route: str) -> None:
    for name in ("clustered", "ties"):
        least = some_scores(exact_scores(name, False), 3)
        check(name, "bmil", Sides(SIDES[shape], least), k1)
        check(name, "spcl", Sides(SIDES[shape]), k1)


@pytest.mark.parametrize("limit", ["_LIST_BYTES", "_BLOCK_BYTES"])
def test_rows_of_a_side_in_parts(limit: str, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, limit, 1)
    monkeypatch.setattr(screening, "_TILE", 16)  # the fewest rows of a block
    monkeypatch.setattr(candidates, "available_bytes", lambda device: 0)
    least = some_scores(exact_scores("clustered", False), 3)
    for ranges in SIDES.values():
        check("clustered", "bmil", Sides(ranges, least))


def test_fast_ranks_what_it_finds_by_exact_scores(route: str) -> None:
    layout, scores = layout_of("bmil"), exact_scores("clustered", False)
    sides = Sides(SIDES["halves"], some_scores(scores, 3))
    ranks, found = ranking.rank_lists(
        features("clustered"), layout, False, "fast", QUIET, lambda number: None, sides
    )
    expected = torch.tensor(ranked_in_loops(scores, layout, sides)[0])
    rows, places = (ranks >= 0).nonzero(as_tuple=True)
    assert found[rows, places].tolist() == scores[rows, ranks[rows, places]].tolist()
    assert (ranks == expected).double().mean() > 0.9


def test_what_a_list_has_keeps_candidates_out() -> None:
    x, layout = features("clustered"), layout_of("spcl", k1=6)
    scores = exact_scores("clustered", True)
    full = torch.from_numpy(np.sort(scores, axis=1)[:, -6:-5].copy())
    numbers = []
    for least in (None, full):
        sides = Sides(SIDES["halves"], least)
        (proposal,) = screening.screen(x, layout, True, False, None, lambda number: None, sides)
        numbers.append(int(proposal.counts.sum()))
    # Of the six nearest of all samples, about three are on the other side.
    wanted = scores >= full.numpy()
    assert numbers[1] == wanted[:45, 45:].sum() + wanted[45:, :45].sum()
    assert numbers[0] == 6 * COUNT


@pytest.mark.parametrize("passes", [False, True])
def test_screening_never_lowers_a_threshold(passes: bool) -> None:
    x, layout = features("gaussian"), layout_of("spcl", k1=6)
    measures = measure(x, euclidean=True)
    order = torch.arange(COUNT, dtype=torch.int32)
    seeds = torch.linspace(-2, 0.5, COUNT)[:, None].contiguous()
    lists = screening.ScreenLists.empty(order, [6], 40, seeds.clone())
    rung = dataclasses.replace(float_rung(x, measures), is_coarse=passes)
    screening.fill_lists(lists, rung, layout, order, None, lambda number: None)
    risen = lists.thresholds > seeds
    assert not bool((lists.thresholds < seeds).any())
    assert 0 < int(risen.sum()) < COUNT  # and where more is known, it rises


@pytest.mark.parametrize("gap", [0.25, -1.0])
def test_a_cut_never_lowers_a_threshold(gap: float) -> None:
    seeds, zeros = torch.tensor([[-5.0], [0.5], [2.0]]), torch.zeros(3, dtype=torch.float64)
    lists = Candidates.none_yet(torch.full((3,), gap), zeros, zeros[0], (1, 24), "", seeds)
    products = torch.tensor([1.0, 0.25, 0.5, 0.75] * 3).repeat(3, 1)
    groups = torch.zeros(12, dtype=torch.int32)
    torch.ops.mabm.collect_candidates_(
        products,
        torch.zeros(12),
        groups[:3],
        groups,
        torch.zeros(1, 1, dtype=torch.int32),
        0,
        torch.full((3,), gap),
        [4],
        True,
        False,
        None,
        None,
        *lists[:4],
    )
    assert not bool((lists.thresholds < seeds).any())
    assert lists.counts.flatten().tolist() == ([9, 9, 0] if gap > 0 else [4, 4, 0])


@pytest.mark.parametrize("known", [False, True])
def test_rungs_of_sides_are_chosen(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(1500, 12)) @ rng.normal(size=(12, 256))
    x = torch.from_numpy((rows + 0.01 * rng.normal(size=(1500, 256))).astype(np.float32))
    groups = torch.arange(1500) % 2
    layout = ListLayout.of(x, groups, PRESETS["bmil"], 8)
    sides = Sides((slice(0, 900), slice(1000, 1500)))
    apart, chosen = sides.apart(layout), sides.rows(x.device)
    ranks, scores = torch.ops.mabm.rank_exactly(
        x, chosen, apart.groups, apart.list_of_group, apart.widths, False
    )
    if known:  # the third of each list
        least = torch.full((1500, 2), torch.inf, dtype=torch.float64)
        least[chosen] = scores[:, [2, 6]]
        sides = Sides(sides.ranges, least)
        fourth = torch.arange(8) % 4 == 3
        ranks[:, fourth], scores[:, fourth] = -1, -torch.inf
    found = ranking.rank_lists(x, layout, False, "exact", QUIET, lambda number: None, sides)
    assert torch.equal(found[0][chosen], ranks)
    assert torch.equal(found[1][chosen], scores)
    assert bool((found[0][900:1000] == -1).all())


def test_where_nothing_is_wanted_the_cheapest_products_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung_choice, "_LITTLE_WORK", 0)
    x = torch.randn(3000, 512, generator=torch.Generator().manual_seed(0))
    layout = ListLayout.of(x, None, PRESETS["spcl"], 15)
    measures = measure(x, euclidean=False)
    names = []
    for least in (None, torch.full((3000, 1), 1e9, dtype=torch.float64)):
        sides = Sides((slice(0, 1000), slice(1000, 3000)), least)
        plan = rung_choice.choose_rungs(x, layout, measures, sides)
        names.append(plan.rungs[0]().name)
        assert plan.capacity == rung_choice.capacity_for([15], None)
    assert names[0] != names[1] == "32 of 512 directions"


def test_thresholds_are_just_below_what_reaches_the_least_score() -> None:
    generator = torch.Generator().manual_seed(0)
    least = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    least[:3] = torch.tensor([[-torch.inf, 0.0], [0.0, -0.0], [1e-300, -1e300]])
    offsets = torch.randn(500, generator=generator, dtype=torch.float64)
    area = torch.tensor(0.25, dtype=torch.float64)
    sides = Sides((slice(0, 250), slice(250, 500)), least)
    thresholds = sides.thresholds(slice(None), offsets, area)
    assert thresholds is not None
    reachable = least * area - offsets[:, None]
    below = thresholds.double()
    assert bool(((below < reachable) | (below == -torch.inf)).all())
    near = reachable.float().nextafter(torch.tensor(-torch.inf)).nextafter(torch.tensor(-torch.inf))
    assert bool((thresholds >= near).all())
