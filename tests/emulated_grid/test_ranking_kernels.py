"""Ranking: lists of exact scores, and candidates in order."""

from types import ModuleType

import numpy as np
import pytest
import torch
from kernel_bench import SIZES, assert_same_bits, in_every_order, shuffled, tensors
from kernel_lists import LAYOUTS, Layout, Lists, layout_of
from numpy.typing import NDArray

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
