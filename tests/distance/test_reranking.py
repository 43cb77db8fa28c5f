"""Re-ranking against the reference, and the rows it computes."""

import numpy as np
import pytest
import torch
from cases import GENERAL_POSITION, Case, cases
from devices import Device
from hypothesis import given
from hypothesis import strategies as st

import mabm
from mabm import reference
from mabm.distance import reranking


@given(cases(GENERAL_POSITION), st.floats(0, 1), st.floats(0, 1))
def test_matches_the_reference(
    device: Device, case: Case, share: float, lambda_value: float
) -> None:
    split = round(share * len(case.features))
    arguments = (
        case.features[:split],
        case.features[split:],
        case.modality[:split],
        case.modality[split:],
    )
    put = map(device.put, arguments)
    found = device.get(mabm.rerank(*put, lambda_value=lambda_value, **case.options))
    expected = reference.rerank(*arguments, lambda_value=lambda_value, **case.options)
    assert found.shape == (split, len(case.features) - split)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_ends_of_lambda_are_the_two_distances(device: Device) -> None:
    together = torch.randn(37, 5)
    query, gallery = device.put(together[:7]), device.put(together[7:])
    jaccard = mabm.modality_jaccard(device.put(together), k1=20)
    assert torch.equal(mabm.rerank(query, gallery, lambda_value=0), jaccard[:7, 7:])
    squared = torch.cdist(together[:7], together).square()
    expected = (squared / squared.amax(dim=1, keepdim=True))[:, 7:]
    found = device.get(mabm.rerank(query, gallery, lambda_value=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_blocks_of_queries_change_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    query, gallery = device.put(query), device.put(gallery)
    whole = device.get(mabm.rerank(query, gallery))
    monkeypatch.setattr(reranking, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(device.get(mabm.rerank(query, gallery)), whole)


def test_all_duplicates_are_at_distance_zero(device: Device) -> None:
    found = mabm.rerank(device.put(torch.ones(2, 3)), device.put(torch.ones(4, 3)))
    assert device.get(found).tolist() == [[0.0] * 4] * 2


def test_a_duplicate_among_others_is_at_distance_zero(device: Device) -> None:
    gallery = torch.nn.functional.normalize(torch.randn(40, 333), dim=1)
    found = device.get(mabm.rerank(device.put(gallery[:9]), device.put(gallery), lambda_value=1))
    assert (found.diagonal() == 0).all()
    assert (found >= 0).all()
    assert (found.max(axis=1) == 1).all()


@pytest.mark.parametrize("dim", [512, 2048])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_d_is_as_good_as_float32(dim: int, power: int) -> None:
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(25, dim))[np.arange(200) % 25] + 0.7 * rng.normal(size=(200, dim))
    x = x if power == 1 else np.maximum(x, 0) ** power  # heavier tails
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    found = mabm.rerank(x[:20], x[20:], lambda_value=1)
    squared = np.square(x[:20, None].astype(np.float64) - x).sum(axis=2)
    expected = (squared / squared.max(axis=1, keepdims=True))[:, 20:]
    # Of numbers in [1/2, 1], rounding to float32 alone is wrong by up to 2^-25.
    np.testing.assert_allclose(found, expected, rtol=0, atol=3 * 2.0**-25)


def test_query_and_gallery_on_two_devices_are_refused(gpu: Device) -> None:
    query, gallery = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match="gallery must be on cpu as query is, got cuda:0"):
        mabm.rerank(query, gpu.put(gallery))
    with pytest.raises(ValueError, match="gallery must be on cuda:0 as query is, got cpu"):
        mabm.rerank(gpu.put(query), gallery)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gallery": torch.ones(4, 2)}, ValueError, "gallery must have 3 columns .* got 2"),
        ({"query": torch.ones(3)}, ValueError, r"query must be \(N, D\), got shape \(3,\)"),
        ({"gallery": torch.full((4, 3), torch.nan)}, ValueError, "gallery must be finite .*row 0"),
        (
            {"query_modality": torch.zeros(2, dtype=torch.int64)},
            ValueError,
            "must be given together, got no gallery_modality",
        ),
        (
            {"gallery_modality": torch.zeros(4, dtype=torch.int64)},
            ValueError,
            "must be given together, got no query_modality",
        ),
        ({"lambda_value": 1.5}, ValueError, r"lambda_value must be in \[0, 1\], got 1.5"),
        ({"lambda_value": None}, TypeError, "lambda_value must be a number, got NoneType"),
        ({"k1": 0}, ValueError, r"k1 must be in \[1, 1024\], got 0"),
        ({"precision": "half"}, ValueError, r"precision must be one of .* got 'half'"),
    ],
)
def test_bad_arguments(
    device: Device, change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {"query": torch.ones(2, 3), "gallery": torch.ones(4, 3), **change}
    put = {k: device.put(a) if isinstance(a, torch.Tensor) else a for k, a in arguments.items()}
    with pytest.raises(error, match=message):
        mabm.rerank(**put)
