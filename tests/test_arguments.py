"""Two tables: what every entry point refuses, naming argument, contract and value; and what it takes."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from devices import CPU, Device

import mabm

FEATURES = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
MODALITY = np.arange(12) % 2

ENTRY_POINTS = (
    mabm.modality_jaccard,
    mabm.jaccard_graph,
    mabm.pseudo_labels,
    mabm.encode_samples,
    mabm.rank_neighbors,
)
WITH_K2 = ENTRY_POINTS[:-1]


def with_row(value: float, *rows: int) -> np.ndarray:
    features = FEATURES.copy()
    features[list(rows), 1] = value
    return features


REFUSED = [
    ("a list", {"features": FEATURES.tolist()}, TypeError, "features must be a torch.Tensor or a numpy.ndarray, got list"),
    ("integers", {"features": np.ones((12, 4), int)}, TypeError, "features must be floating point, got dtype torch.int64"),
    ("complex", {"features": FEATURES.astype(complex)}, TypeError, "features must contain real numbers of at most 64 bits, got dtype complex128"),
    ("complex tensor", {"features": torch.ones(12, 4, dtype=torch.complex64)}, TypeError, "features must be floating point, got dtype torch.complex64"),
    ("strings", {"features": FEATURES.astype(str)}, TypeError, "features must contain real numbers of at most 64 bits, got dtype <U"),
    ("long doubles", {"features": FEATURES.astype(np.longdouble)}, TypeError, "features must contain real numbers of at most 64 bits, got dtype float128"),
    ("a sparse tensor", {"features": torch.eye(12).to_sparse()}, TypeError, "features must be a dense tensor, got layout torch.sparse_coo"),
    ("no axis", {"features": np.array(3.0)}, ValueError, r"features must be \(N, D\), got shape \(\)"),
    ("no axis of a tensor", {"features": torch.tensor(3.0)}, ValueError, r"features must be \(N, D\), got shape \(\)"),
    ("a scalar", {"features": np.float32(3)}, TypeError, "features must be a torch.Tensor or a numpy.ndarray, got float32"),
    ("one axis", {"features": FEATURES[0]}, ValueError, r"features must be \(N, D\), got shape \(4,\)"),
    ("three axes", {"features": FEATURES[None]}, ValueError, r"features must be \(N, D\), got shape \(1, 12, 4\)"),
    ("no columns", {"features": FEATURES[:, :0]}, ValueError, r"features must have at least one column, got \(12, 0\)"),
    ("more rows than int32 has numbers", {"features": torch.zeros(1, 1).expand(2**31, 1)}, ValueError, "features must have at most 2147483647 rows, got 2147483648"),
    ("NaN", {"features": with_row(np.nan, 3)}, ValueError, r"features must be finite in float32, got NaN or Inf in row 3$"),
    ("Inf", {"features": with_row(-np.inf, 5, 7, 9)}, ValueError, r"features must be finite .* in row 5 and 2 more$"),
    ("too large for float32", {"features": with_row(1.0, 0).astype(float) * 1e300}, ValueError, "features must be finite in float32, .* in row 0 and 11 more"),
    ("a device without values", {"features": torch.ones(12, 4, device="meta")}, ValueError, "features must contain values that can be read, got a tensor on meta"),
    ("modality too short", {"modality": MODALITY[:5]}, ValueError, r"modality must be \(12,\), one group per row, got shape \(5,\)"),
    ("modality of two axes", {"modality": MODALITY[:, None]}, ValueError, r"modality must be \(12,\), .* got shape \(12, 1\)"),
    ("floating modality", {"modality": MODALITY.astype(float)}, TypeError, "modality must be integers, one group per row, got dtype torch.float64"),
    ("complex modality", {"modality": MODALITY.astype(complex)}, TypeError, "modality must contain real numbers of at most 64 bits, got dtype complex128"),
    ("negative modality", {"modality": MODALITY - 1}, ValueError, "modality must not be negative, got -1"),
    ("modality as one word", {"modality": "visible"}, TypeError, "modality must be a tensor, an array, a list or a Series, one group per row, got str: 'visible'"),
    ("k1 negative", {"k1": -1}, ValueError, r"k1 must be in \[2, 1024\], at least one for each of the 2 groups in modality, got -1"),
    ("k1 zero", {"k1": 0}, ValueError, r"k1 must be in \[2, 1024\], .* got 0"),
    ("k1 below the groups", {"k1": 2, "modality": MODALITY + np.arange(12) // 6 * 2}, ValueError, r"k1 must be in \[4, 1024\], at least one for each of the 4 groups in modality, got 2"),
    ("more groups than k1 can have", {"features": np.ones((1025, 2)), "modality": np.arange(1025)}, ValueError, "modality must contain at most 1024 groups, got 1025"),
    ("more groups than lists", {"features": np.ones((1025, 2)), "modality": np.arange(1025), "preset": "ca_jaccard"}, ValueError, "modality must contain at most 1024 groups, got 1025"),
    ("k1 fractional", {"k1": 7.5}, TypeError, "k1 must be an integer, got float: 7.5"),
    ("k1 a whole float", {"k1": 8.0}, TypeError, "k1 must be an integer, got float: 8.0"),
    ("k1 a fraction", {"k1": Fraction(8)}, TypeError, "k1 must be an integer, got Fraction"),
    ("k1 true", {"k1": True}, TypeError, "k1 must be an integer, got bool: True"),
    ("k1 None", {"k1": None}, TypeError, "k1 must be an integer, got NoneType"),
    ("k1 huge", {"k1": 10**12}, ValueError, r"k1 must be in \[2, 1024\], .* got 1000000000000"),
    ("unknown preset", {"preset": "best"}, ValueError, r"preset must be one of \('bmil', 'spcl', .*'ca_jaccard'.*\), got 'best'"),
    ("preset of another kind", {"preset": 3}, TypeError, "preset must be a name, a Preset or None, got int: 3"),
    ("preset without its modality", {"preset": "bmil", "modality": None}, ValueError, "preset 'bmil' needs modality"),
    ("unknown precision", {"precision": "half"}, ValueError, r"precision must be one of \('exact', 'fast'\) or a NeighborSearch, got 'half'"),
    ("precision of another kind", {"precision": 16}, ValueError, r"precision must be one of \('exact', 'fast'\) or a NeighborSearch, got 16"),
    ("precision as a class", {"precision": mabm.FaissSearch}, TypeError, r"precision must be an object, got the class FaissSearch; use FaissSearch\(...\)"),
    ("no memory", {"max_memory": 0}, ValueError, "max_memory must be at least 1, got 0"),
    ("memory in other words", {"max_memory": "4 gigabytes"}, ValueError, "max_memory must be a number of bytes, or words such as \"4GB\" .* got '4 gigabytes'"),
    ("memory fractional", {"max_memory": 1e9}, TypeError, "max_memory must be a number of bytes, .* got float: 1000000000.0"),
    ("progress in words", {"progress": "yes"}, TypeError, "progress must be True, False or a function of one argument, got str: 'yes'"),
    ("preset with lists of its own", {"preset": "ca_jaccard", "k1": 20}, ValueError, "preset 'ca_jaccard' has its own k1_intra and k1_inter .*; k1 must stay 30, got 20"),
]  # fmt: skip
REFUSED_K2 = [
    ("k2 zero", {"k2": 0}, ValueError, r"k2 must be in \[1, 30\], which ends at k1, got 0; preset 'bmil' averages k2 neighbors per modality$"),
    ("k2 negative", {"k2": -6}, ValueError, r"k2 must be in \[1, 30\], .* got -6"),
    ("k2 above k1", {"k1": 5, "k2": 6}, ValueError, r"k2 must be in \[1, 5\], which ends at k1, got 6"),
    ("k2 of one list", {"k2": 31, "preset": "spcl"}, ValueError, r"k2 must be .* got 31; preset 'spcl' averages k2 neighbors in total$"),
    ("k2 of one list shared", {"k2": 31, "preset": "modal_invariant"}, ValueError, r"k2 must be .* got 31; preset 'modal_invariant' averages k2 neighbors in total, with equal weight for each modality$"),
    ("k2 fractional", {"k2": 1.5}, TypeError, "k2 must be an integer, got float: 1.5"),
    ("k2 huge", {"k2": 2**40}, ValueError, r"k2 must be in \[1, 30\], .* got 1099511627776"),
    ("preset with rows of its own", {"preset": "ca_jaccard", "k2": 3}, ValueError, "has its own k2_intra and k2_inter .*; k2 must stay 6, got 3"),
]  # fmt: skip
REFUSED_BOUNDS = [
    (mabm.jaccard_graph, {"max_distance": 1.0}, ValueError, r"max_distance must be in \[0, 1\), got 1.0"),
    (mabm.jaccard_graph, {"max_distance": 1 - 1e-12}, ValueError, r"max_distance must be in \[0, 1\) in float32, got 0.99"),
    (mabm.jaccard_graph, {"max_distance": -0.1}, ValueError, r"max_distance must be in \[0, 1\), got -0.1"),
    (mabm.jaccard_graph, {"max_distance": float("nan")}, ValueError, "max_distance must be in .* got nan"),
    (mabm.jaccard_graph, {"max_distance": "0.6"}, TypeError, "max_distance must be a number, got str"),
    (mabm.pseudo_labels, {"eps": 1.2}, ValueError, r"eps must be in \[0, 1\), got 1.2"),
    (mabm.pseudo_labels, {"min_samples": 0}, ValueError, "min_samples must be at least 1, got 0"),
    (mabm.pseudo_labels, {"min_samples": 4.0}, TypeError, "min_samples must be an integer, got float"),
    (mabm.pseudo_labels, {"min_samples": True}, TypeError, "min_samples must be an integer, got bool"),
]  # fmt: skip


REFUSED_SAMPLES = [
    row for row in REFUSED if row[1].keys() <= {"features", "modality"} and len(row[1]) == 1
]  # fmt: skip


def can_move(value: object) -> bool:
    """Whether this is an array of numbers that PyTorch has."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.itemsize <= 8


