"""k1, k2 and use_float16 in every drop-in distance, as the released code takes them."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import make_features

from mabm import reference
from mabm._core import device_memory
from mabm.compat import bmil, cap, clustercontrast, fastreid, modal_invariant
from mabm.compat._adapters import distances

MODALITY = np.arange(60) % 2


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = make_features("clustered", np.zeros(count, np.int64), seed)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def names_of(modality: np.ndarray) -> list[str]:
    return [f"{'ir' if group else 'rgb'}_modify/{row}.jpg" for row, group in enumerate(modality)]


def xmodal(x: Any, modality: np.ndarray, **options: Any) -> np.ndarray:
    names = names_of(modality)
    return bmil.compute_jaccard_distance_xmodal(
        x, search_option=4, all_file_name=names, rgbNum=0, **options
    )


def of_files(x: Any, modality: np.ndarray, **options: Any) -> np.ndarray:
    files = [(name, 0, 0) for name in names_of(modality)]
    return modal_invariant.compute_modal_invariant_jaccard_distance(x, files, **options)


def of_fastreid(x: Any, _: np.ndarray, *, use_float16: bool = False, **options: Any) -> np.ndarray:
    return fastreid.compute_jaccard_distance(x, fp16=use_float16, **options)


CALLS = {
    "clustercontrast": (lambda x, _, **o: clustercontrast.compute_jaccard_distance(x, **o), "spcl"),
    "cap": (lambda x, _, **o: cap.faiss_compute_jaccard_dist(x, **o), "spcl"),
    "bmil, classic": (lambda x, _, **o: bmil.compute_jaccard_distance_xmodal(x, **o), "spcl"),
    "bmil": (xmodal, "bmil"),
    "modal_invariant": (of_files, "modal_invariant"),
    "fastreid": (of_fastreid, "spcl"),
}

every_distance = pytest.mark.parametrize(("call", "preset"), CALLS.values(), ids=CALLS)


def expected_of(x: np.ndarray, modality: np.ndarray, preset: str, **lengths: int) -> np.ndarray:
    groups = None if preset == "spcl" else modality
    return reference.modality_jaccard(x, groups, preset=preset, **lengths)


@every_distance
@pytest.mark.parametrize(("k1", "k2"), [(8, 9), (8, 12), (3, 40), (6, 6)])
def test_k2_beyond_k1_averages_the_whole_list(call: Any, preset: str, k1: int, k2: int) -> None:
    x = unit_rows(60, seed=k2)
    found = call(torch.from_numpy(x), MODALITY, k1=k1, k2=k2)
    expected = expected_of(x, MODALITY, preset, k1=k1, k2=k2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found, call(x, MODALITY, k1=k1, k2=k1 if k2 > k1 else k2))


@every_distance
@pytest.mark.parametrize("count", [2, 7, 19])
def test_a_list_longer_than_the_samples_holds_them_all(call: Any, preset: str, count: int) -> None:
    x, modality = unit_rows(count, seed=count), MODALITY[:count]
    found = call(torch.from_numpy(x), modality, k1=20, k2=6)
    expected = expected_of(x, modality, preset, k1=20, k2=6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@every_distance
def test_float16_is_the_float32_result_rounded(
    call: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = unit_rows(60, seed=1)
    exact = call(x, MODALITY, k1=12, k2=4)
    rounded = call(x, MODALITY, k1=12, k2=4, use_float16=True)
    assert (exact.dtype, rounded.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(rounded, exact.astype(np.float16))
    monkeypatch.setattr(distances, "_ELEMENTS_AT_ONCE", 7 * 60 + 1)
    np.testing.assert_array_equal(call(x, MODALITY, k1=12, k2=4, use_float16=True), rounded)


@every_distance
def test_float16_fits_where_float32_does_not(
    call: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = unit_rows(60)
    monkeypatch.setattr(device_memory, "available_bytes", lambda device: 3 * 60 * 60)
    assert call(x, MODALITY, k1=8, k2=3, use_float16=True).shape == (60, 60)
    with pytest.raises(MemoryError, match=r"the dense \(60, 60\) distance"):
        call(x, MODALITY, k1=8, k2=3)


@every_distance
def test_lengths_of_a_parser_or_an_array(call: Any, preset: str) -> None:
    x = unit_rows(40)
    expected = call(x, MODALITY[:40], k1=8, k2=3)
    for kind in (np.int64, np.int32, np.array, torch.tensor):
        found = call(x, MODALITY[:40], k1=kind(8), k2=kind(3))
        np.testing.assert_array_equal(found, expected)


@every_distance
@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ({"k1": 0, "k2": 1}, ValueError, "k1 must be .*got 0"),
        ({"k1": 1025, "k2": 1}, ValueError, "k1 must be .*got 1025"),
        ({"k1": "8", "k2": 1}, TypeError, "k1 must be an integer, got str: '8'"),
        ({"k1": 8, "k2": 0}, ValueError, "k2 must be at least 1, got 0"),
        ({"k1": 8, "k2": 2.5}, TypeError, "k2 must be an integer, got float: 2.5"),
    ],
)
def test_refused(
    call: Any, preset: str, lengths: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(unit_rows(30), MODALITY[:30], **lengths)
