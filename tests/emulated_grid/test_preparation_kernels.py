"""What is measured and rounded of features, kernel by kernel: the bits of the CPU."""

import numpy as np
import pytest
import torch
from kernel_bench import assert_same_bits, in_every_order, shuffled, tensors
from test_scores_kernels import KINDS, make_features

OPS = torch.ops.mabm
SHAPES = [(1, 1), (2, 31), (33, 65), (64, 128), (65, 130), (9, 700), (600, 3)]
every_kind = pytest.mark.parametrize("kind", KINDS)


@in_every_order
@every_kind
@pytest.mark.parametrize("shape", [*SHAPES, (256, 1), (257, 129)], ids=str)
def test_columns(kind: str, shape: tuple[int, int], seed: int) -> None:
    x = make_features(kind, *shape)
    (expected,) = (OPS.measure_columns(put).numpy() for put in tensors(x))
    assert_same_bits(shuffled(seed).measure_columns(x), expected)


@pytest.mark.parametrize("count", [256, 257, 512, 600])
def test_extremes_of_columns_may_be_in_any_part(count: int) -> None:
    ascending = np.arange(count, dtype=np.float32)
    x = np.stack([ascending, ascending[::-1], np.roll(ascending, count // 2)], axis=1)
    _, least, greatest = shuffled(1).measure_columns(x)
    assert_same_bits(least, x.min(axis=0))
    assert_same_bits(greatest, x.max(axis=0))


def test_columns_of_parts_that_are_longer() -> None:
    x = make_features("gaussian", 2**18 + 1, 1)
    (put,) = tensors(x)
    assert_same_bits(shuffled(1).measure_columns(x), OPS.measure_columns(put).numpy())


@in_every_order
@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(kind: str, shape: tuple[int, int], seed: int) -> None:
    x = make_features(kind, *shape)
    center = x[len(x) // 2] / np.float32(3)
    expected = OPS.measure_rows(*tensors(x, center)).numpy()
    assert_same_bits(shuffled(seed).measure_rows(x, center), expected)


@in_every_order
@every_kind
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-10, 1.0, 2.0**12, 2.0**100])
def test_halves(kind: str, scale: float, seed: int) -> None:
    for shape in SHAPES:
        x = make_features(kind, *shape)
        center, factor = x[len(x) // 2] / np.float32(3), np.array(scale, np.float32)
        halves, lost = OPS.halve_rows(*map(torch.from_numpy, (x, center, factor)))
        found, found_lost = shuffled(seed).halve_rows(x, center, scale)
        assert_same_bits(found, halves.numpy().view(np.uint16))
        np.testing.assert_array_equal(found_lost, lost.numpy())  # some are NaN


@in_every_order
@every_kind
@pytest.mark.parametrize("padding", [0, 1, 200])
def test_integers(kind: str, padding: int, seed: int) -> None:
    for shape in SHAPES:
        x = make_features(kind, *shape)
        if len(x) > 8:
            x[3, 0], x[8, -1] = np.inf, np.nan
        (rows,) = tensors(x)
        for center in (None, x[len(x) // 2] / np.float32(3)):
            integers = torch.empty(len(x), x.shape[1] + padding, dtype=torch.int8)
            put = None if center is None else torch.from_numpy(center)
            measures = OPS.round_rows_(rows, put, integers)
            found, found_measures = shuffled(seed).round_rows(x, center, integers.shape[1])
            assert_same_bits(found, integers.numpy())
            assert_same_bits(found_measures, measures.numpy())
