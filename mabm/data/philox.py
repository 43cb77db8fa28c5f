"""Uniform random numbers that depend only on a seed and a key.

They do not depend on the batch, the device or any global random state. A counter-based generator
needs no state and no object per image: the numbers of a whole batch are a few array operations. It
is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray

# Multipliers and key increments of Philox4x32, table 2 and section 3.3 of the paper.
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_INCREMENTS: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_NUM_ROUNDS: Final = 10  # the paper's recommendation: passes every test of BigCrush from 7 on
_LOW: Final = np.uint64(0xFFFFFFFF)
_WORD: Final = np.uint64(32)

Words = npt.NDArray[np.uint64]


def uniform_draws(
    seed: int | Sequence[int], keys: IntArray, num_draws: int
) -> npt.NDArray[np.float64]:
    """Returns (B, num_draws) uniform numbers in [0, 1); row i depends only on (seed, keys[i]).

    The first numbers of a row do not depend on ``num_draws``. Numbers are multiples of 2**-32.

    Args:
        seed: Seed for ``numpy.random.SeedSequence``: an integer >= 0 or a sequence of them.
        keys: (B,) int64, any values; equal keys draw equal numbers.
        num_draws: Numbers per row, >= 0.
    """
    key = np.random.SeedSequence(seed).generate_state(2, np.uint32).astype(np.uint64)
    num_blocks = -(-num_draws // 4)
    unsigned = keys.astype(np.int64).view(np.uint64)[:, None]
    shape = (len(keys), num_blocks)
    block = np.broadcast_to(np.arange(num_blocks, dtype=np.uint64), shape)
    words = philox4x32(
        (
            np.broadcast_to(unsigned & _LOW, shape),
            np.broadcast_to(unsigned >> _WORD, shape),
            block,
            np.zeros(shape, dtype=np.uint64),
        ),
        (key[0], key[1]),
    )
    return np.stack(words, axis=-1).reshape(len(keys), 4 * num_blocks)[:, :num_draws] / 2.0**32


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: tuple[np.uint64, np.uint64]
) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox over arrays of counters, every word a 32-bit number in a uint64."""
    first, second, third, fourth = counter
    keys = [int(word) for word in key]
    for _ in range(_NUM_ROUNDS):
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first, second, third, fourth = (
            (right >> _WORD) ^ second ^ np.uint64(keys[0]),
            right & _LOW,
            (left >> _WORD) ^ fourth ^ np.uint64(keys[1]),
            left & _LOW,
        )
        keys = [
            (word + int(step)) & int(_LOW) for word, step in zip(keys, _INCREMENTS, strict=True)
        ]
    return first, second, third, fourth
