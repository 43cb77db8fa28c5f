"""Ranking: what candidate lists keep, how they are ordered, and lists of exact scores."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kernel_bench import SIZES, assert_same_bits, in_every_order, shuffled, tensors
from numpy.typing import NDArray

INF = np.float32(np.inf)
AS_IS = (False, np.zeros(0, np.float32), np.zeros(0, np.float32))  # not transposed, no scales


class Lists(NamedTuple):
    """Candidate lists between launches."""

    scores: NDArray
    indices: NDArray[np.int32]
    counts: NDArray[np.int32]
    thresholds: NDArray


def empty_lists(num_rows: int, num_lists: int, capacity: int, dtype: type = np.float32) -> Lists:
    shape = (num_rows, num_lists)
    return Lists(
        np.full((*shape, capacity), np.nan, dtype),
        np.full((*shape, capacity), -9, np.int32),
        np.zeros(shape, np.int32),
        np.full(shape, -np.inf, dtype),
    )


class Layout(NamedTuple):
    """Groups of the samples, and which list a row of one group has for samples of another."""

    groups: NDArray[np.int32]
    list_of_group: NDArray[np.int32]

    @property
    def num_lists(self) -> int:
        return int(self.list_of_group.max()) + 1

    def lists_of(self, num_rows: int) -> NDArray[np.int32]:
        """The list of each of the first rows that each sample falls into."""
        return self.list_of_group[self.groups[:num_rows]][:, self.groups]


def layout_of(kind: str, count: int) -> Layout:
    rng = np.random.default_rng(count)
    if kind == "one group":
        groups = np.zeros(count)
    elif kind == "each its own":
        groups = rng.permutation(count)
    else:  # of very unequal sizes
        groups = rng.choice(3, count, p=[0.9, 0.07, 0.03])
    num_groups = count if kind == "each its own" else 3
    own = np.eye(num_groups, dtype=np.int32)
    other = 1 - own
    per_group = np.tile(np.arange(num_groups, dtype=np.int32), (num_groups, 1))
    table = other if kind == "own and others" else per_group
    if kind == "one group":
        table = np.zeros((1, 1), np.int32)
    return Layout(groups.astype(np.int32), table)


LAYOUTS = ("one group", "a list for each group", "own and others", "each its own")


def make_scores(kind: str, num_rows: int, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng((num_rows, count))
    noise = rng.normal(size=(num_rows, count)).astype(np.float32)
    return {
        "gaussian": lambda: noise,
        "equal": lambda: np.full_like(noise, -1.5),
        "ties": lambda: np.rint(noise),
        "zeros of both signs": lambda: np.where(noise > 0, np.float32(0), np.float32(-0.0)),
        "subnormal": lambda: np.rint(noise * 4) * np.float32(1.4e-45),
        "huge": lambda: np.clip(noise, -3, 3) * np.float32(1e38),
        "infinite": lambda: np.where(np.abs(noise) < 1, noise, noise * INF),
        "ascending": lambda: np.sort(noise),
        "descending": lambda: -np.sort(-noise),
    }[kind]()


KINDS = (
    "gaussian",
    "equal",
    "ties",
    "zeros of both signs",
    "subnormal",
    "huge",
    "infinite",
    "ascending",
    "descending",
)


def pad(tile: NDArray, more: int, filler: float) -> NDArray:
    """A tile with more rows and columns than the op reads."""
    return np.ascontiguousarray(np.pad(tile, (0, more), constant_values=filler))


def collect(
    grid: ModuleType,
    scores: NDArray,
    layout: Layout,
    capacity: int,
    side: int,
    widths: list[int],
    gaps: NDArray[np.float32] | None = None,
    last: bool = False,
    transposed: bool = False,
    more: int = 0,
) -> Lists:
    """Lists of the first rows of some samples, tile by tile, of products or of exact scores."""
    num_rows, count = scores.shape
    biases = np.full(count, -0.0, np.float32)  # what leaves a score as it is, -0 too
    lists = empty_lists(num_rows, layout.num_lists, capacity, scores.dtype.type)
    numbers = np.array(widths, np.int32)
    for first in range(0, count, side):
        part = slice(first, min(first + side, count))
        places = (layout.groups[part].copy(), layout.list_of_group, first)
        tile = scores[:, part].copy()
        if gaps is None:
            rows = np.arange(num_rows)
            arrays = grid.collect_exact(tile, rows, layout.groups, *places, numbers, *lists)
        else:
            cut = (gaps, numbers, last and part.stop == count)
            own = layout.groups[:num_rows]
            form = (transposed, *AS_IS[1:])
            tile = pad(tile.T if transposed else tile, more, np.inf)
            arrays = grid.collect_products(tile, biases[part], own, *places, *cut, *form, *lists)
        lists = Lists(*arrays)
    return lists


def sampled_threshold(
    scores: NDArray, list_of: NDArray[np.int32], number: int, width: int, gap: float, side: int
) -> float:
    """The threshold that samples of the tiles give one list of a row before it has entries."""
    if not 0 < width <= 32 or list_of.max() > 7:
        return -np.inf
    for first in range(0, len(scores), side):
        size = min(side, len(scores) - first)
        columns = (np.arange(64) * max(32, size // 64))[:, None] + np.arange(32)
        inside = np.minimum(columns, size - 1) + first
        valid = (columns < size) & (list_of[inside] == number)
        last = np.sort(np.where(valid, scores[inside], -INF).max(axis=0))[-width]
        if last > -np.inf:
            return np.nextafter(last - scores.dtype.type(max(gap, 0)), -INF)
        if (list_of[first : first + size] == number).any():
            break
    return -np.inf


def check_kept(
    lists: Lists,
    scores: NDArray,
    lists_of: NDArray[np.int32],
    widths: list[int],
    gaps: NDArray[np.float32],
    last: bool,
    side: int,
) -> int:
    """Checks what lists guarantee for what they keep and leave out; returns the overflowed ones."""
    _, num_lists, capacity = lists.scores.shape
    num_overflowed = 0
    for row, (own_scores, list_of) in enumerate(zip(scores, lists_of, strict=True)):
        for number in range(num_lists):
            count, threshold = lists.counts[row, number], lists.thresholds[row, number]
            samples = np.flatnonzero(list_of == number)
            order = samples[np.argsort(-own_scores[samples], kind="stable")]
            needed = order[: widths[number]]
            if gaps[row] >= 0 and len(needed) == widths[number] > 0:
                least = np.float64(own_scores[needed[-1]]) - gaps[row]
                needed = samples[own_scores[samples] >= least]
            if count < 0:
                num_overflowed += 1
                assert threshold == np.inf
                assert len(samples) >= capacity
                continue
            kept = lists.indices[row, number, :count]
            assert count < capacity
            assert (np.diff(kept) > 0).all()
            assert (list_of[kept] == number).all()
            assert_same_bits(lists.scores[row, number, :count], own_scores[kept])
            assert np.isin(needed, kept).all()
            left_out = np.setdiff1d(samples, kept)
            assert ((own_scores[left_out] < threshold) | (threshold == np.inf)).all()
            sampled = sampled_threshold(
                own_scores, list_of, number, widths[number], gaps[row], side
            )
            may_come = samples[own_scores[samples] >= sampled]
            assert np.isin(kept, may_come).all()
            assert threshold >= sampled
            if len(may_come) < capacity and not last:
                assert kept.tolist() == may_come.tolist()
                assert threshold == sampled
            if last and gaps[row] < 0:
                assert sorted(kept) == sorted(needed)
            elif last and len(order) > widths[number] > 0:
                with np.errstate(over="ignore"):
                    least = own_scores[order[widths[number] - 1]] - gaps[row]
                assert (own_scores[kept] >= np.nextafter(least, -INF)).all()
            elif last:
                assert count <= max(widths[number], 0)
    return num_overflowed


def check_collected(
    seed: int, scores: NDArray[np.float32], split: Layout, capacity: int, side: int
) -> list[bool]:
    """Collects with gaps of every kind; returns which lists of those with a gap overflowed."""
    grid = shuffled(seed)
    lists_of = split.lists_of(len(scores))
    widths = np.resize([max(1, capacity // 4), 1, 0, 3], split.num_lists)
    widths = np.minimum(widths, capacity // 2).tolist()
    gaps = np.resize(np.array([0.0, 0.1, 1.0, -1.0, 3e38], np.float32), len(scores))
    overflowed = []
    for last in (False, True):
        lists = collect(grid, scores, split, capacity, side, widths, gaps, last)
        check_kept(lists, scores, lists_of, widths, gaps, last, side)
        overflowed += (lists.counts < 0)[gaps >= 0].ravel().tolist()
        for transposed, more in ((True, 0), (False, 5), (True, 33)):
            form = (gaps, last, transposed, more)
            again = collect(grid, scores, split, capacity, side, widths, *form)
            for part, wanted in zip(again, lists, strict=True):
                assert_same_bits(part, wanted)
    exact = scores.astype(np.float64)
    lists = collect(grid, exact, split, capacity, side, widths)
    gaps = np.full(len(scores), -1.0)
    assert check_kept(lists, exact, lists_of, widths, gaps, False, side) == 0
    return overflowed


@in_every_order
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", SIZES)
def test_lists_keep_all_that_may_belong_to_them(count: int, layout: str, seed: int) -> None:
    split = layout_of(layout, count)
    scores = make_scores("gaussian", min(count, 2 if layout == "each its own" else 9), count)
    overflowed = []
    for capacity, side in [(2, count), (3, 100), (33, 64), (64, 31), (600, count)]:
        overflowed += check_collected(seed, scores, split, capacity, side)
    if count == 257 and layout != "each its own":
        assert {True, False} == set(overflowed)


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_scores_of_every_kind(kind: str, seed: int) -> None:
    for layout in ("one group", "own and others"):
        split = layout_of(layout, 257)
        scores = make_scores(kind, 9, 257)
        for capacity, side in [(2, 257), (5, 33), (32, 257), (66, 128)]:
            check_collected(seed, scores, split, capacity, side)


@in_every_order
def test_biases_are_added_to_their_columns(seed: int) -> None:
    rng = np.random.default_rng(3)
    products = rng.normal(size=(33, 40)).astype(np.float32)
    biases = rng.normal(size=40).astype(np.float32)
    zeros, table = np.zeros(40, np.int32), np.zeros((1, 1), np.int32)
    cut = (np.zeros(33, np.float32), np.array([40], np.int32), False, *AS_IS)
    lists = Lists(
        *shuffled(seed).collect_products(
            products, biases, zeros[:33].copy(), zeros, table, 7, *cut, *empty_lists(33, 1, 41)
        )
    )
    assert (lists.counts == 40).all()
    assert (lists.indices[:, 0, :40] == 7 + np.arange(40)).all()
    assert_same_bits(lists.scores[:, 0, :40].copy(), products + biases)
    assert np.isnan(lists.scores[:, 0, 40]).all()
    assert (lists.indices[:, 0, 40] == -9).all()


@in_every_order
def test_full_empty_and_overflowed_lists_are_gone_on_with(seed: int) -> None:
    # A threshold of before stays; what scores as much still comes in. An overflowed list stays one.
    # That of an empty list is raised to 0.5 below the second best of the tile.
    lists = empty_lists(3, 1, 4)
    lists.scores[0, 0, :3], lists.indices[0, 0, :3] = [3, 1, 2], [4, 5, 6]
    lists.counts[0], lists.thresholds[0] = 3, 1
    lists.counts[2], lists.thresholds[2] = -1, np.inf
    tile = np.array([[0.5, 0.9, 0.5], [1.0, 0.5, -np.inf], [1.0, np.inf, np.nan]], np.float32)
    zeros, table = np.zeros(3, np.int32), np.zeros((1, 1), np.int32)
    places = (zeros.astype(np.float32), zeros, zeros, table, 7)
    cut = (np.full(3, 0.5, np.float32), np.array([2], np.int32))
    after = Lists(*shuffled(seed).collect_products(tile, *places, *cut, False, *AS_IS, *lists))
    assert after.counts[:, 0].tolist() == [3, 2, -1]
    assert after.indices[0, 0, :3].tolist() == [4, 5, 6]
    assert after.indices[1, 0, :2].tolist() == [7, 8]
    assert after.thresholds[:, 0].tolist() == [1, np.nextafter(np.float32(0), -INF), np.inf]
    # The last cut: what is more than 0.5 below the second best goes.
    after = Lists(
        *shuffled(seed).collect_products(
            tile[:, :0].copy(),
            zeros[:0].astype(np.float32),
            zeros,
            zeros[:0].copy(),
            table,
            10,
            *cut,
            True,
            *AS_IS,
            *after,
        )
    )
    assert after.counts[:, 0].tolist() == [2, 2, -1]
    assert after.indices[0, 0, :2].tolist() == [4, 6]
    assert after.indices[1, 0, :2].tolist() == [7, 8]


@in_every_order
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("num_rows", "count"), [(1, 1), (7, 128), (9, 129), (17, 300)])
def test_tiles_of_integers_are_those_of_the_cpu(
    num_rows: int, count: int, transposed: bool, seed: int
) -> None:
    rng = np.random.default_rng(count)
    products = rng.integers(-(2**31), 2**31, (num_rows, count), dtype=np.int32)
    products[:, ::3] //= 2**20
    row_groups, groups = (rng.integers(0, 3, size).astype(np.int32) for size in (num_rows, count))
    places = (rng.normal(size=count).astype(np.float32), row_groups, groups)
    scales = tuple(
        (10.0 ** rng.uniform(low, -5, size)).astype(np.float32)
        for size, low in ((num_rows, -36), (count, -36))
    )
    table = layout_of("own and others", 40).list_of_group
    gaps = np.resize(np.array([0.0, 1.0, -1.0], np.float32), num_rows)
    lists = empty_lists(num_rows, 2, 16)
    lists.scores[:], lists.indices[:] = 0, 0
    tile = products.T.copy() if transposed else products
    found = shuffled(seed).collect_integers(
        tile, *places, table, 3, gaps, np.array([3, 1], np.int32), True, transposed, *scales, *lists
    )
    expected = tensors(*lists)
    torch.ops.mabm.collect_candidates_(
        *tensors(tile, *places, table),
        3,
        *tensors(gaps),
        [3, 1],
        True,
        transposed,
        *tensors(*scales),
        *expected,
    )
    taken = np.arange(16) < expected[2].numpy()[..., None]
    for part, wanted in zip(found[:2], expected[:2], strict=True):
        assert_same_bits(part[taken], wanted.numpy()[taken])
    for part, wanted in zip(found[2:], expected[2:], strict=True):
        assert_same_bits(part, wanted.numpy())


def collect_on_the_cpu(
    scores: NDArray[np.float32],
    layout: Layout,
    capacity: int,
    side: int,
    widths: list[int],
    gaps: NDArray[np.float32],
    last: bool,
) -> Lists:
    """What `collect` returns, by the op of the CPU."""
    num_rows, count = scores.shape
    lists = tensors(*empty_lists(num_rows, layout.num_lists, capacity))
    for first in range(0, count, side):
        part = slice(first, min(first + side, count))
        torch.ops.mabm.collect_candidates_(
            *tensors(scores[:, part], np.full(part.stop - first, -0.0, np.float32)),
            *tensors(layout.groups[:num_rows], layout.groups[part], layout.list_of_group),
            first,
            *tensors(gaps),
            widths,
            last and part.stop == count,
            *(False, None, None),
            *lists,
        )
    return Lists(*(part.numpy() for part in lists))


@in_every_order
@pytest.mark.parametrize(
    ("count", "side"), [(64, 20), (64, 64), (700, 300), (2047, 2047), (2112, 2112), (4500, 4400)]
)
def test_samples_raise_thresholds_as_those_of_the_cpu(count: int, side: int, seed: int) -> None:
    rng = np.random.default_rng(count)
    grid = shuffled(seed)
    tables = {size: np.tile(np.arange(size, dtype=np.int32), (size, 1)) for size in (1, 2, 3, 8)}
    tables[0] = layout_of("own and others", count).list_of_group
    for number, widths in ((1, [30]), (2, [15, 15]), (3, [32, 33, 1]), (8, [4] * 8), (0, [3, 20])):
        groups = rng.integers(0, len(tables[number]), count).astype(np.int32)
        if count % 2 == 0:  # side by side, so that some lists of some rows begin in a later tile
            groups = np.sort(groups)
            groups[:9] = np.arange(9) % len(tables[number])
        split = Layout(groups, tables[number])
        for kind in ("gaussian", "ties", "infinite", "ascending", "nan"):
            scores = make_scores("gaussian" if kind == "nan" else kind, 9, count)
            if kind == "nan":
                scores[:, rng.random(count) < 0.1] = np.nan
                scores[:, :9] = np.nan  # columns that no list takes
            gaps = np.resize(np.array([0.0, 0.3, -1.0], np.float32), 9)
            capacity = 2 * (2 * max(widths) + 16)
            expected = collect_on_the_cpu(scores, split, capacity, side, widths, gaps, True)
            for transposed, more in ((False, 0), (True, 3)):
                form = (gaps, True, transposed, more)
                found = collect(grid, scores, split, capacity, side, widths, *form)
                taken = np.arange(capacity) < expected.counts[..., None]
                for part, wanted in zip(found[:2], expected[:2], strict=True):
                    assert_same_bits(part[taken], wanted[taken])
                for part, wanted in zip(found[2:], expected[2:], strict=True):
                    assert_same_bits(part, wanted)
            if kind != "nan":
                check_kept(found, scores, split.lists_of(9), widths, gaps, True, side)


@in_every_order
@pytest.mark.parametrize("num_groups", [1537, 13_000])
def test_groups_by_the_thousand_in_few_lists(num_groups: int, seed: int) -> None:
    rng = np.random.default_rng(num_groups)
    lists_of = (np.arange(num_groups, dtype=np.int32) % 5)[None]
    columns = rng.integers(0, num_groups, 200).astype(np.int32)
    columns[0] = num_groups - 1
    check_wide_layout(seed, columns, lists_of, [4, 1, 6, 2, 2])


@in_every_order
@pytest.mark.parametrize("num_lists", [768, 769, 1537, 3073, 4096])
def test_many_lists_leave_room_for_fewer_rows(num_lists: int, seed: int) -> None:
    columns = np.random.default_rng(num_lists).integers(0, num_lists, 200).astype(np.int32)
    columns[:5] = num_lists - 1
    lists_of = np.arange(num_lists, dtype=np.int32)[None]
    check_wide_layout(seed, columns, lists_of, [2] * num_lists)


def check_wide_layout(
    seed: int, columns: NDArray[np.int32], lists_of: NDArray[np.int32], widths: list[int]
) -> None:
    """Collects a tile of nine rows of group 0, with the groups of its columns."""
    scores = np.random.default_rng(len(widths)).normal(size=(9, 200)).astype(np.float32)
    zeros, gaps = np.zeros(9, np.int32), np.full(9, 0.01, np.float32)
    places = (np.zeros(200, np.float32), zeros, columns, lists_of, 0)
    list_of_column = np.tile(lists_of[0, columns], (9, 1))
    for transposed in (False, True):
        tile = np.ascontiguousarray(scores.T if transposed else scores)
        cut = (gaps, np.array(widths, np.int32), False, transposed, *AS_IS[1:])
        empty = empty_lists(9, len(widths), 16)
        lists = Lists(*shuffled(seed).collect_products(tile, *places, *cut, *empty))
        if len(widths) > 99:  # few of them have any samples
            used = np.unique(list_of_column)
            assert lists.counts.sum() == (lists.counts[:, used]).sum()
            lists = Lists(*(part[:, used].copy() for part in lists))
            numbers = np.searchsorted(used, list_of_column)
            assert check_kept(lists, scores, numbers, [2] * len(used), gaps, False, 200) == 0
        else:
            assert check_kept(lists, scores, list_of_column, widths, gaps, False, 200) == 0


# ---- Lists of exact scores ----------------------------------------------------------------------


def make_features(kind: str, count: int, dim: int = 3) -> NDArray[np.float32]:
    features = np.random.default_rng(count).normal(size=(count, dim))
    if kind == "equal":
        features[:] = features[0]
    elif kind == "ties":
        features = np.rint(features)
    elif kind == "zeros of both signs":
        features = np.where(features > 0, 0.0, -0.0)
    elif kind == "huge":
        features = np.clip(features, -3, 3) * 1e38
    elif kind == "subnormal":
        features *= 1e-44
    return features.astype(np.float32)


def rank_exactly(
    grid: ModuleType,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    layout: Layout,
    widths: NDArray[np.int32],
    euclidean: bool,
    spare: int,
    side: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ranks tile by tile, with `spare` places in a list beyond the least number."""
    capacity = 2 * int(widths.max()) + spare
    lists = Lists(*grid.clear_lists(len(rows), len(widths), capacity))
    assert not lists.counts.any()
    assert (lists.thresholds == -np.inf).all()
    for first in range(0, len(features), side):
        size = min(side, len(features) - first)
        tile = grid.score_tile(features, rows, first, size, euclidean)
        groups = layout.groups[first : first + size].copy()
        lists = Lists(
            *grid.collect_exact(
                tile, rows, layout.groups, groups, layout.list_of_group, first, widths, *lists
            )
        )
    return grid.write_lists(*lists, widths)


