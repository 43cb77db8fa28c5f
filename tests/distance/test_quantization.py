"""Rows as 8-bit integers: the bound on a product holds for every pair, and is not loose."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from devices import Device, switched
from numpy.typing import NDArray
from torch import Tensor

from mabm.distance.quantization import QuantizedRows, quantize_rows, rotation_helps

# Every finite float32 is an integer in units of this, and so is every float64 that occurs here.
FINE = 1 << 400
DIMS = (1, 3, 64, 100, 300, 768)


def exact(numbers: Tensor) -> NDArray[np.object_]:
    """Python integers, in units of 1 / FINE."""
    as_integer = np.frompyfunc(lambda number: int(Fraction(number) * FINE), 1, 1)
    converted: NDArray[np.object_] = as_integer(numbers.double().cpu().numpy().astype(object))
    return converted


def exact_products(rows: NDArray[np.object_]) -> NDArray[np.object_]:
    return rows @ rows.T


def errors_and_bounds(
    x: Tensor, mean: Tensor, quantized: QuantizedRows
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """(N, N) exact integers in units of FINE^-2: error of each product, and the bound on it."""
    unit = Fraction(float(quantized.unit))
    assert unit > 0
    rows = exact(x) - exact(mean)
    rows = np.frompyfunc(lambda number: int(number * unit), 1, 1)(rows)  # exact: FINE is fine
    kept = quantized.values.cpu().numpy().astype(object) * exact(quantized.scales)[:, None]
    lost, length = exact(quantized.lost), exact(quantized.lengths)
    error = abs(exact_products(rows) - exact_products(kept))
    bound = np.outer(lost, length) + np.outer(length, lost) + np.outer(lost, lost)
    return error, bound


def check_every_pair(x: Tensor, *, rotate: bool, mean: Tensor | None = None) -> QuantizedRows:
    mean = x.mean(dim=0) if mean is None else mean
    quantized = quantize_rows(x, mean, rotate=rotate)
    assert quantized.values.dtype == torch.int8
    assert int(quantized.values.abs().max()) <= 127
    assert quantized.values.shape[1] % 16 == 0
    assert len(quantized.padded) % 64 == 0
    assert torch.equal(quantized.padded[: len(x)], quantized.values)
    assert not bool(quantized.padded[len(x) :].any())
    assert quantized.scales.dtype == torch.float32
    error, bound = errors_and_bounds(x, mean, quantized)
    assert (error <= bound).all()
    return quantized


def relative_loss(quantized: QuantizedRows) -> float:
    return float((quantized.lost / quantized.lengths).nanmedian())


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("dim", DIMS)
def test_the_bound_holds_and_is_not_loose_for_gaussian_rows(
    device: Device, dim: int, rotate: bool
) -> None:
    x = device.put(torch.randn(40, dim, generator=torch.Generator().manual_seed(dim)))
    mean = x.mean(dim=0)
    quantized = check_every_pair(x, rotate=rotate)
    if not rotate and dim >= 64:
        kept = quantized.values[:, :dim].double() * quantized.scales[:, None]
        rows = (x.double() - mean.double()) * quantized.unit
        lost = torch.linalg.vector_norm(rows - kept, dim=1)
        assert bool((quantized.lost < 1.05 * lost).all())
        assert bool((quantized.lengths < 1.001 * torch.linalg.vector_norm(rows, dim=1)).all())
    if dim >= 64:
        assert 0.003 < relative_loss(quantized) < 0.012  # largest / 127 / sqrt(12) of Gaussians


@pytest.mark.parametrize("dim", DIMS)
def test_what_a_rotation_keeps_is_as_long_as_the_row(device: Device, dim: int) -> None:
    x = device.put(torch.randn(40, dim, generator=torch.Generator().manual_seed(dim)))
    mean = torch.zeros(dim, device=x.device)
    quantized = quantize_rows(x, mean, rotate=True)
    kept = quantized.values.double() * quantized.scales[:, None]
    length = torch.linalg.vector_norm(x.double() * quantized.unit, dim=1)
    gap = (torch.linalg.vector_norm(kept, dim=1) - length).abs()
    assert bool((gap <= quantized.lost).all())
    assert bool((quantized.lengths < 1.002 * length).all())


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-20, 1.0, 1e10, 1e20, 1e37])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_at_any_scale(
    device: Device, kind: str, scale: float, rotate: bool
) -> None:
    features = make_features(kind, np.arange(24) % 2, seed=2)
    features = (features / max(np.abs(features).max(), 1e-6) * scale).astype(np.float32)
    quantized = check_every_pair(device.put(torch.from_numpy(features)), rotate=rotate)
    if scale >= 1e-20 and kind == "gaussian":
        assert relative_loss(quantized) < 0.03


@pytest.mark.parametrize("rotate", [False, True])
def test_the_bound_holds_for_rows_of_all_scales_together(device: Device, rotate: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 100, generator=generator) * 10.0 ** torch.linspace(-20, 20, 40)[:, None]
    zero = torch.zeros(100)
    quantized = check_every_pair(device.put(x), rotate=rotate, mean=device.put(zero))
    usual = quantize_rows(device.put(x[20:21] / x[20].norm()), device.put(zero), rotate=rotate)
    losses = quantized.lost / quantized.lengths  # each row has its own scale
    assert float(losses[13:].max()) < 2.5 * relative_loss(usual)
    assert float(losses[:3].min()) > 0.9  # too small beside the largest row


def adversarial_rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(32, 96, generator=generator)
    spikes = torch.zeros(32, 96)
    spikes[torch.arange(32), torch.arange(32)] = 1.0
    halves = torch.full((32, 96), 0.5)  # each rounds half a step away
    halves[:, 0] = 127.0
    outlier = noise.clone()
    outlier[:, 7] *= 1000.0
    base = 1e3 * torch.randn(1, 96, generator=generator)
    return {
        "zeros": torch.zeros(32, 96),
        "some zeros": noise * (torch.arange(32) % 2)[:, None],
        "spikes": spikes,
        "spikes in noise": noise + 100 * spikes,
        "halves": halves,
        "outlier column": outlier,
        "equal rows": noise[:1].expand(32, 96).contiguous(),
        "cancellation": base + 1e-3 * noise,
        "one huge": noise * torch.where(torch.arange(32) == 3, 1e18, 1.0)[:, None],
        "one tiny": noise * torch.where(torch.arange(32) == 3, 1e-36, 1.0)[:, None],
        "denormal": noise * 1e-42,
        "dwarfed entries": noise.sign()
        * 10.0 ** (-12 * torch.rand(noise.shape, generator=generator)),
        "heavy tails": noise.relu() ** 4,
    }


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("name", adversarial_rows())
def test_the_bound_holds_for_adversarial_rows(device: Device, name: str, rotate: bool) -> None:
    x = device.put(adversarial_rows()[name])
    check_every_pair(x, rotate=rotate)
    check_every_pair(x, rotate=rotate, mean=torch.zeros(96, device=x.device))
    check_every_pair(x, rotate=rotate, mean=x[3])


@pytest.mark.parametrize("rotate", [False, True])
def test_the_bound_holds_where_denormal_numbers_are_flushed(rotate: bool) -> None:
    assert torch.set_flush_denormal(True)
    try:
        x = adversarial_rows()["denormal"]
        quantized = quantize_rows(x, x.mean(dim=0), rotate=rotate)
        mixed = torch.randn(8, 96, generator=torch.Generator().manual_seed(5)) * 1e-37
        also = quantize_rows(mixed, mixed[0] * 0, rotate=rotate)
    finally:
        torch.set_flush_denormal(False)
    error, bound = errors_and_bounds(x, x.mean(dim=0), quantized)
    assert (error <= bound).all()
    error, bound = errors_and_bounds(mixed, torch.zeros(96), also)
    assert (error <= bound).all()


@pytest.mark.parametrize("rotate", [False, True])
def test_a_row_that_overflows_has_no_bound_and_spoils_no_other(
    device: Device, rotate: bool
) -> None:
    x = torch.randn(20, 48, generator=torch.Generator().manual_seed(6))
    mean = torch.zeros(48)
    alone = quantize_rows(device.put(x), device.put(mean), rotate=rotate)
    mean[5] = -3e38
    x[:, 5] = -3e38
    x[4, 5] = 3e38
    x[9, 5] = 3.4e38
    quantized = quantize_rows(device.put(x), device.put(mean), rotate=rotate)
    huge = torch.tensor([4, 9])
    assert quantized.lost.isinf().nonzero().flatten().tolist() == huge.tolist()
    assert quantized.lengths.isinf().nonzero().flatten().tolist() == huge.tolist()
    assert int(quantized.values[huge].abs().max()) == 0
    assert float(quantized.scales[huge].max()) == 0
    assert relative_loss(quantized) < 1.5 * relative_loss(alone)


def test_a_rotation_helps_where_few_entries_are_large(device: Device) -> None:
    noise = torch.randn(300, 512, generator=torch.Generator().manual_seed(7))
    outlier = noise.clone()
    outlier[:, 17] *= 100.0
    slight = noise * 0.999 ** torch.arange(512)
    for rows, helps in ((noise, False), (slight, False), (noise.relu() ** 4, True)):
        x = device.put(rows)
        assert rotation_helps(x, x.mean(dim=0)) is helps
    x = device.put(outlier)
    assert rotation_helps(x, x.mean(dim=0))
    plain, rotated = (quantize_rows(x, x.mean(dim=0), rotate=rotate) for rotate in (False, True))
    assert relative_loss(rotated) < 0.3 * relative_loss(plain)


def test_rows_of_zeros_and_a_single_row_need_no_rotation(device: Device) -> None:
    for x in (torch.zeros(5, 8), torch.randn(1, 8), torch.full((3, 2), 3e38)):
        put = device.put(x)
        assert not rotation_helps(put, put.mean(dim=0))


def test_coarser_arithmetic_widens_the_bound_of_a_rotation() -> None:
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(8))
    mean = x.mean(dim=0)
    usual = quantize_rows(x, mean, rotate=True)
    with switched(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"):
        coarse = quantize_rows(x, mean, rotate=True)
        plain = quantize_rows(x, mean, rotate=False)
        assert not rotation_helps(x, mean)
    assert bool((coarse.lost > 2 * usual.lost).all())
    assert torch.equal(plain.lost, quantize_rows(x, mean, rotate=False).lost)
    error, bound = errors_and_bounds(x, mean, coarse)
    assert (error <= bound).all()


def test_no_random_state_is_touched() -> None:
    x = torch.randn(30, 40)
    before = torch.get_rng_state()
    first = quantize_rows(x, x.mean(dim=0), rotate=True)
    assert torch.equal(torch.get_rng_state(), before)
    again = quantize_rows(x, x.mean(dim=0), rotate=True)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_blocks_of_rows_change_nothing(device: Device) -> None:
    x = device.put(torch.randn(600, 33, generator=torch.Generator().manual_seed(9)))
    mean = torch.zeros(33, device=x.device)
    whole, part = quantize_rows(x, mean, rotate=False), quantize_rows(x[500:], mean, rotate=False)
    ratio = float(whole.unit / part.unit)
    assert math.frexp(ratio)[0] == 0.5
    assert torch.equal(whole.values[500:], part.values)
    assert torch.equal(whole.scales[500:], part.scales * ratio)
    assert torch.equal(whole.lost[500:], part.lost * ratio)


def test_rotations_are_float32_under_autocast(device: Device) -> None:
    x = device.put(torch.eye(70, 100))
    mean = x.mean(dim=0)
    expected = quantize_rows(x, mean, rotate=True)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        assert rotation_helps(x, mean)
        found = quantize_rows(x, mean, rotate=True)
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("rotate", [False, True])
def test_the_default_device_changes_nothing(device: Device, rotate: bool) -> None:
    x = device.put(torch.eye(70, 100))
    mean = x.mean(dim=0)
    expected = quantize_rows(x, mean, rotate=rotate)
    with torch.device("meta"):
        assert rotation_helps(x, mean)
        found = quantize_rows(x, mean, rotate=rotate)
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)
