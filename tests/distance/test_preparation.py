"""What is measured and rounded of features before they are multiplied, against definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from devices import Device
from numpy.typing import NDArray

OPS = torch.ops.mabm


def put(device: Device, array: NDArray[Any]) -> torch.Tensor:
    tensor: torch.Tensor = device.put(torch.from_numpy(np.array(array)))
    return tensor


def put_all(device: Device, *arrays: Any) -> list[torch.Tensor]:
    return [put(device, array) for array in arrays]


def features_of(kind: str, count: int, dim: int) -> NDArray[np.float32]:
    rng = np.random.default_rng((count, dim))
    noise = rng.normal(size=(count, dim))
    scaled = {
        "gaussian": noise,
        "huge": np.clip(noise, -3, 3) * 1e38,
        "denormal": noise * 1e-41,
        "all equal": np.full((count, dim), 0.3),
        "near each other": 1e4 + 1e-2 * noise,
        "zeros of both signs": np.where(noise > 0, 0.0, -0.0),
        "every magnitude": noise * 10.0 ** rng.uniform(-44, 37, (count, 1)),
    }
    return scaled[kind].astype(np.float32)


KINDS = (
    "gaussian",
    "huge",
    "denormal",
    "all equal",
    "near each other",
    "zeros of both signs",
    "every magnitude",
)
SHAPES = [(1, 1), (3, 31), (33, 64), (130, 100), (700, 5)]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_kind
@pytest.mark.parametrize("shape", [*SHAPES, (2**18 + 300, 1)], ids=str)
def test_columns_are_measured_by_their_definition(
    device: Device, kind: str, shape: tuple[int, int]
) -> None:
    x = features_of(kind, *shape)
    rows = max(256, -(-len(x) // 1024))  # of a part
    parts = [x[first : first + rows].astype(np.float64) for first in range(0, len(x), rows)]
    sums = np.stack([np.add.accumulate(part)[-1] for part in parts])
    mean = (np.add.accumulate(sums)[-1] / len(x)).astype(np.float32)
    found = device.get(OPS.measure_columns(put(device, x)))
    np.testing.assert_array_equal(found, [mean, x.min(axis=0), x.max(axis=0)])


@every_kind
@every_shape
def test_rows_are_measured_in_float64(device: Device, kind: str, shape: tuple[int, int]) -> None:
    x = features_of(kind, *shape)
    center = x[0] / np.float32(2)
    found = device.get(OPS.measure_rows(put(device, x), put(device, center)))
    wide, origin = x.astype(np.float64), center.astype(np.float64)
    centered = wide - origin
    expected = [(wide**2).sum(1), (centered**2).sum(1), (centered * origin).sum(1)]
    largest = np.abs(centered * origin).sum(1).max()
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-13, atol=1e-13 * largest)


def test_every_float16_and_what_lies_between_rounds_as_in_numpy(device: Device) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    with np.errstate(over="ignore"):  # the largest
        following = np.nextafter(halves, np.float16(np.inf)).astype(np.float32)
    between = (halves + following) / 2
    numbers = np.concatenate([halves, between, [65519, 65520, 65536, 3e38, 1e-45, 2.0**-25]])
    numbers = numbers[np.isfinite(numbers)].astype(np.float32)
    near = [np.nextafter(numbers, np.float32(side)) for side in (-np.inf, np.inf)]
    numbers = np.concatenate([numbers, *near])
    numbers = np.pad(numbers, (0, -len(numbers) % 64)).reshape(-1, 64)
    zeros, one = np.zeros(64, np.float32), np.float32(1)
    found, lost = OPS.halve_rows(*put_all(device, numbers, zeros, one))
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    np.testing.assert_array_equal(
        device.get(found)[: len(numbers)].view(np.uint16), expected.view(np.uint16)
    )
    kept = np.isfinite(expected).all(axis=1)
    exact = np.linalg.norm(numbers[kept] - expected[kept].astype(np.float64), axis=1)
    np.testing.assert_allclose(device.get(lost)[kept], exact, rtol=1e-14, atol=0)


@every_kind
@every_shape
def test_halves_and_what_they_lost_are_the_centered_rows(
    device: Device, kind: str, shape: tuple[int, int]
) -> None:
    x = features_of(kind, *shape)
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    with np.errstate(over="ignore"):  # huge rows apart
        centered = x - center
        greatest = np.abs(centered[np.isfinite(centered)]).max()
        exponent = 14 - int(np.frexp(greatest)[1])
        scale = np.float32(2.0 ** min(max(exponent, -100), 100))
        scaled = centered * scale
    halves, lost = OPS.halve_rows(*put_all(device, x, center, scale))
    halves, lost = device.get(halves), device.get(lost)
    count, dim = shape
    assert halves.dtype == np.float16
    assert halves.shape == (-(-count // 64) * 64, -(-dim // 64) * 64)
    with np.errstate(over="ignore"):
        expected = scaled.astype(np.float16)
    np.testing.assert_array_equal(halves[:count, :dim], expected)
    assert not halves[count:].any()
    assert not halves[:, dim:].any()
    kept = np.isfinite(expected).all(axis=1)
    rest = scaled[kept] - expected[kept].astype(np.float64)
    exact = np.linalg.norm(rest, axis=1) / np.float64(scale)
    np.testing.assert_allclose(lost[kept], exact, rtol=1e-13, atol=0)
    assert not np.isfinite(lost[~kept]).any()


def check_rounded(
    device: Device, x: NDArray[np.float32], center: NDArray[np.float32] | None, depth: int
) -> None:
    """Compares integers and measures with their definitions, row by row."""
    integers = put(device, np.full((len(x), depth), 99, np.int8))
    origin = None if center is None else put(device, center)
    measures = OPS.round_rows_(put(device, x), origin, integers)
    (inverse, left, length), values = device.get(measures), device.get(integers)
    with np.errstate(over="ignore"):
        centered = x if center is None else x - center
    greatest = np.abs(centered).max(axis=1)
    finite = np.isfinite(greatest)
    with np.errstate(invalid="ignore"):
        expected = np.float32(127) / np.maximum(greatest, np.float32(2.0**-100))
    np.testing.assert_array_equal(inverse, np.where(finite, expected, 0))
    scaled = (centered[finite] * inverse[finite, None]).astype(np.float64)
    np.testing.assert_array_equal(values[finite, : x.shape[1]], np.rint(scaled))
    assert not values[:, x.shape[1] :].any()
    assert not values[~finite].any()
    assert np.isinf(left[~finite]).all()
    assert np.isinf(length[~finite]).all()
    rest = np.linalg.norm(scaled - np.rint(scaled), axis=1)
    bound = {"rtol": (x.shape[1] + 4) * 2.0**-24, "atol": 1e-18}  # squares below float32
    np.testing.assert_allclose(left[finite], rest, **bound)
    np.testing.assert_allclose(length[finite], np.linalg.norm(scaled, axis=1), **bound)


@every_kind
@every_shape
def test_integers_and_what_is_left_are_the_centered_rows(
    device: Device, kind: str, shape: tuple[int, int]
) -> None:
    x = features_of(kind, *shape)
    check_rounded(device, x, None, shape[1])
    check_rounded(device, x, x[-1], shape[1] + 13)


def test_numbers_halfway_between_two_integers_go_to_the_even_one(device: Device) -> None:
    halfway = np.arange(-253, 254, 2, dtype=np.float32) / 2
    x = np.concatenate([halfway, [127.0]], dtype=np.float32)[None]
    integers = put(device, np.empty(x.shape, np.int8))
    OPS.round_rows_(put(device, x), None, integers)
    np.testing.assert_array_equal(device.get(integers), np.rint(x))


def test_a_row_that_is_not_finite_spoils_no_other(device: Device) -> None:
    x = features_of("gaussian", 9, 130)
    x[2, 129], x[5, 0], x[7, 64] = np.inf, -np.inf, np.nan
    integers = put(device, np.empty(x.shape, np.int8))
    measures = device.get(OPS.round_rows_(put(device, x), None, integers))
    bad = np.array([2, 5, 7])
    np.testing.assert_array_equal(measures[0] == 0, np.isin(np.arange(9), bad))
    np.testing.assert_array_equal(np.isinf(measures[1:]).all(0), np.isin(np.arange(9), bad))
    assert not device.get(integers)[bad].any()


def test_no_rows_have_no_measures() -> None:
    x, center = torch.zeros(0, 5), torch.zeros(5)
    assert OPS.measure_rows(x, center).shape == (0, 3)
    assert OPS.halve_rows(x, center, torch.ones(()))[0].shape == (0, 64)
    assert OPS.round_rows_(x, None, torch.empty(0, 16, dtype=torch.int8)).shape == (3, 0)
    with pytest.raises(RuntimeError, match="features must have a row, got 0"):
        OPS.measure_columns(x)
