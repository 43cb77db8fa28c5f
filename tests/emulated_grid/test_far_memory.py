"""Places in memory beyond 2^31 numbers.

Files of 8 GiB stand in for memory: few of their pages are ever written. Where an op would read all
of it, launchers run on the rows of high numbers alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grid_build
import numpy as np
import pytest
import torch
from kernel_bench import assert_same_bits, bench, in_every_order, shuffled

WIDE, HEIGHT = 1 << 20, (1 << 11) + 1
"""Columns and rows: the last row begins at number 2^31."""
FIRST, LAST = 0, HEIGHT - 1


@pytest.fixture(params=["CPU", "grid"])
def ops(request: pytest.FixtureRequest) -> SimpleNamespace:
    return torch.ops.mabm if request.param == "CPU" else grid_build.load_ops()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Callable[[tuple[int, ...], type], torch.Tensor]]:
    """Makes a tensor of zeros in a file without contents."""
    paths: list[Path] = []

    def make(shape: tuple[int, ...], dtype: type) -> torch.Tensor:
        paths.append(tmp_path / f"far-{len(paths)}")
        return torch.from_numpy(np.memmap(paths[-1], dtype, "w+", shape=shape))

    yield make
    for path in paths:
        path.unlink()


def column(*values: Any, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def test_features(ops: SimpleNamespace, far: Callable[..., torch.Tensor]) -> None:
    features = far((HEIGHT, WIDE), np.float32)
    near = torch.randn((2, WIDE), generator=torch.Generator().manual_seed(1)) / WIDE**0.5
    features[[FIRST, LAST]] = near
    rows = column(LAST, FIRST, dtype=torch.int64)
    lists = column(FIRST, LAST).expand(2, 1, 2).contiguous()
    counts = torch.full((2, 1), 2, dtype=torch.int32)
    found = ops.rank_candidates(features, rows, lists, counts, [2], False, None, None, None)
    expected = ops.rank_candidates(
        near, rows.clamp(max=1), lists.clamp(max=1), counts, [2], False, None, None, None
    )
    assert found[0].tolist() == [[LAST, FIRST], [FIRST, LAST]]
    assert_same_bits(found[1].numpy(), expected[1].numpy())

    # The last row has two neighbors, the others none.
    sizes = torch.zeros(HEIGHT + 1, dtype=torch.int64)
    sizes[-1] = 2
    _, indices, weights = ops.encode_neighbors(features, sizes, column(FIRST, LAST), None, None)
    expected = ops.encode_neighbors(near, sizes[[0, -2, -1]], column(0, 1), None, None)
    assert indices[-2:].tolist() == [FIRST, LAST]
    assert_same_bits(weights[-2:].numpy(), expected[2][-2:].numpy())
    assert weights[-2] < weights[-1]


def test_lists_of_candidates(ops: SimpleNamespace, far: Callable[..., torch.Tensor]) -> None:
    # Every row is compared with the two columns of a tile.
    scores, indices = far((HEIGHT, 1, WIDE), np.float32), far((HEIGHT, 1, WIDE), np.int32)
    counts = torch.full((HEIGHT, 1), -1, dtype=torch.int32)
    counts[[FIRST, LAST]] = 0
    thresholds = torch.full((HEIGHT, 1), -torch.inf)
    products = torch.arange(2.0 * HEIGHT).view(HEIGHT, 2)
    groups = torch.zeros(HEIGHT, dtype=torch.int32)
    ops.collect_candidates_(
        *(products, torch.zeros(2), groups, groups[:2], groups[:1].view(1, 1), 7),
        *(torch.zeros(HEIGHT), [2], True, False, None, None),
        *(scores, indices, counts, thresholds),
    )
    assert counts[[FIRST, LAST], 0].tolist() == [2, 2]
    for row in (FIRST, LAST):
        assert scores[row, 0, :2].tolist() == products[row].tolist()
        assert indices[row, 0, :2].tolist() == [7, 8]


def test_lists_that_the_cpu_ranks_and_cuts(far: Callable[..., torch.Tensor]) -> None:
    bounds, lists = far((HEIGHT, 1, WIDE), np.float32), far((HEIGHT, 1, WIDE), np.int32)
    counts = torch.zeros((HEIGHT, 1), dtype=torch.int32)
    counts[[FIRST, LAST]] = 3
    bounds[[FIRST, LAST], 0, :3] = torch.tensor([2.0, 0.0, 3.0])
    lists[[FIRST, LAST], 0, :3] = column(5, 6, 4)
    torch.ops.mabm.cut_candidates_(bounds, lists, counts, torch.ones((HEIGHT, 1)))
    assert counts[[FIRST, LAST], 0].tolist() == [2, 2]
    assert lists[LAST, 0, :2].tolist() == [5, 4]
    features = torch.arange(14.0).view(7, 2)
    rows = torch.zeros(HEIGHT, dtype=torch.int64)
    ranks, scores = torch.ops.mabm.rank_candidates(
        features, rows, lists, counts, [2], True, None, None, None
    )
    assert ranks[[FIRST, LAST]].tolist() == [[4, 5], [4, 5]]
    assert scores[LAST].tolist() == [-128.0, -200.0]
    assert int((ranks >= 0).sum()) == 4


# ---- Rows of high numbers -----------------------------------------------------------------------

FAR_ROW = 1 << 30
"""With a few columns a row, its first place is beyond 2^32."""


@contextmanager
def from_far_row() -> Iterator[None]:
    """Within the context, launchers number rows from ``FAR_ROW`` on."""
    bench().set_first_row(FAR_ROW)
    try:
        yield
    finally:
        bench().set_first_row(0)


@in_every_order
def test_reciprocity_of_far_rows(seed: int) -> None:
    grid = shuffled(seed)
    ranks = np.random.default_rng(1).integers(-1, 20, (20, 5))
    expected = grid.reciprocal_mask(ranks)
    assert 0 < expected.sum() < expected.size
    with from_far_row():
        found = grid.reciprocal_mask(np.where(ranks < 0, -1, ranks + FAR_ROW))
    assert_same_bits(found, expected)


@in_every_order
@pytest.mark.parametrize("bounded", [False, True])
def test_rankings_of_far_rows(bounded: bool, seed: int) -> None:
    grid, rng = shuffled(seed), np.random.default_rng(2)
    features = rng.normal(size=(30, 6)).astype(np.float32)
    lists = np.stack([rng.permutation(30)[:14] for _ in range(20)]).reshape(20, 2, 7)
    bounds = rng.normal(size=lists.shape) * 9 if bounded else np.zeros(0)
    arguments = (
        *(features, rng.integers(0, 30, 20), lists.astype(np.int32)),
        *(rng.integers(-1, 8, (20, 2)).astype(np.int32), np.array([2, 3], np.int32), True),
        *(bounds.astype(np.float32), rng.normal(size=20), 1.0),
    )
    expected = grid.rank_candidates(*arguments)
    with from_far_row():
        found = grid.rank_candidates(*arguments)
    for part, wanted in zip(found, expected, strict=True):
        assert_same_bits(part, wanted)


@in_every_order
def test_near_rows_of_far_rows(seed: int) -> None:
    grid, rng = shuffled(seed), np.random.default_rng(3)
    counts = rng.integers(0, bench().NEAR_SLOTS + 1, 20).astype(np.int32)
    starts = grid.exclusive_sum(counts)
    slots = rng.integers(0, 20, (20, bench().NEAR_SLOTS)).astype(np.int32)
    expected = grid.move_near_rows(counts, starts, slots, slots.astype(np.float32))
    with from_far_row():
        found = grid.move_near_rows(counts, starts, slots, slots.astype(np.float32))
    for part, wanted in zip(found, expected, strict=True):
        assert_same_bits(part, wanted)