def check_exact(
    seed: int, features: NDArray, layout: Layout, widths: list[int], spare: int, side: int
) -> None:
    count = len(features)
    rows = np.random.default_rng(seed).permutation(count)[:9]
    for euclidean in (False, True):
        found = rank_exactly(
            shuffled(seed),
            features,
            rows,
            layout,
            np.array(widths, np.int32),
            euclidean,
            spare,
            side,
        )
        expected = torch.ops.mabm.rank_exactly(*tensors(features, rows, *layout), widths, euclidean)
        for part, wanted in zip(found, expected, strict=True):
            assert_same_bits(part, wanted.numpy())


@in_every_order
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", SIZES)
def test_exact_lists_are_those_of_the_cpu(count: int, layout: str, seed: int) -> None:
    split = layout_of(layout, count)
    for width, spare, side in [(1, 0, count), (1, 64, 31), (33, 0, 100), (12, 1, count)]:
        widths = np.resize([width, 1, 5], split.num_lists).tolist()
        check_exact(seed, make_features("gaussian", count), split, widths, spare, side)


@in_every_order
@pytest.mark.parametrize("kind", ["equal", "ties", "zeros of both signs", "huge", "subnormal"])
def test_exact_lists_of_features_of_every_kind(kind: str, seed: int) -> None:
    for layout in ("one group", "a list for each group"):
        split = layout_of(layout, 100)
        for width, spare, side in [(1, 0, 100), (7, 0, 33), (40, 64, 64), (150, 0, 100)]:
            widths = [width] * split.num_lists
            check_exact(seed, make_features(kind, 100), split, widths, spare, side)


