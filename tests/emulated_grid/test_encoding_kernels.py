"""Encoding and local query expansion: weights in fixed point, the same bits in every order."""

import functools

import numpy as np
import pytest
import torch
from kernel_bench import (
    KINDS,
    MOST_SHARED,
    ONE,
    SIZES,
    STATIC_SHARED,
    Rows,
    assert_same_bits,
    bench,
    in_every_order,
    make_rows,
    shuffled,
    tensors,
)
from numpy.typing import NDArray

from mabm import reference


def make_features(kind: str, count: int, dim: int) -> NDArray[np.float32]:
    noise = np.random.default_rng((count, dim)).normal(size=(count, dim))
    if kind == "unit":
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    elif kind == "long":  # all but a few weights are none
        noise *= 10.0
    elif kind == "equal":
        noise[:] = 1.0
    elif kind == "huge":
        noise *= 1e30
    elif kind == "subnormal":
        noise *= 1e-41
    return noise.astype(np.float32)


@functools.cache
def encode_slowly(kind: str, dim: int, sets: Rows) -> NDArray[np.float64]:
    neighbors = [set(np.flatnonzero(row).tolist()) for row in sets.dense]
    return reference.encode(make_features(kind, sets.count, dim), neighbors)


Known = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ranks (N, K) and the products of their samples with the row's."""


def encode(seed: int, features: NDArray, sets: Rows, known: Known | None = None) -> Rows:
    """Both launches; checks the counts of the first one."""
    grid = shuffled(seed)
    if known is None:
        known = (np.zeros((len(features), 0), np.int64), np.zeros((len(features), 0)))
    weights, counts = grid.weigh_neighbors(features, sets.indptr, sets.indices, *known)
    starts = grid.exclusive_sum(counts)
    indices, kept = grid.keep_positive(sets.indptr, sets.indices, weights, 0, starts)
    assert (weights >= 0).all()
    lengths = np.diff(sets.indptr)
    row_of = np.repeat(np.arange(sets.count), lengths)
    positive = np.bincount(row_of[weights > 0], minlength=sets.count)
    assert_same_bits(counts, np.where(lengths == 0, 1, positive).astype(np.int32))
    return Rows(starts, indices, kept, sets.count)


@in_every_order
@pytest.mark.parametrize("kind", ["unit", "long", "equal", "huge", "subnormal"])
@pytest.mark.parametrize("count", SIZES)
def test_encodings_are_those_of_the_reference_and_the_cpu(count: int, kind: str, seed: int) -> None:
    for sets_kind, dim in [("unequal", 1), ("sparse", 31), ("empty rows", 33), ("hub", 64)]:
        sets = make_rows(sets_kind, count)
        features = make_features(kind, count, dim)
        found = encode(seed, features, sets)
        expected = torch.ops.mabm.encode_neighbors(
            *tensors(features, sets.indptr, sets.indices), None, None
        )
        for part, wanted in zip(found.arrays, expected, strict=True):
            assert_same_bits(part, wanted.numpy())
        slow = encode_slowly(kind, dim, sets)
        np.testing.assert_allclose(found.dense / ONE, slow, rtol=0, atol=2e-9)


@in_every_order
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 15, 16, 17, 127, 128, 129, 300])
def test_rows_about_the_size_of_a_batch_and_of_a_block(length: int, seed: int) -> None:
    rng = np.random.default_rng(length)
    sets = Rows.with_lengths(np.array([length, 2, length, 0]), max(length, 4), rng)
    features = make_features("unit", sets.num_columns, 8)
    grown = Rows(
        np.append(sets.indptr, np.full(len(features) - 4, sets.indptr[-1])), *sets.arrays[1:], 0
    )
    found = encode(seed, features, grown)
    expected = torch.ops.mabm.encode_neighbors(
        *tensors(features, grown.indptr, grown.indices), None, None
    )
    for part, wanted in zip(found.arrays, expected, strict=True):
        assert_same_bits(part, wanted.numpy())


