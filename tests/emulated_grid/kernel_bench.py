"""Shared by the tests of kernels: the launchers, in every order, and rows to launch them on."""

import functools
from dataclasses import dataclass
from types import ModuleType

import grid_build
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mabm._core import extension

extension.load()  # torch.ops.mabm, the ops of the CPU

SIZES = [1, 31, 32, 33, 257]
"""Numbers of rows just below, at and above the size of a warp and of a block."""

ONE = 1 << 30
"""The weights of a row sum to about this."""

in_every_order = pytest.mark.parametrize("seed", grid_build.SEEDS)


def bench() -> ModuleType:
    """The launchers, compiled when a test first asks for them."""
    return grid_build.load("bench", ("bench.cpp", "bench_rows.cpp"))


STATIC_SHARED = 1 << 10
"""Bytes of shared memory that are left to what kernels declare."""

MOST_SHARED = {"Turing": 64 << 10, "GeForce": 99 << 10, "A100": 163 << 10, "H100": 227 << 10}
"""Bytes of shared memory that a block may have."""


def shuffled(seed: int, max_shared: int = MOST_SHARED["H100"]) -> ModuleType:
    """The launchers, with the order of threads and blocks drawn from a seed.

    Args:
        seed: The seed.
        max_shared: The most bytes of shared memory that a block may have.
    """
    launchers = bench()
    launchers.set_seed(seed)
    launchers.set_max_shared(max_shared)
    return launchers


def assert_same_bits(found: NDArray, expected: NDArray) -> None:
    """Equal arrays of one type, with -0 apart from 0."""
    expected = np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert found.tobytes() == expected.tobytes()


def tensors(*arrays: NDArray) -> list[torch.Tensor]:
    """Arrays as the ops of the CPU take them."""
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


@dataclass(frozen=True, eq=False)
class Rows:
    """CSR rows with ascending columns and weights of at least one; not to be changed."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.int32]
    num_columns: int

    @classmethod
    def with_lengths(cls, lengths: NDArray, num_columns: int, rng: np.random.Generator) -> "Rows":
        """Rows of given lengths with columns drawn at random and weights that sum to one."""
        columns = [np.sort(rng.choice(num_columns, length, replace=False)) for length in lengths]
        weights = []
        for length in lengths:
            parts = rng.random(length) + 1e-6
            weights.append(np.rint(parts / parts.sum() * ONE) if length else parts)
        return cls(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([*columns, []]).astype(np.int32),
            np.maximum(np.concatenate([*weights, []]), 1).astype(np.int32),
            num_columns,
        )

    def take(self, rows: NDArray) -> "Rows":
        """Some of the rows; a row may be taken several times."""
        parts = [slice(self.indptr[row], self.indptr[row + 1]) for row in rows]
        lengths = np.diff(self.indptr)[rows]
        return Rows(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([self.indices[:0], *(self.indices[part] for part in parts)]),
            np.concatenate([self.weights[:0], *(self.weights[part] for part in parts)]),
            self.num_columns,
        )

    def with_weights(self, weights: NDArray) -> "Rows":
        return Rows(self.indptr, self.indices, weights.astype(np.int32), self.num_columns)

    @property
    def count(self) -> int:
        return len(self.indptr) - 1

    @property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray]:
        return self.indptr, self.indices, self.weights

    @functools.cached_property
    def dense(self) -> NDArray[np.int64]:
        matrix = np.zeros((self.count, self.num_columns), np.int64)
        matrix[np.repeat(np.arange(self.count), np.diff(self.indptr)), self.indices] = self.weights
        return matrix


KINDS = ("sparse", "unequal", "empty rows", "duplicates", "hub", "one-hot")


@functools.cache
def make_rows(kind: str, count: int, seed: int = 0) -> Rows:
    """Square rows: as many columns as rows."""
    rng = np.random.default_rng((seed, count))
    short = rng.integers(1, min(12, count) + 1, count)
    if kind == "unequal":  # one of them whole
        lengths = (count ** rng.random(count)).astype(int)
        lengths[rng.integers(count)] = count
        return Rows.with_lengths(lengths, count, rng)
    if kind == "empty rows":
        return Rows.with_lengths(short * (rng.random(count) < 0.5), count, rng)
    if kind == "duplicates":
        return Rows.with_lengths(short, count, rng).take(rng.integers(0, count // 12 + 1, count))
    if kind == "one-hot":
        weights = np.full(count, ONE, np.int32)
        return Rows(np.arange(count + 1), np.arange(count, dtype=np.int32), weights, count)
    rows = Rows.with_lengths(short, count, rng)
    if kind == "hub":  # all of them hold the last column
        last = rows.indptr[1:] - 1
        rows.indices[last] = count - 1
    return rows
