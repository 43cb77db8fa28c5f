"""The distance, dense and pruned: columns, sums, windows, and rows with many near ones."""

import functools

import numpy as np
import pytest
import torch
from kernel_bench import (
    KINDS,
    ONE,
    SIZES,
    Rows,
    assert_same_bits,
    bench,
    in_every_order,
    make_rows,
    shuffled,
    tensors,
)
from numpy.typing import NDArray

Inverted = tuple[NDArray[np.int64], NDArray[np.int32]]


def invert(rows: Rows) -> Inverted:
    """The rows by column, by the launchers of the op; compared with the definition."""
    order = np.argsort(rows.indices, kind="stable")
    row_of = bench().rows_of_entries(rows.indptr)
    expected_rows = np.repeat(np.arange(rows.count, dtype=np.int32), np.diff(rows.indptr))
    assert_same_bits(row_of, expected_rows)
    starts, entries = bench().invert_rows(
        rows.indices[order], order, row_of, rows.weights, rows.num_columns
    )
    counts = np.bincount(rows.indices, minlength=rows.num_columns)
    assert_same_bits(starts, np.concatenate([[0], np.cumsum(counts)]))
    assert_same_bits(entries, np.stack([row_of[order], rows.weights[order]], axis=1))
    return starts, entries


def invert_in_parts(rows: Rows, size: int) -> NDArray[np.int32]:
    """The entries of the rows by column, of which so many are sorted at a time."""
    left = bench().count_columns(rows.indices, rows.num_columns)
    starts = bench().exclusive_sum(left)
    row_of = bench().rows_of_entries(rows.indptr)
    entries = np.full((len(rows.indices), 2), -1, np.int32)
    for first in range(0, len(rows.indices), size):
        part = slice(first, first + size)
        columns = rows.indices[part]
        order = np.argsort(columns, kind="stable")
        left, entries = bench().invert_part(
            columns[order], order, row_of[part], rows.weights[part], starts, left, entries
        )
    assert not left.any()
    return entries


def sums_of(rows: Rows) -> tuple[NDArray[np.int64], int]:
    """The sums of rows and the least one, by the launcher; compared with the definition."""
    sums, least = bench().row_sums(*rows.arrays)
    row_of = np.repeat(np.arange(rows.count), np.diff(rows.indptr))
    expected = np.zeros(rows.count, np.int64)
    np.add.at(expected, row_of, rows.weights)
    assert_same_bits(sums, expected)
    assert least == expected.min(initial=2**63 - 1)
    return sums, least


@functools.lru_cache(maxsize=32)
def distance(rows: Rows, columns: Rows) -> NDArray[np.float32]:
    """The definition on dense rows: 1 - sum of minima / sum of maxima, 1 where both are empty."""
    overlap = np.zeros((rows.count, columns.count), np.int64)
    for overlaps, row in zip(overlap, rows.dense, strict=True):
        np.minimum(columns.dense, row).sum(axis=1, out=overlaps)
    maxima = rows.dense.sum(axis=1)[:, None] + columns.dense.sum(axis=1) - overlap
    return (1 - overlap / np.where(maxima > 0, maxima, 1)).astype(np.float32)