def make_ranking(count: int, width: int) -> Known:
    """Lists of distinct samples in any order, with gaps, and numbers that are no products."""
    rng = np.random.default_rng((count, width))
    ranks = np.array([rng.permutation(count)[:width] for _ in range(count)]).reshape(count, -1)
    ranks[rng.random(ranks.shape) < 0.2] = -1
    ranks[::7] = -1
    return ranks, rng.normal(size=ranks.shape)


@in_every_order
@pytest.mark.parametrize("kind", ["unequal", "empty rows", "hub"])
@pytest.mark.parametrize("width", [0, 1, 20, 200])
def test_products_of_a_ranking_are_taken_from_either_side(width: int, kind: str, seed: int) -> None:
    # Numbers that are no products show where each came from.
    for count in SIZES:
        sets, features = make_rows(kind, count), make_features("unit", count, 33)
        known = make_ranking(count, width)
        expected = torch.ops.mabm.encode_neighbors(
            *tensors(features, sets.indptr, sets.indices, *known)
        )
        found = encode(seed, features, sets, known)
        for part, wanted in zip(found.arrays, expected, strict=True):
            assert_same_bits(part, wanted.numpy())


@in_every_order
def test_a_product_that_is_not_a_number_is_computed(seed: int) -> None:
    sets, features = make_rows("unequal", 257), make_features("unit", 257, 33)
    ranks, _ = make_ranking(257, 20)
    found = encode(seed, features, sets, (ranks, np.full(ranks.shape, np.nan)))
    for part, wanted in zip(found.arrays, encode(seed, features, sets).arrays, strict=True):
        assert_same_bits(part, wanted)


@in_every_order
def test_any_neighbor_may_have_the_greatest_product(seed: int) -> None:
    # Row 0 with one neighbor far nearer than the others, each in its turn: it takes all weight.
    count = 40
    for nearest in range(count):
        features = np.ones((count, 2), np.float32)
        features[nearest] = 30
        sets = Rows(
            np.concatenate([[0], np.full(count, count)]),
            np.arange(count, dtype=np.int32),
            np.ones(count, np.int32),
            count,
        )
        found = encode(seed, features, sets)
        assert found.indices.tolist() == [nearest, *range(1, count)]
        assert found.weights.tolist() == [ONE] * count


@in_every_order
@pytest.mark.parametrize("kind", ["unequal", "empty rows", "hub"])
@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
def test_weights_of_products_are_those_of_the_cpu(spread: float, kind: str, seed: int) -> None:
    grid = shuffled(seed)
    for count in SIZES:
        sets = make_rows(kind, count)
        products = np.random.default_rng(count).normal(size=len(sets.indices)) * spread
        for first_row in (0, 2**31 - 1 - count):
            weights, counts = grid.weigh_products(sets.indptr, sets.indices, products)
            starts = grid.exclusive_sum(counts)
            found = grid.keep_positive(sets.indptr, sets.indices, weights, first_row, starts)
            expected = torch.ops.mabm.weigh_products(
                *tensors(sets.indptr, sets.indices, products), first_row
            )
            for part, wanted in zip((starts, *found), expected, strict=True):
                assert_same_bits(part, wanted.numpy())


# ---- Local query expansion ----------------------------------------------------------------------