def refuse(
    device: Device,
    function: Callable[..., Any],
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    given = {"features": FEATURES, "modality": MODALITY, **change}
    passed = {name: device.put(a) if can_move(a) else a for name, a in given.items()}

    def contents() -> dict[str, np.ndarray]:
        return {
            name: np.array(a.cpu().numpy() if isinstance(a, torch.Tensor) else a)
            for name, a in passed.items()
            if isinstance(given[name], np.ndarray)
        }

    before = contents()
    random_state = torch.random.get_rng_state()
    options = {name: passed[name] for name in passed.keys() - {"features", "modality"}}
    with pytest.raises(error, match=message):
        function(passed["features"], passed["modality"], **options)
    for name, after in contents().items():  # and nothing else has happened
        np.testing.assert_array_equal(after, before[name])
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize("function", ENTRY_POINTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("change", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(
    device: Device,
    function: Callable[..., Any],
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    refuse(device, function, change, error, message)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [row[1:] for row in REFUSED_SAMPLES],
    ids=[row[0] for row in REFUSED_SAMPLES],
)
def test_refused_by_centering(
    device: Device, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    refuse(device, mabm.center_modalities, change, error, message)


@pytest.mark.parametrize("function", WITH_K2, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [row[1:] for row in REFUSED_K2],
    ids=[row[0] for row in REFUSED_K2],
)
def test_refused_k2(
    function: Callable[..., Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    refuse(CPU, function, change, error, message)


@pytest.mark.parametrize(("function", "change", "error", "message"), REFUSED_BOUNDS)
def test_refused_bounds(
    function: Callable[..., Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    refuse(CPU, function, change, error, message)


def ones(count: int) -> np.ndarray:
    return np.ones((count, 3), dtype=np.float32)


ALL_PRESETS = (None, *mabm.PRESETS)
TAKEN = [
    ("no rows", ones(0), np.zeros(0, int), {}, []),
    ("one row", ones(1), np.zeros(1, int), {}, [-1]),
    ("one row, min_samples 1", ones(1), np.zeros(1, int), {"min_samples": 1}, [0]),
    ("two rows of two groups", ones(2), np.array([3, 1]), {"min_samples": 2}, [0, 0]),
    ("one group only", ones(5), np.full(5, 9), {}, [0] * 5),
    ("every row a duplicate", ones(30), np.arange(30) % 3, {"min_samples": 1}, None),
    ("a group of one", np.repeat(np.eye(3), 6, axis=0)[:13], np.array([0] * 12 + [1]), {}, None),
    ("rows of zeros", np.zeros((8, 2)), np.arange(8) % 2, {}, [0] * 8),
]  # fmt: skip


@pytest.mark.parametrize("preset", ALL_PRESETS)
@pytest.mark.parametrize(
    ("features", "modality", "options", "labels"),
    [row[1:] for row in TAKEN],
    ids=[row[0] for row in TAKEN],
)
def test_taken(
    device: Device,
    features: np.ndarray,
    modality: np.ndarray,
    options: dict[str, Any],
    labels: list[int] | None,
    preset: str | None,
) -> None:
    features, modality = device.put(features), device.put(modality)
    found = device.get(mabm.pseudo_labels(features, modality, preset=preset, **options).labels)
    assert found.shape == (len(features),)
    assert found.dtype == np.int64
    if labels is not None:
        assert found.tolist() == labels
    distance = mabm.modality_jaccard(features, modality, preset=preset)
    assert distance.shape == (len(features), len(features))
    assert len(mabm.jaccard_graph(features, modality, preset=preset)) == len(features)


LARGE = np.random.default_rng(1).normal(size=(60, 8))


def same(features: Any, reference_features: np.ndarray = LARGE, device: Device = CPU) -> bool:
    expected = mabm.modality_jaccard(reference_features, k1=8, k2=3)
    found = mabm.modality_jaccard(features, k1=8, k2=3)
    assert isinstance(found, np.ndarray) == isinstance(features, np.ndarray)
    return bool((device.get(found) == expected).all())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_floating_dtype_of_numpy(dtype: type) -> None:
    rounded = LARGE.astype(dtype)
    assert same(rounded, rounded.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_every_floating_dtype_of_torch(device: Device, dtype: torch.dtype) -> None:
    rounded = torch.from_numpy(LARGE).to(dtype)
    assert same(device.put(rounded), rounded.float().numpy(), device)


def test_any_memory_layout_of_numpy() -> None:
    read_only = LARGE.copy()
    read_only.flags.writeable = False
    assert same(np.asfortranarray(LARGE))
    assert same(LARGE.repeat(2, axis=0)[::2])
    assert same(LARGE[::-1, ::-1].copy()[::-1, ::-1])
    assert same(LARGE.astype(">f8"))
    assert same(read_only)
    assert not read_only.flags.writeable


def test_any_memory_layout_of_torch(device: Device) -> None:
    features = device.put(torch.from_numpy(LARGE))
    assert same(features.T.contiguous().T, device=device)
    assert same(features.repeat_interleave(2, dim=0)[::2], device=device)
    assert same(features.detach().requires_grad_(), device=device)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint16])
def test_any_integer_modality_of_either_kind(dtype: type) -> None:
    modality = (np.arange(60) % 3).astype(dtype)
    expected = mabm.modality_jaccard(LARGE, np.arange(60) % 3, k1=9, k2=3)
    np.testing.assert_array_equal(mabm.modality_jaccard(LARGE, modality, k1=9, k2=3), expected)
    tensor = torch.from_numpy(modality)
    np.testing.assert_array_equal(mabm.modality_jaccard(LARGE, tensor, k1=9, k2=3), expected)


def test_a_modality_may_lie_elsewhere(device: Device) -> None:
    modality = np.arange(60) % 3
    features = device.put(torch.from_numpy(LARGE))
    expected = mabm.pseudo_labels(features, device.put(modality), k1=9, k2=3)
    for elsewhere in (modality, torch.from_numpy(modality)):
        found = mabm.pseudo_labels(features, elsewhere, k1=9, k2=3)
        assert torch.equal(found.labels, expected.labels)
        assert found.modality.device == features.device
        assert found.num_spanning == expected.num_spanning


def test_features_on_the_cpu_take_a_modality_on_a_gpu(gpu: Device) -> None:
    modality = np.arange(60) % 3
    expected = mabm.pseudo_labels(LARGE, modality, k1=9, k2=3)
    found = mabm.pseudo_labels(LARGE, gpu.put(modality), k1=9, k2=3)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.modality, modality)


def test_numpy_integers_are_integers() -> None:
    expected = mabm.modality_jaccard(LARGE, k1=8, k2=3)
    found = mabm.modality_jaccard(LARGE, k1=np.int32(8), k2=np.uint8(3))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lists": "all"}, "lists must be one of .* got 'all'"),
        ({"metric": "cosine"}, "metric must be one of .* got 'cosine'"),
        ({"half_list": "third"}, "half_list must be one of .* got 'third'"),
        ({"query_expansion": "none"}, "query_expansion must be one of .* got 'none'"),
        ({"query_expansion": "pooled"}, "must be used together, got query_expansion='pooled'"),
        ({"lists": "intra_inter"}, "must be used together, .* with lists='intra_inter'"),
        ({"k1_intra": 0}, r"k1_intra must be in \[1, 1024\], got 0"),
    ],
)
def test_presets_of_your_own_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(mabm.PRESETS["bmil"], **change)


def test_published_presets_are_read_only() -> None:
    with pytest.raises(TypeError):
        mabm.PRESETS["bmil"] = mabm.PRESETS["spcl"]  # type: ignore[index]