def check_distance(seed: int, rows: Rows, columns: Rows) -> None:
    grid = shuffled(seed)
    starts, entries = invert(columns)
    found = grid.jaccard_distance(
        *rows.arrays, sums_of(rows)[0], starts, entries, sums_of(columns)[0]
    )
    if rows.count * columns.count * rows.num_columns < 10**8:
        assert_same_bits(found, distance(rows, columns))
    expected = torch.ops.mabm.jaccard_distance(
        *tensors(*rows.arrays, *columns.arrays), rows.num_columns
    )
    assert_same_bits(found, expected.numpy())


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", SIZES)
def test_dense_distances_are_those_of_the_definition(count: int, kind: str, seed: int) -> None:
    rows = make_rows(kind, count)
    check_distance(seed, rows.take(np.arange(min(count, 40))), rows)
    check_distance(
        seed, rows, make_rows("unequal", count, seed=1).take(np.arange((count + 9) // 10))
    )


@in_every_order
def test_rows_of_all_lengths_about_what_a_block_looks_up_at_once(seed: int) -> None:
    lengths = np.array([0, 1, 7, 8, 9, 31, 32, 33, 248, 249, 255, 256, 257, 264, 600])
    rows = Rows.with_lengths(lengths, 600, np.random.default_rng(0))
    check_distance(seed, rows, rows)


@in_every_order
def test_no_rows_and_no_columns(seed: int) -> None:
    rows, none = make_rows("sparse", 33), make_rows("sparse", 33).take(np.arange(0))
    for pair in [(rows, none), (none, rows), (none, none)]:
        check_distance(seed, *pair)


def long_rows(rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Three rows and more columns than a window has, with entries about every edge of one."""
    count = 2 * bench().WINDOW + 10
    lengths = (rng.random(count) < 0.01).astype(int)
    for edge in (0, bench().WINDOW, 2 * bench().WINDOW, count):
        lengths[max(edge - 2, 0) : edge + 2] = 3
    return Rows.with_lengths(np.array([5, 20, 0]), 20, rng), Rows.with_lengths(lengths, 20, rng)


@in_every_order
def test_more_columns_than_a_window_has(seed: int) -> None:
    rows, columns = long_rows(np.random.default_rng(1))
    check_distance(seed, rows, columns)


# ---- Near rows ----------------------------------------------------------------------------------

DISTANCES = (0.0, 0.3, 0.7, 0.95, float(np.nextafter(np.float32(1), np.float32(0))))


def near_rows(
    seed: int, rows: Rows, others: Rows, max_distance: float, window: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """All launches of the ops jaccard_graph and near_rows."""
    grid = shuffled(seed)
    searched = (*invert(others), *sums_of(others))
    search = (*rows.arrays, sums_of(rows)[0], *searched, max_distance, window)
    counts, slot_indices, slot_distances = grid.near_rows(*search)
    assert ((counts >= 0) & (counts <= others.count)).all()
    starts = grid.exclusive_sum(counts)
    moved = grid.move_near_rows(counts, starts, slot_indices, slot_distances)
    return starts, *grid.many_near_rows(*search, counts, starts, *moved)


def check_near(
    seed: int, rows: Rows, max_distance: float, window: int = 0, others: Rows | None = None
) -> NDArray[np.int64]:
    """Compares near rows with the definition and the CPU; returns the numbers of them.

    Args:
        seed: That of the order.
        rows: The rows.
        max_distance: The greatest distance of near rows.
        window: See `bench_rows.cpp`.
        others: Those among which the near rows are; by default the rows themselves, as in a graph.
    """
    searched = rows if others is None else others
    found = near_rows(seed, rows, searched, max_distance, window)
    distances = distance(rows, searched)
    near = distances <= np.float32(max_distance)
    lengths = near.sum(axis=1)
    assert_same_bits(found[0], np.concatenate([[0], np.cumsum(lengths)]))
    assert_same_bits(found[1], np.nonzero(near)[1].astype(np.int32))
    assert_same_bits(found[2], distances[near])
    if others is None:
        expected = torch.ops.mabm.jaccard_graph(*tensors(*rows.arrays), max_distance)
    else:
        pair = tensors(*rows.arrays, *others.arrays)
        expected = torch.ops.mabm.near_rows(*pair, rows.num_columns, max_distance)
    for part, wanted in zip(found, expected, strict=True):
        assert_same_bits(part, wanted.numpy())
    return lengths


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", SIZES)
def test_graphs_are_those_of_the_definition(count: int, kind: str, seed: int) -> None:
    rows = make_rows(kind, count)
    for max_distance in DISTANCES if count < 257 else DISTANCES[2:4]:
        check_near(seed, rows, max_distance)


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", SIZES)
def test_near_rows_of_another_encoding_are_those_of_the_definition(
    count: int, kind: str, seed: int
) -> None:
    rows = make_rows(kind, count)
    for other_kind in ("sparse", "hub", kind) if count < 257 else ("hub",):
        others = make_rows(other_kind, count, seed=1).take(np.arange(count + count // 3) % count)
        for max_distance in DISTANCES if count < 33 else DISTANCES[3:4]:
            check_near(seed, rows, max_distance, 0, others)
            check_near(seed, others, max_distance, 0, rows)


@in_every_order
@pytest.mark.parametrize("window", [0, 7, 32, 100, 256])
def test_windows_over_the_rows_of_another_encoding(window: int, seed: int) -> None:
    rows, others = make_rows("hub", 120), make_rows("hub", 120, seed=2).take(np.arange(300) % 120)
    few = rows.take(np.arange(9))
    for max_distance in (0.5, 0.9):
        check_near(seed, few, max_distance, window, others)
        check_near(seed, others, max_distance, window, few)
    # All of them hold one column: more near rows than there are places.
    assert check_near(seed, few, DISTANCES[-1], window, others).tolist() == [300] * 9


@in_every_order
def test_near_rows_of_more_others_than_a_window_has(seed: int) -> None:
    rows, others = long_rows(np.random.default_rng(2))
    assert check_near(seed, rows, 0.9, 0, others).max() > 30


@in_every_order
def test_no_rows_and_none_to_be_near_to(seed: int) -> None:
    rows, none = make_rows("sparse", 33), make_rows("sparse", 33).take(np.arange(0))
    for pair in [(rows, none), (none, rows), (none, none)]:
        assert check_near(seed, pair[0], 0.95, 0, pair[1]).sum() == 0


@in_every_order
@pytest.mark.parametrize("window", [1, 31, 32, 33, 100, 199, 200, 256])
def test_windows_of_any_size_show_nothing(window: int, seed: int) -> None:
    check_near(seed, make_rows("hub", 40 if window == 1 else 200), 0.9, window)


@in_every_order
def test_windows_of_which_a_warp_has_several_parts(seed: int) -> None:
    # Where each thread empties for the next window what other warps look at in this one.
    check_near(seed, make_rows("hub", 620), 0.9, 300)


@in_every_order
@pytest.mark.parametrize("window", [0, 300])
def test_rows_with_about_as_many_near_ones_as_there_are_places(window: int, seed: int) -> None:
    sizes = [1, *range(bench().NEAR_SLOTS - 1, bench().NEAR_SLOTS + 2)]
    rng = np.random.default_rng(0)
    kinds = Rows.with_lengths(np.full(len(sizes), 4), 20, rng)
    rows = kinds.take(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    assert sorted(set(check_near(seed, rows, 0.0, window))) == sizes


@in_every_order
def test_windows_with_many_rows_that_may_be_near(seed: int) -> None:
    # Next to light rows, all overlaps may be those of near rows, and are divided to see.
    rng = np.random.default_rng(3)
    rows = Rows.with_lengths(np.full(4, 6), 8, rng).take(rng.integers(0, 4, 600))
    light = rng.random(600) < 0.5
    rows = rows.with_weights(np.where(np.repeat(light, 6), rows.weights // 4, rows.weights))
    for bound in (0.3, 0.5, 0.8):
        lengths = check_near(seed, rows, bound)
        assert lengths.max() < 600
    assert lengths.max() > 300


@in_every_order
def test_bounds_that_are_distances_themselves_are_within(seed: int) -> None:
    rows = make_rows("sparse", 60)
    occurring = np.unique(distance(rows, rows))
    occurring = occurring[occurring < 1][:: max(len(occurring) // 20, 1)]
    assert len(occurring) > 10
    for bound in occurring:
        check_near(seed, rows, float(bound))
        below = np.nextafter(bound, np.float32(-1))
        if below >= 0:
            check_near(seed, rows, float(below))


@in_every_order
@pytest.mark.parametrize("part", [2, 3, 1000])
def test_rows_that_sum_to_less_than_one_are_found_too(part: int, seed: int) -> None:
    # The least overlap that counts as near is that of the least sum of all.
    rows = make_rows("duplicates", 64)
    light = np.random.default_rng(1).random(64) < 0.5
    row_of = np.repeat(np.arange(64), np.diff(rows.indptr))
    rows = rows.with_weights(np.where(light[row_of], rows.weights // part, rows.weights))
    bounds = np.append(np.array([1.05, 1.1, 1.2]) * (1 - 1 / part), DISTANCES)
    for bound in bounds[bounds < 1]:
        check_near(seed, rows, float(bound))


@in_every_order
def test_overlaps_of_a_single_unit_count(seed: int) -> None:
    rows = make_rows("sparse", 60)
    rows = rows.with_weights(np.random.default_rng(2).integers(1, 4, len(rows.weights)))
    for bound in (0.5, 0.8, 0.9, 0.95, 0.99):
        check_near(seed, rows, bound)


@in_every_order
def test_sums_of_many_rows_and_of_long_ones(seed: int) -> None:
    bench().set_seed(seed)
    for kind in KINDS:
        for count in SIZES:
            sums_of(make_rows(kind, count))
    whole = Rows(
        np.array([0, 700]), np.arange(700, dtype=np.int32), np.full(700, 2**31 - 1, np.int32), 700
    )
    assert sums_of(whole)[1] == 700 * (2**31 - 1)
    none = Rows(np.zeros(1, np.int64), *(np.zeros(0, np.int32) for _ in range(2)), 1)
    assert sums_of(none)[1] == 2**63 - 1


@in_every_order
def test_columns_of_more_entries_than_a_block_has_threads(seed: int) -> None:
    bench().set_seed(seed)
    for num_columns in (1, 255, 256, 257):
        rng = np.random.default_rng(num_columns)
        lengths = rng.integers(0, min(num_columns, 3) + 1, 700)
        invert(Rows.with_lengths(lengths, num_columns, rng))
    weights = np.full(5, ONE, np.int32)
    gaps = Rows(np.array([0, 5]), np.array([0, 1, 300, 301, 998], np.int32), weights, 1000)
    invert(gaps)


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
def test_entries_that_are_sorted_in_parts(kind: str, seed: int) -> None:
    bench().set_seed(seed)
    for count in SIZES:
        rows = make_rows(kind, count)
        entries = invert(rows)[1]
        for size in (1, 7, 31, 32, 257, 1000) if count < 257 else (97, 256, 257):
            assert_same_bits(invert_in_parts(rows, size), entries)