def average(
    encoding: Rows, neighbors: NDArray[np.int64], factors: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The definition in integers: parts of 2^-62, rounded to weights of 2^-30 once."""
    dense = encoding.dense.astype(np.uint64)
    averaged = np.zeros(dense.shape, np.int64)
    for row, (others, row_factors) in enumerate(zip(neighbors, factors, strict=True)):
        units = np.rint(row_factors * 2.0**32).astype(np.uint64)
        parts = dense[others[others >= 0]] * units[others >= 0, None]
        sums = parts.sum(axis=0)
        if parts.size > 0:
            averaged[row] = np.rint(sums.astype(float) / float(sums.sum()) * ONE)
    return averaged


def check(
    seed: int,
    encoding: Rows,
    neighbors: NDArray[np.int64],
    factors: NDArray[np.float64],
    max_shared: int = MOST_SHARED["H100"],
) -> list[int]:
    """Compares averages with the definition and the CPU; returns which rows were long ones."""
    *found, long_rows = shuffled(seed, max_shared).average_encodings(
        *encoding.arrays, neighbors, factors
    )
    expected = average(encoding, neighbors, factors)
    lengths = (expected > 0).sum(axis=1)
    assert_same_bits(found[0], np.concatenate([[0], np.cumsum(lengths)]))
    assert_same_bits(found[1], np.nonzero(expected)[1].astype(np.int32))
    assert_same_bits(found[2], expected[expected > 0].astype(np.int32))
    from_cpu = torch.ops.mabm.average_encodings(*tensors(*encoding.arrays, neighbors, factors))
    for part, wanted in zip(found, from_cpu, strict=True):
        assert_same_bits(part, wanted.numpy())
    return sorted(long_rows.tolist())


def make_neighbors(
    count: int, width: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows to average, in places fewer than `width`; the weights of a row sum to one."""
    rng = np.random.default_rng((seed, count, width))
    neighbors = rng.integers(0, count, (count, width))
    neighbors[rng.random((count, width)) < 0.2] = -1
    neighbors[:, 0] = np.where(neighbors[:, 0] < 0, np.arange(count), neighbors[:, 0])
    factors = np.where(neighbors >= 0, rng.random((count, width)) + 0.01, 0.0)
    return neighbors, factors / factors.sum(axis=1, keepdims=True)


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", SIZES)
def test_averages_are_those_of_the_definition(count: int, kind: str, seed: int) -> None:
    encoding = make_rows(kind if kind != "empty rows" else "sparse", count)
    for width in (1, 5, 33):
        check(seed, encoding, *make_neighbors(count, width))


@in_every_order
def test_rows_of_which_nothing_is_averaged_are_empty(seed: int) -> None:
    encoding = make_rows("sparse", 40)
    neighbors, factors = make_neighbors(40, 3)
    neighbors[::3] = -1
    factors[1::3] *= 1e-6  # weights count relative to each other
    check(seed, encoding, neighbors, factors)


@in_every_order
def test_parts_that_round_to_nothing_are_left_out(seed: int) -> None:
    encoding = make_rows("unequal", 100)
    encoding = encoding.with_weights(
        np.where(np.arange(len(encoding.weights)) % 2, encoding.weights, 1)
    )
    neighbors, factors = make_neighbors(100, 4)
    factors[:, 1:] *= 1e-3
    before = average(encoding, neighbors, np.ones_like(factors))
    after = average(encoding, neighbors, factors)
    assert (before > 0).sum() > (after > 0).sum()
    check(seed, encoding, neighbors, factors)


def first_slots(count: int) -> NDArray[np.uint32]:
    """Where columns belong in a table in shared memory."""
    mixed = np.arange(count, dtype=np.uint32) * np.uint32(2654435769)
    return (mixed >> np.uint32(16) ^ mixed) & np.uint32(bench().TABLE_SLOTS - 1)


@in_every_order
def test_columns_that_all_belong_to_few_slots(seed: int) -> None:
    # Where they come to lie, and how far from their slots, depends on who comes first.
    last = bench().TABLE_SLOTS - 1
    num_columns = 100 * bench().TABLE_SLOTS
    slots = first_slots(num_columns)
    columns = [
        np.flatnonzero(np.isin(slots, chosen))[:120] for chosen in ([9, 59], [last], [last - 1, 0])
    ]
    lengths = np.array([len(chosen) for chosen in columns])
    assert (lengths > 80).all()
    encoding = Rows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate(columns).astype(np.int32),
        np.random.default_rng(0).integers(1, 2**22, lengths.sum()).astype(np.int32),
        num_columns,
    )
    neighbors, factors = np.array([[0, 1], [1, 2], [2, 0]]), np.full((3, 2), 0.5)
    expected = average(encoding, neighbors, factors)
    for repeat in range(5):
        grid = shuffled(seed + 100 * repeat)
        starts, indices, weights, _ = grid.average_encodings(*encoding.arrays, neighbors, factors)
        assert np.diff(starts).tolist() == (expected > 0).sum(axis=1).tolist()
        assert_same_bits(indices, np.nonzero(expected)[1].astype(np.int32))
        assert_same_bits(weights, expected[expected > 0].astype(np.int32))


