"""Near rows of one encoding in another: the dense distance, pruned."""

from typing import Any

import numpy as np
import pytest
import torch
from devices import CPU, Device, threads
from hypothesis import given
from hypothesis import strategies as st
from op_samples import OPS

Encoding = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
NEXT_TO_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
KINDS = ("sparse", "heavy", "ties", "empty")


def make_encoding(kind: str, count: int, num_samples: int, seed: int) -> Encoding:
    """Random rows: "heavy" ones share three samples, "ties" are few different ones."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 2**20, size=(count, num_samples))
    dense[rng.random(dense.shape) < 0.8] = 0
    if kind == "heavy":
        dense[:, :3] = rng.integers(2**18, 2**22, size=dense[:, :3].shape)
    if kind == "ties":
        dense = dense[rng.integers(0, 1 + count // 8, size=count)] % 3 if count else dense
    if kind == "empty":
        dense[rng.random(count) < 0.5] = 0
    rows, columns = dense.nonzero()
    indptr = np.concatenate([[0], np.bincount(rows, minlength=count).cumsum()])
    return (
        torch.from_numpy(indptr),
        torch.from_numpy(columns.astype(np.int32)),
        torch.from_numpy(dense[rows, columns].astype(np.int32)),
    )


def pruned(dense: np.ndarray, max_distance: float) -> tuple[np.ndarray, ...]:
    near = dense <= np.float32(max_distance)
    ends = np.concatenate([[0], near.sum(axis=1).cumsum()])
    return ends, near.nonzero()[1].astype(np.int32), dense[near]


def check(device: Device, rows: Encoding, columns: Encoding, size: int, bound: float) -> None:
    pair = [device.put(part) for part in (*rows, *columns)]
    dense = device.get(OPS.jaccard_distance(*pair, size))
    found = OPS.near_rows(*pair, size, bound)
    for part, expected in zip(found, pruned(dense, bound), strict=True):
        assert device.get(part).dtype == expected.dtype
        np.testing.assert_array_equal(device.get(part), expected)


@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(3, 60),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0.0, 1e-6, 0.3, 0.6, 0.9, 0.999, NEXT_TO_ONE)),
)
def test_is_the_dense_distance_pruned(
    device: Device,
    kind: str,
    other_kind: str,
    num_rows: int,
    num_columns: int,
    num_samples: int,
    seed: int,
    max_distance: float,
) -> None:
    rows = make_encoding(kind, num_rows, num_samples, seed)
    columns = make_encoding(other_kind, num_columns, num_samples, seed + (kind != "ties"))
    check(device, rows, columns, num_samples, max_distance)


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.data())
def test_a_distance_of_just_the_greatest_one_is_near(
    device: Device, kind: str, seed: int, data: Any
) -> None:
    rows, columns = (make_encoding(kind, count, 30, seed) for count in (20, 30))
    pair = [device.put(part) for part in (*rows, *columns)]
    distances = np.unique(device.get(OPS.jaccard_distance(*pair, 30)))
    bound = data.draw(st.sampled_from([float(value) for value in distances if value < 1] or [0.5]))
    check(device, rows, columns, 30, bound)
    check(device, rows, columns, 30, float(np.nextafter(np.float32(bound), np.float32(0))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_distance", [0.0, 0.6, NEXT_TO_ONE])
def test_of_an_encoding_in_itself_is_its_graph(
    device: Device, kind: str, max_distance: float
) -> None:
    rows = [device.put(part) for part in make_encoding(kind, 150, 150, 1)]
    found = OPS.near_rows(*rows, *rows, 150, max_distance)
    for part, expected in zip(found, OPS.jaccard_graph(*rows, max_distance), strict=True):
        assert torch.equal(part, expected)


def test_columns_that_many_rows_share_are_left_out_and_finished(device: Device) -> None:
    # Most of a row's weight is in samples that all rows have: they are what a search skips.
    rows, columns = (
        make_encoding("heavy", count, 400, seed) for count, seed in ((90, 1), (300, 2))
    )
    for max_distance in (0.5, 0.7, 0.95):
        check(device, rows, columns, 400, max_distance)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(0, 9), (9, 0), (0, 0)])
def test_no_rows_and_no_columns(device: Device, num_rows: int, num_columns: int) -> None:
    rows, columns = (make_encoding("sparse", count, 20, 3) for count in (num_rows, num_columns))
    check(device, rows, columns, 20, 0.9)
    if num_rows == num_columns:
        check(device, rows, columns, 0, 0.9)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    rows, columns = (make_encoding("heavy", count, 80, count) for count in (700, 300))
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(OPS.near_rows(*rows, *columns, 80, 0.8))
    for found in results[1:]:
        for part, expected in zip(found, results[0], strict=True):
            assert torch.equal(part, expected)
    assert len(results[0][1]) > 300


def test_takes_part_of_a_storage() -> None:
    rows = make_encoding("heavy", 40, 30, 1)
    parts = [torch.cat([part[:1], part])[1:] for part in rows]
    check(CPU, tuple(parts), rows, 30, 0.8)
