"""Exclusive prefix sums: one warp, one block, and more blocks than a block has threads."""

import numpy as np
import pytest
from kernel_bench import BENCH, SIZES, assert_same_bits, in_every_order, shuffled

BLOCK = BENCH.SCAN_PER_BLOCK
MANY = BLOCK * BENCH.SCAN_THREADS  # what one step of the sum over blocks takes

KINDS = {
    "random": lambda rng, size: rng.integers(0, 100, size),
    "zeros": lambda rng, size: np.zeros(size),
    "beyond int32": lambda rng, size: np.full(size, 2**31 - 1),
}


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, *SIZES, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 2])
def test_starts_are_the_sums_of_all_counts_before(size: int, kind: str, seed: int) -> None:
    counts = KINDS[kind](np.random.default_rng(size), size).astype(np.int32)
    starts = shuffled(seed).exclusive_sum(counts)
    assert_same_bits(starts, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


@in_every_order
@pytest.mark.parametrize("size", [MANY - 3, MANY + 1, 2 * MANY + BLOCK + 5])
def test_more_blocks_than_threads(size: int, seed: int) -> None:
    counts = np.random.default_rng(size).integers(0, 2**31, size).astype(np.int32)
    starts = shuffled(seed).exclusive_sum(counts)
    assert_same_bits(starts, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))
