"""The products that propose candidates: which, in what units, and what the float16 one loses."""

import math

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from devices import CPU, Device, switched

from mabm.distance.products import FloatProduct, HalfProduct, product_of
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
    halves, padding = np.split(operand, features.shape[1:], axis=1)
    assert operand.shape[1] % 64 == 0
    assert not padding.any()
    assert np.isfinite(halves).all()
    assert np.abs(halves).max() <= 2**14
    centered = device.get(x - product.mean).astype(np.float64)
    if np.abs(centered).max() > 1e-25:  # below there is no scale great enough
        assert np.abs(halves).max() >= 2**13
    lost = np.linalg.norm(centered - halves / math.sqrt(unit), axis=1)
    np.testing.assert_allclose(device.get(product._lost), lost, rtol=1e-9, atol=0)


def test_operands_are_blocks_of_rows(device: Device) -> None:
    x = device.put(torch.randn(20, 6))
    for product in (FloatProduct(x), HalfProduct(x)):
        whole = product.operand(slice(0, 20))
        assert torch.equal(product.operand(slice(5, 9)), whole[5:9])
        assert len(product.operand(slice(15, 30))) == 5  # the last block may be asked for too much
        out = torch.full((4, 20), torch.nan, device=x.device)
        product.multiply(product.operand(slice(5, 9)), whole, out)
        wide = device.get(whole).astype(np.float64)
        np.testing.assert_allclose(device.get(out), wide[5:9] @ wide.T, rtol=1e-4, atol=1e-4)


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
