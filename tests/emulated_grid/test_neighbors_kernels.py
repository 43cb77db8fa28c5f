"""Reciprocity and expansion: sets as bits in shared memory, window by window."""

import numpy as np
import pytest
import torch
from kernel_bench import (
    MOST_SHARED,
    SIZES,
    STATIC_SHARED,
    assert_same_bits,
    in_every_order,
    shuffled,
    tensors,
)
from numpy.typing import NDArray

from mabm import reference

Masked = tuple[NDArray[np.int64], NDArray[np.bool_]]


def make_ranks(count: int, width: int, seed: int = 0) -> NDArray[np.int64]:
    """Lists without repeats, padded by -1; samples in a list have near numbers."""
    rng = np.random.default_rng((seed, count, width))
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    order = np.argsort(near + rng.uniform(0, width, near.shape), axis=1)
    ranks = np.full((count, width), -1)
    length = min(count, width)
    ranks[:, :length] = order[:, :length]
    ends = rng.integers(0, 2 * width + 2, count)[:, None]  # half of the lists are whole
    return np.where(np.arange(width) < ends, ranks, -1)


def reciprocal_mask(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    count, width = ranks.shape
    holds = np.zeros((count, count + 1), bool)  # -1 falls into the last column
    holds[np.repeat(np.arange(count), width), ranks.ravel()] = True
    mask = holds[ranks, np.arange(count)[:, None]]
    return mask & (ranks >= 0)


@in_every_order
@pytest.mark.parametrize("width", [1, 5, 31, 32, 33, 70])
@pytest.mark.parametrize("count", SIZES)
def test_masks_tell_who_stands_in_the_lists_of_whom(count: int, width: int, seed: int) -> None:
    ranks = make_ranks(count, width)
    mask = shuffled(seed).reciprocal_mask(ranks)
    assert_same_bits(mask, reciprocal_mask(ranks).astype(np.uint8))
    assert_same_bits(mask, torch.ops.mabm.reciprocal_mask(*tensors(ranks)).numpy().astype("uint8"))
    assert count * width < 32 or set(mask.ravel()) == {0, 1}


def sets_of(lists: Masked) -> list[set[int]]:
    return [set(row[kept].tolist()) for row, kept in zip(*lists, strict=True)]


def shared_for(window: int) -> int:
    """Shared memory in which just a window of so many samples fits, a multiple of 32."""
    return STATIC_SHARED + window // 8


def check(
    seed: int, lists: Masked, half: Masked, max_shared: int = MOST_SHARED["H100"]
) -> NDArray[np.int64]:
    """Compares sets with the reference and the CPU; returns their lengths."""
    indptr, indices = shuffled(seed, max_shared).expand_neighbors(*lists, *half)
    neighbors = sets_of(lists)
    sets = reference.expand(neighbors, sets_of(half)) if half[0].shape[1] > 0 else neighbors
    lengths = np.array([len(own) for own in sets])
    assert_same_bits(indptr, np.concatenate([[0], np.cumsum(lengths)]))
    expected = np.concatenate([sorted(own) for own in sets]).astype(np.int32)
    assert_same_bits(indices, expected)
    from_cpu = torch.ops.mabm.expand_neighbors(*tensors(*lists, *half))
    assert_same_bits(indptr, from_cpu[0].numpy())
    assert_same_bits(indices, from_cpu[1].numpy())
    return lengths


@in_every_order
@pytest.mark.parametrize(("width", "half_width"), [(1, 1), (5, 3), (33, 17), (64, 32), (40, 0)])
@pytest.mark.parametrize("count", SIZES)
def test_sets_are_those_of_the_reference(
    count: int, width: int, half_width: int, seed: int
) -> None:
    ranks = make_ranks(count, width)
    lists = ranks, reciprocal_mask(ranks)
    for half_ranks in (ranks[:, :half_width].copy(), make_ranks(count, half_width, 1)):
        check(seed, lists, (half_ranks, reciprocal_mask(half_ranks)))


@in_every_order
def test_half_sets_about_two_thirds_of_which_are_there(seed: int) -> None:
    # Row i has 0..6; row q's half set has q + 1 members of which 0..k are there.
    ranks = np.tile(np.arange(7), (40, 1))
    half_ranks, half_mask = np.zeros((40, 39), np.int64), np.zeros((40, 39), bool)
    for q, (size, common) in enumerate([(3, 2), (6, 4), (6, 5), (9, 6), (9, 7), (1, 1), (39, 7)]):
        half_ranks[q, :size] = [*range(common), *range(40 - size + common, 40)]
        half_mask[q, :size] = True
    for row in range(40):
        half_mask[row] = np.roll(half_mask[row], row)
        half_ranks[row] = np.roll(half_ranks[row], row)
    mask = np.arange(7) <= np.arange(40)[:, None]  # rows with one member, two, and so on
    check(seed, (ranks, mask), (half_ranks, half_mask))
    check(seed, (ranks, np.ones_like(mask)), (half_ranks, half_mask))


@in_every_order
def test_a_sample_that_is_listed_twice_is_one_member(seed: int) -> None:
    ranks = np.random.default_rng(1).integers(0, 20, (20, 50))
    mask = np.random.default_rng(2).random((20, 50)) < 0.5
    half = (np.full((20, 1), 3), np.zeros((20, 1), bool))
    check(seed, (ranks, mask), half)


@in_every_order
def test_no_rows_and_rows_without_members(seed: int) -> None:
    nobody = (np.full((33, 5), -1), np.zeros((33, 5), bool))
    check(seed, nobody, nobody)
    nothing = (np.zeros((0, 5), np.int64), np.zeros((0, 5), bool))
    indptr, indices = shuffled(seed).expand_neighbors(*nothing, *nothing)
    assert (indptr.tolist(), indices.tolist()) == ([0], [])


# ---- Windows and long rows ----------------------------------------------------------------------


@in_every_order
@pytest.mark.parametrize("window", [32, 64, 224, 256, 288])
def test_windows_of_samples_change_nothing(window: int, seed: int) -> None:
    for count in (31, 257):
        ranks = make_ranks(count, 70)
        lists = ranks, reciprocal_mask(ranks)
        half = make_ranks(count, 35, 1)
        lengths = check(seed, lists, (half, reciprocal_mask(half)), shared_for(window))
        assert lengths.max() > 20


@in_every_order
@pytest.mark.parametrize("window", [128, 512])
def test_half_sets_whose_balance_comes_from_several_windows(window: int, seed: int) -> None:
    # Row i has the first 200 of a permutation, more than are weighed at a time. Of the 90 members
    # of half set q, 60 and a few more or fewer are there, all over the samples.
    rng = np.random.default_rng(5)
    count, width = 300, 200
    ranks = np.stack([rng.permutation(count) for _ in range(40)])[rng.integers(0, 40, count)]
    lists = ranks[:, :width].copy(), rng.random((count, width)) < 0.98
    half_ranks = np.empty((count, 90), np.int64)
    for q in range(count):
        inside = 60 + (q % 5 - 2)
        half_ranks[q] = rng.permutation(
            [*ranks[q, :inside], *ranks[q, width : width + 90 - inside]]
        )
    half = half_ranks, np.ones(half_ranks.shape, bool)
    lengths = check(seed, lists, half, shared_for(window))
    assert lengths.max() > lists[1].sum(axis=1).max()


def empty_lists(count: int, width: int) -> Masked:
    return np.zeros((count, width), np.int64), np.zeros((count, width), bool)


def put(lists: Masked, row: int, members: NDArray) -> None:
    lists[0][row, : len(members)] = members
    lists[1][row, : len(members)] = True


@in_every_order
@pytest.mark.parametrize("window", [96, 320])
def test_rows_of_up_to_all_samples(window: int, seed: int) -> None:
    rng = np.random.default_rng(window)
    count = 320
    lists, half = empty_lists(count, count), empty_lists(count, 1)
    wanted = {3: 319, 4: count, 5: 1, 100: 0, 318: 200, 319: count, 0: 129}
    for row, length in wanted.items():
        put(lists, row, rng.permutation(count)[:length])
    lengths = check(seed, lists, half, shared_for(window))
    assert {row: lengths[row] for row in wanted} == wanted


@in_every_order
@pytest.mark.parametrize("window", [800, 1600])
def test_a_row_that_expansion_makes_long(window: int, seed: int) -> None:
    count, length = 1600, 1537
    lists, half = empty_lists(count, 80), empty_lists(count, 61)
    members = np.random.default_rng(length).permutation(count)[:length]
    own, others = members[:80], members[80:]
    for row in (7, 1000):
        put(lists, row, own)
    # Each half set has 41 of the members and 20 or fewer others: over 2/3 are there.
    for q, added in zip(own, np.array_split(others, 80), strict=True):
        put(half, q, np.concatenate([own[:41], added]))
    put(lists, 8, own[:41])  # and one that stays short
    lengths = check(seed, lists, half, shared_for(window))
    assert np.flatnonzero(lengths == length).tolist() == [7, 1000]