# ---- Long rows ----------------------------------------------------------------------------------


def shared_for(window: int) -> int:
    """Shared memory in which the sums of so many columns fit, and no more."""
    return STATIC_SHARED + 8 * window


@in_every_order
@pytest.mark.parametrize("window", [1600, 1000, 37])
def test_rows_about_the_size_of_a_table(window: int, seed: int) -> None:
    rng = np.random.default_rng(window)
    count, most = 1600, bench().TABLE_MEMBERS
    lengths = np.ones(count, int)
    lengths[[3, 4, 5, 6]] = [most, most + 1, most - 1, 1000]
    encoding = Rows.with_lengths(lengths, count, rng)
    neighbors = np.arange(count)[:, None].repeat(2, axis=1)
    neighbors[[900, 901, 1599]] = [[4, 3], [6, 6], [5, 6]]
    long_rows = check(seed, encoding, neighbors, np.full((count, 2), 0.5), shared_for(window))
    assert long_rows == [4, 900, 1599]


@in_every_order
@pytest.mark.parametrize("card", ["Turing", "GeForce"])
@pytest.mark.parametrize("beyond", [0, 1])
def test_rows_about_the_size_of_a_window(beyond: int, card: str, seed: int) -> None:
    # Every column has a part, in one window or in two; 40 rows to average for 32 warps.
    count = (MOST_SHARED[card] - STATIC_SHARED) // 8 + beyond
    rng = np.random.default_rng(count)
    lengths = np.zeros(count, int)
    lengths[:40] = [count, 2000, *rng.integers(1, 200, 38)]
    encoding = Rows.with_lengths(lengths, count, rng)
    # The others have nothing to average.
    neighbors = np.full((count, 40), -1)
    neighbors[[0, 7, count - 1]] = np.stack([rng.permutation(40) for _ in range(3)])
    neighbors[1, 3:6] = 0
    factors = np.where(neighbors >= 0, 1 / 40, 0.0)
    expected = torch.ops.mabm.average_encodings(*tensors(*encoding.arrays, neighbors, factors))
    *found, long_rows = shuffled(seed, MOST_SHARED[card]).average_encodings(
        *encoding.arrays, neighbors, factors
    )
    assert sorted(long_rows.tolist()) == [0, 1, 7, count - 1]
    for part, wanted in zip(found, expected, strict=True):
        assert_same_bits(part, wanted.numpy())
    assert int(expected[0].diff()[0]) > 0.9 * count


@pytest.mark.parametrize("spare", [0, STATIC_SHARED])
def test_a_window_that_fills_what_every_launch_may_have(spare: int) -> None:
    # What the kernel declares is beside the window.
    count = ((48 << 10) - spare) // 8
    lengths = np.where(np.arange(count) == 5, 1700, 1)
    encoding = Rows.with_lengths(lengths, count, np.random.default_rng(count))
    neighbors = np.full((count, 1), -1)
    neighbors[count - 1] = 5
    factors = np.where(neighbors >= 0, 1.0, 0.0)
    expected = torch.ops.mabm.average_encodings(*tensors(*encoding.arrays, neighbors, factors))
    *found, long_rows = shuffled(0).average_encodings(*encoding.arrays, neighbors, factors)
    assert long_rows.tolist() == [count - 1]
    for part, wanted in zip(found, expected, strict=True):
        assert_same_bits(part, wanted.numpy())


@in_every_order
@pytest.mark.parametrize("window", [100, 1700])
def test_many_long_rows_at_once(window: int, seed: int) -> None:
    rng = np.random.default_rng(window)
    count = 1700
    lengths = np.where(np.arange(count) % 50 == 0, 1690, rng.integers(1, 30, count))
    encoding = Rows.with_lengths(lengths, count, rng)
    neighbors, factors = make_neighbors(count, 3)
    long_rows = check(seed, encoding, neighbors, factors, shared_for(window))
    assert 50 < len(long_rows) < 200


