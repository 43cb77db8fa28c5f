"""The products that propose candidates: which, in what units, and what the float16 one loses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from devices import CPU, Device, switched

from mabm.distance.integer_products import IntegerProduct
from mabm.distance.products import FloatProduct, HalfProduct, Product, product_of
from mabm.distance.rounding import float32_rounding, growth


def test_the_cpu_multiplies_float32() -> None:
    assert isinstance(product_of(torch.randn(3, 4)), FloatProduct)


def test_a_gpu_multiplies_float16_unless_it_would_add_in_float16(gpu: Device) -> None:
    x = gpu.put(torch.randn(3, 4))
    assert isinstance(product_of(x), HalfProduct)
    with switched(torch.backends.cuda.matmul, "allow_fp16_accumulation", True):
        assert isinstance(product_of(x), FloatProduct)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-5, 1.0, 70_000.0, 1e17, 1e33])
@pytest.mark.parametrize("kind", KINDS)
def test_float16_operands_and_what_they_lost_are_the_centered_rows(
    device: Device, kind: str, scale: float
) -> None:
    features = make_features(kind, np.arange(300) % 2, seed=1)
    features = (features / max(np.abs(features).max(), 1e-6) * scale).astype(np.float32)
    x = device.put(torch.from_numpy(features))
    product = HalfProduct(x)
    unit = float(product.unit)
    assert math.frexp(unit)[0] == 0.5  # a power of two: scaling rounds nothing
    operand = device.get(product.operand(slice(None))).astype(np.float64)
    assert operand.shape[0] % 64 == operand.shape[1] % 64 == 0
    assert not operand[300:].any()
    assert not operand[:, features.shape[1] :].any()
    halves = operand[:300, : features.shape[1]]
    assert np.isfinite(halves).all()
    assert np.abs(halves).max() <= 2**14
    centered = device.get(x - product.mean).astype(np.float64)
    if np.abs(centered).max() > 1e-25:  # below there is no scale great enough
        assert np.abs(halves).max() >= 2**13
    lost = np.linalg.norm(centered - halves / math.sqrt(unit), axis=1)
    np.testing.assert_allclose(device.get(product._lost), lost, rtol=1e-9, atol=0)


def test_what_the_scale_makes_too_small_for_float32_is_part_of_the_bound(device: Device) -> None:
    x = torch.zeros(4, 8)
    x[:2, 0] = torch.tensor([2.0**114, -(2.0**114)])
    x[2:] = 2.0**-60 * torch.arange(16).view(2, 8)
    product = HalfProduct(device.put(x))
    centered = device.get(device.put(x).double() - product.mean)
    products = torch.empty(64, 64, device=device.put(x).device)
    product.multiply(product.operand(slice(0, 4)), product.operand(slice(0, 4)), products)
    exact = centered @ centered.T
    errors = np.abs(device.get(products.double() / product.unit)[2:4, :4] - exact[2:])
    lengths = device.put(torch.from_numpy(np.linalg.norm(centered, axis=1)))
    bounds = device.get(product.error_bounds(lengths))[2:, None]
    assert errors.max() > 2.0**50
    assert (errors <= bounds).all()


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (63, 6), (64, 64), (65, 127), (200, 33)])
@pytest.mark.parametrize("product_type", [FloatProduct, HalfProduct, IntegerProduct])
def test_operands_are_blocks_of_rows_and_others_up_to_a_step(
    device: Device, product_type: Callable[[torch.Tensor], Product], count: int, dim: int
) -> None:
    product = product_type(device.put(torch.randn(count, dim)))
    step, last = product.step, (count - 1) // 64 * 64
    whole = product.operand(slice(0, count))
    assert len(whole) == len(product.operand(slice(None))) == -(-count // step) * step
    end = product.operand(slice(last, last + 99))  # the last block may be asked for too much
    assert torch.equal(end, whole[last:])
    chosen = torch.tensor([count - 1, 0, count // 2] * 22, device=whole.device)
    gathered = product.operand(chosen)
    assert len(gathered) == -(-len(chosen) // step) * step
    assert torch.equal(gathered[: len(chosen)], whole[chosen])
    out = torch.full((len(gathered), len(whole)), 9, dtype=product.dtype, device=whole.device)
    product.multiply(gathered, whole, out)
    left, right = (device.get(part).astype(np.float64) for part in (gathered, whole))
    np.testing.assert_allclose(device.get(out), left @ right.T, rtol=1e-4, atol=1e-4)


def test_operands_of_a_gpu_start_where_its_matrix_units_load(device: Device) -> None:
    x = device.put(torch.randn(333, 77))
    for product in (HalfProduct(x), IntegerProduct(x)):
        whole = product.operand(slice(None))
        block = product.operand(slice(64, 192))
        assert block.data_ptr() == whole[64:].data_ptr()  # a view, not a copy
        for part in (whole, block, product.operand(torch.tensor([5], device=x.device))):
            assert part.is_contiguous()
            assert len(part) % 64 == 0
            assert part.shape[1] * part.element_size() % 16 == 0


@pytest.mark.parametrize(("mode", "rounding"), [("none", 0.0), ("ieee", 0.0), ("tf32", 2.0**-6)])
def test_modes_of_a_gpu_are_heeded(mode: str, rounding: float) -> None:
    for settings in (torch.backends.cuda.matmul, torch.backends):
        with switched(settings, "fp32_precision", mode):
            assert float32_rounding(torch.device("cuda")) == rounding
    assert float32_rounding(torch.device("cuda")) == 0.0


def test_the_switch_of_the_driver_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, rounding in (("0", 0.0), ("1", 2.0**-6)):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
        assert float32_rounding(torch.device("cuda")) == rounding
        assert float32_rounding(CPU.torch) == 0.0


def test_an_emulated_product_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_EMULATE_SINGLE_PRECISION", "1")
    assert float32_rounding(torch.device("cuda")) == math.inf
    assert float32_rounding(CPU.torch) == 0.0


def test_errors_grow_with_the_terms_until_there_is_no_bound() -> None:
    assert growth(10, 2.0**-24) == 10 * 2.0**-24 / (1 - 10 * 2.0**-24)
    assert growth(2**24, 2.0**-24) == math.inf
