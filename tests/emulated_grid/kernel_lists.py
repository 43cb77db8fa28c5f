"""Shared by the tests of rankings: candidate lists, and which samples fall into them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