@in_every_order
def test_groups_by_the_hundred(seed: int) -> None:
    split = layout_of("each its own", 400)
    check_exact(seed, make_features("ties", 400), split, [1] * 400, 0, 150)


@in_every_order
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_numbers_arrive(count: int, seed: int) -> None:
    numbers = np.random.default_rng(count).integers(-(2**31), 2**31, count)
    assert_same_bits(shuffled(seed).write_numbers(numbers), numbers.astype(np.int32))


# ---- Complete lists in order --------------------------------------------------------------------

NO_BOUNDS = (np.empty(0, np.float32), np.empty(0), 1.0)


@in_every_order
@pytest.mark.parametrize("count", SIZES)
def test_ranks_of_candidates_are_those_of_the_cpu(count: int, seed: int) -> None:
    rng = np.random.default_rng(count)
    for kind in ("gaussian", "ties", "huge"):
        features = make_features(kind, count, 40)
        num_rows = min(count, 33)
        rows = rng.integers(0, count, num_rows)
        indices = np.argsort(rng.random((num_rows, 3, count))).astype(np.int32)
        counts = rng.integers(-1, count + 1, (num_rows, 3)).astype(np.int32)
        widths = [4, 0, 33]
        for euclidean in (False, True):
            found = shuffled(seed).rank_candidates(
                features, rows, indices, counts, np.array(widths, np.int32), euclidean, *NO_BOUNDS
            )
            expected = torch.ops.mabm.rank_candidates(
                *tensors(features, rows, indices, counts), widths, euclidean
            )
            for part, wanted in zip(found, expected, strict=True):
                assert_same_bits(part, wanted.numpy())