@in_every_order
def test_windows_begin_where_there_are_columns(seed: int) -> None:
    # Two stretches of columns with a wide gap between; windows of 900, and a last column alone.
    count = 3000
    columns = np.array([*range(5, 905), *range(2000, 2899), 2999])
    lengths = np.zeros(count, int)
    lengths[:2] = len(columns)
    encoding = Rows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.tile(columns, 2).astype(np.int32),
        np.random.default_rng(0).integers(1, 2**19, 2 * len(columns)).astype(np.int32),
        count,
    )
    neighbors = np.full((count, 2), -1)
    neighbors[:3] = [[0, 1], [1, -1], [-1, 0]]
    factors = np.full((count, 2), 0.5)
    for window in (900, 901, 64):
        assert check(seed, encoding, neighbors, factors, shared_for(window)) == [0, 1, 2]


@in_every_order
@pytest.mark.parametrize("window", [1600, 64])
def test_a_long_row_that_keeps_few_of_its_members(window: int, seed: int) -> None:
    count = 1600
    lengths = np.ones(count, int)
    lengths[[0, 1]] = [bench().TABLE_MEMBERS, count]
    encoding = Rows.with_lengths(lengths, count, np.random.default_rng(0))
    in_long = np.arange(len(encoding.weights)) < lengths[:2].sum()
    encoding = encoding.with_weights(np.where(in_long, 1, encoding.weights))
    neighbors = np.array([[0, 5], [1, 6], *([[i, i] for i in range(2, count)])])
    factors = np.full((count, 2), 0.5)
    assert check(seed, encoding, neighbors, factors, shared_for(window)) == [1]
    assert average(encoding, neighbors, factors)[:2].max(axis=1).tolist() != [1, 1]


@in_every_order
@pytest.mark.parametrize("length", [1, 16, 1600])
def test_parts_about_half_of_the_least_weight(length: int, seed: int) -> None:
    # One row of parts that sum to 2^61, and rows of one part each of 2^30 - 4 to 2^30 + 11. With
    # these the total is just over 2^61 + 16 * 2^30, half of the least weight 2^30 + 8 and a little.
    count = length + 20
    parts = 2**30 + np.arange(-4, 12)
    whole = np.full(length, 2**30 // length)
    whole[0] += 2**30 - whole.sum()
    lengths = np.array([length, *([1] * 16), *([0] * (count - 17))])
    encoding = Rows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.arange(length + 16, dtype=np.int32),
        np.concatenate([whole, parts]).astype(np.int32),
        count,
    )
    neighbors = np.full((count, 17), -1)
    neighbors[[2, count - 1]] = np.arange(17)
    factors = np.zeros((count, 17))
    factors[:] = [0.5, *([2.0**-32] * 16)]
    expected = average(encoding, neighbors, factors)[2]
    assert np.flatnonzero(expected[length:] > 0).tolist() == [13, 14, 15]  # 2^30 + 9, 10, 11
    long_rows = check(seed, encoding, neighbors, factors)
    assert long_rows == ([2, count - 1] if length == 1600 else [])


# ---- Sums of 64 bits in halves ------------------------------------------------------------------


@in_every_order
@pytest.mark.parametrize("window", [0, 100], ids=["table", "windows"])
def test_sums_whose_low_halves_wrap_around(window: int, seed: int) -> None:
    # Parts just below, at and above multiples of 2^32, in one column, from 61 rows at once.
    count = 1600
    weights = [1, 2, 3, 2**29 - 1, 2**29, 2**29 + 1, 2**31 - 1 - 2**20]
    columns = count if window else 3
    lengths = np.where(np.arange(count) < len(weights), columns, 0)
    encoding = Rows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.tile(np.arange(columns), len(weights)).astype(np.int32),
        np.where(
            np.tile(np.arange(columns), len(weights)) == 1, np.repeat(weights, columns), 1
        ).astype(np.int32),
        count,
    )
    rng = np.random.default_rng(3)
    neighbors = np.full((count, 61), -1)
    neighbors[:8] = rng.integers(0, len(weights), (8, 61))
    units = np.array([1, 2, 3, 2**25, 2**26 - 1, 2**26, 2**26 + 1]) / 2.0**32
    factors = rng.choice(units, (count, 61))
    long_rows = check(seed, encoding, neighbors, factors, shared_for(window or 28_000))
    assert long_rows == (list(range(8)) if window else [])
