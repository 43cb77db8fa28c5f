"""Exclusive prefix sums: one warp, one block, and more blocks than a block has threads."""

import numpy as np
import pytest
from kernel_bench import SIZES, assert_same_bits, bench, in_every_order, shuffled

KINDS = {
    "random": lambda rng, size: rng.integers(0, 100, size),
    "zeros": lambda rng, size: np.zeros(size),
    "beyond int32": lambda rng, size: np.full(size, 2**31 - 1),
}


@in_every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("blocks", "more"), [*((0, size) for size in (0, *SIZES)), (1, -1), (1, 0), (1, 1), (2, 2)]
)
def test_starts_are_the_sums_of_all_counts_before(
    blocks: int, more: int, kind: str, seed: int
) -> None:
    size = blocks * bench().SCAN_PER_BLOCK + more
    counts = KINDS[kind](np.random.default_rng(size), size).astype(np.int32)
    starts = shuffled(seed).exclusive_sum(counts)
    assert_same_bits(starts, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


@in_every_order
@pytest.mark.parametrize(("steps", "blocks", "more"), [(1, 0, -3), (1, 0, 1), (2, 1, 5)])
def test_more_blocks_than_threads(steps: int, blocks: int, more: int, seed: int) -> None:
    # A step of the sum over blocks takes as many of them as a block has threads.
    size = (steps * bench().SCAN_THREADS + blocks) * bench().SCAN_PER_BLOCK + more
    counts = np.random.default_rng(size).integers(0, 2**31, size).astype(np.int32)
    starts = shuffled(seed).exclusive_sum(counts)
    assert_same_bits(starts, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))