@in_every_order
@pytest.mark.parametrize("slack", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("kind", ["gaussian", "ties"])
def test_bounds_change_no_rank(kind: str, slack: float, seed: int) -> None:
    count, area = 130, 0.5
    rng = np.random.default_rng(count)
    features = make_features(kind, count, 40)
    rows, offsets = np.arange(20), rng.normal(size=20)
    indices = np.argsort(rng.random((20, 3, count))).astype(np.int32)
    counts = rng.integers(-1, count + 1, (20, 3)).astype(np.int32)
    widths = [4, 0, 33]
    for euclidean in (False, True):
        distances = -np.square(features[rows, None] - features.astype(np.float64)).sum(2)
        exact = distances if euclidean else features[rows].astype(np.float64) @ features.T
        bounds = np.take_along_axis(exact[:, None] * area - offsets[:, None, None], indices, 2)
        bounds = np.float32(bounds + rng.random(bounds.shape) * slack + 1e-4)
        found = shuffled(seed).rank_candidates(
            features,
            rows,
            indices,
            counts,
            np.array(widths, np.int32),
            euclidean,
            bounds,
            offsets,
            area,
        )
        expected = torch.ops.mabm.rank_candidates(
            *tensors(features, rows, indices, counts), widths, euclidean
        )
        for part, wanted in zip(found, expected, strict=True):
            assert_same_bits(part, wanted.numpy())


def test_candidates_out_of_reach_are_not_scored() -> None:
    # Sample 9 is the nearest, but its bound says that it cannot be.
    features = np.arange(10, dtype=np.float32)[:, None]
    indices = np.arange(10, dtype=np.int32)[None, None]
    bounds = np.arange(10, dtype=np.float32)[None, None].copy()
    bounds[0, 0, 9] = -1
    given = features, np.ones(1, np.int64), indices, np.array([[10]], np.int32)
    ranks, _ = shuffled(0).rank_candidates(
        *given, np.array([3], np.int32), False, bounds, np.zeros(1), 1.0
    )
    assert ranks.tolist() == [[8, 7, 6]]


@in_every_order
def test_equal_samples_are_ranked_by_their_index(seed: int) -> None:
    indices = np.random.default_rng(6).permutation(70).astype(np.int32)[None, None]
    ranks, scores = shuffled(seed).rank_candidates(
        np.ones((70, 3), np.float32),
        np.zeros(1, np.int64),
        indices,
        np.array([[70]], np.int32),
        np.array([65], np.int32),
        False,
        *NO_BOUNDS,
    )
    assert ranks.tolist() == [list(range(65))]
    assert scores.tolist() == [[3.0] * 65]
