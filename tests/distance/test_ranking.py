"""Ranking: exact whatever the matrix product rounds, ties by lower index, any tiling."""

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import KINDS, Case, cases, make_features
from devices import Device, switched
from hypothesis import given

import mabm
from mabm import reference
from mabm.distance import candidates, ranking
from mabm.distance.products import FloatProduct, HalfProduct


@pytest.fixture(params=["of the device", "tiles"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How candidates are proposed: as usual, or by tiles, the route of a GPU, on any device."""
    if request.param == "tiles":
        monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)
    return str(request.param)


@pytest.fixture
def by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are proposed by tiles, on any device."""
    monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)


def expected_lists(case: Case) -> list[np.ndarray]:
    """The reference's lists as padded arrays, list by list."""
    lists = reference.rank(case.features, case.modality, case.preset, case.k1)
    padded = []
    for column in zip(*lists, strict=True):
        width = max(len(row) for row in column)
        padded.append(
            np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in column])
        )
    return padded


@given(cases())
def test_lists_are_the_reference_lists(device: Device, case: Case) -> None:
    ranking = mabm.rank_neighbors(*device.inputs(case), k1=case.k1, preset=case.preset)
    expected = expected_lists(case)
    assert len(ranking.lists()) == len(expected)
    for found, wanted in zip(ranking.lists(), expected, strict=True):
        np.testing.assert_array_equal(device.get(found), wanted)


@given(cases())
def test_merged_list_is_the_reference_merge(device: Device, case: Case) -> None:
    ranking = mabm.rank_neighbors(*device.inputs(case), k1=case.k1, preset=case.preset)
    lists = reference.rank(case.features, case.modality, case.preset, case.k1)
    merged = reference.merge(case.features, lists, case.preset.metric)
    for found, wanted in zip(device.get(ranking.merged()), merged, strict=True):
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert (found[len(wanted) :] == -1).all()


@pytest.mark.parametrize("metric_preset", ["bmil", "spcl"])
def test_scores_are_exactly_rounded_to_within_float64(device: Device, metric_preset: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 300)).astype(np.float32)
    modality = np.zeros(40, dtype=np.int64)
    ranking = mabm.rank_neighbors(
        device.put(features), device.put(modality), k1=5, preset=metric_preset
    )
    ranks, scores = device.get(ranking.ranks), device.get(ranking.scores)
    x = features.astype(float)
    for i in range(40):
        for j, score in zip(ranks[i], scores[i], strict=True):
            terms = x[i] * x[j] if metric_preset == "bmil" else -((x[i] - x[j]) ** 2)
            assert math.isclose(score, math.fsum(terms), rel_tol=1e-13, abs_tol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["bmil", "spcl", "ca_jaccard"])
@pytest.mark.usefixtures("by_tiles")
def test_tiles_change_nothing(
    device: Device, kind: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modality = np.random.default_rng(1).integers(0, 3, size=500)
    modality[150:350] = 1  # a long run of one group, and the rest mixed
    inputs = device.put(make_features(kind, modality, seed=2)), device.put(modality)
    k1 = 30 if preset == "ca_jaccard" else 6
    whole = mabm.rank_neighbors(*inputs, k1=k1, preset=preset)
    for constant, value in {"_TILE": 64, "_GPU_TILE": 64, "_GPU_STEP": 64}.items():
        monkeypatch.setattr(candidates, constant, value)
    tiled = mabm.rank_neighbors(*inputs, k1=k1, preset=preset)
    np.testing.assert_array_equal(device.get(tiled.ranks), device.get(whole.ranks))
    np.testing.assert_array_equal(device.get(tiled.scores), device.get(whole.scores))


def redone_rows(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.args[0] for record in caplog.records if isinstance(record.args, tuple))


def check_against_reference(device: Device, ranking: mabm.Ranking, features: np.ndarray) -> None:
    case = Case(features, np.arange(len(features)) % 2, ranking.k1, 1, ranking.preset)
    for found, wanted in zip(ranking.lists(), expected_lists(case), strict=True):
        np.testing.assert_array_equal(device.get(found), wanted)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6])
def test_the_product_proves_rows_however_close_together(
    device: Device, preset: str, spread: float, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    features = (1 + spread * rng.normal(size=(400, 64))).astype(np.float32)
    modality = np.arange(400) % 2
    with caplog.at_level(logging.INFO, logger="mabm"):
        ranking = mabm.rank_neighbors(
            device.put(features), device.put(modality), k1=6, preset=preset
        )
    assert redone_rows(caplog) == 0
    check_against_reference(device, ranking, features)


UNPROVABLE = {
    "duplicates": np.ones((300, 16)),
}
UNPROVABLE_BY_TILES = UNPROVABLE | {
    "sums that overflow": 3e37,
    "products that overflow": 1e30,
    "products that overflow in part": 3e18,
    "products that underflow": 1e-30,
    "denormals": 1e-42,
    "one giant row": np.r_[np.full((1, 16), 1e6), np.ones((299, 16))],
}


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize("name", UNPROVABLE_BY_TILES)
def test_what_the_product_cannot_prove_is_ranked_exactly(
    device: Device, preset: str, name: str, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    scale = UNPROVABLE_BY_TILES[name]
    rng = np.random.default_rng(4)
    noise = 0.0 if isinstance(scale, np.ndarray) and (scale == 1).all() else 1.0
    features = ((1 + noise * rng.normal(size=(300, 16))) * scale).astype(np.float32)
    modality = np.arange(300) % 2
    with caplog.at_level(logging.INFO, logger="mabm"):
        ranking = mabm.rank_neighbors(
            device.put(features), device.put(modality), k1=6, preset=preset
        )
    is_screened = device.torch.type == "cpu" and route != "tiles"
    redone = redone_rows(caplog)
    assert redone == 0 if is_screened and name not in UNPROVABLE else redone > 100
    check_against_reference(device, ranking, features)


@pytest.mark.usefixtures("by_tiles")
def test_a_product_of_reduced_precision_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a machine with bfloat16 units makes of the product when PyTorch is told that it may.
    modality = np.arange(400) % 2
    features = make_features("gaussian", modality, seed=5)
    expected = mabm.rank_neighbors(features, modality, k1=6)

    def in_bfloat16(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(a.bfloat16().float() @ b.bfloat16().float())

    monkeypatch.setattr(torch, "mm", in_bfloat16)
    with switched(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"):
        found = mabm.rank_neighbors(features, modality, k1=6)
    np.testing.assert_array_equal(found.ranks, expected.ranks)


@pytest.mark.parametrize("name", ["DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"])
@pytest.mark.parametrize(("mode", "redone"), [("STRICT", False), ("F16", True)])
@pytest.mark.usefixtures("by_tiles")
def test_modes_of_the_environment_are_heeded(
    name: str,
    mode: str,
    redone: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(name, mode)
    with caplog.at_level(logging.INFO, logger="mabm"):
        mabm.rank_neighbors(torch.randn(50, 8), k1=3)
    assert redone_rows(caplog) == (50 if redone else 0)


def test_ties_go_to_the_lower_index_across_groups(device: Device) -> None:
    features = device.put(np.ones((6, 3), dtype=np.float32))
    ranking = mabm.rank_neighbors(features, device.put(np.array([1, 0, 1, 0, 1, 0])), k1=4)
    assert ranking.lists()[0].tolist() == [[1, 3]] * 6
    assert ranking.lists()[1].tolist() == [[0, 2]] * 6
    assert ranking.merged().tolist() == [[0, 1, 2, 3]] * 6


def test_nothing_is_normalized(device: Device) -> None:
    features = device.put(np.array([[1.0, 0.0], [0.9, 0.1], [5.0, 5.0]], dtype=np.float32))
    ranking = mabm.rank_neighbors(features, device.put(np.zeros(3, dtype=np.int64)), k1=1)
    assert ranking.ranks.tolist() == [[2], [2], [2]]  # the longest vector wins, even over itself


def table_of_scores(device: Device, case: Case) -> np.ndarray:
    """(N, N) the exact score of every pair."""
    x = device.put(torch.from_numpy(case.features))
    count = len(x)
    zeros = torch.zeros(count, dtype=torch.int32, device=x.device)
    ranks, scores = torch.ops.mabm.rank_exactly(
        x,
        torch.arange(count, device=x.device),
        zeros,
        zeros[:1, None],
        [count],
        case.preset.metric == "euclidean",
    )
    return device.get(torch.empty_like(scores).scatter_(1, ranks, scores))


@given(cases())
def test_fast_lists_are_ordered_by_exact_scores_and_as_long_as_exact_ones(
    device: Device, case: Case
) -> None:
    options = {"k1": case.k1, "preset": case.preset}
    exact = mabm.rank_neighbors(*device.inputs(case), **options)
    fast = mabm.rank_neighbors(*device.inputs(case), **options, precision="fast")
    assert fast.widths == exact.widths
    table = table_of_scores(device, case)
    row = np.arange(len(table))[:, None]
    for found, wanted in zip(fast.lists(), exact.lists(), strict=True):
        ranks, proven = device.get(found), device.get(wanted)
        np.testing.assert_array_equal(ranks < 0, proven < 0)
        groups, proven_groups = case.modality[ranks], case.modality[proven]
        if case.preset.lists == "per_group":
            np.testing.assert_array_equal(groups[ranks >= 0], proven_groups[ranks >= 0])
        elif case.preset.lists == "intra_inter":
            own, proven_own = (g == case.modality[:, None] for g in (groups, proven_groups))
            np.testing.assert_array_equal(own[ranks >= 0], proven_own[ranks >= 0])
        # Greatest score first, ties by lower index, no sample twice; -1 at the end.
        listed = np.where(ranks >= 0, table[row, ranks], -np.inf)
        before, after = listed[:, :-1], listed[:, 1:]
        in_order = (before > after) | ((before == after) & (ranks[:, :-1] < ranks[:, 1:]))
        assert (in_order | (ranks[:, 1:] < 0)).all()
    ranks, scores = device.get(fast.ranks), device.get(fast.scores)
    np.testing.assert_array_equal(scores, np.where(ranks >= 0, table[row, ranks], -np.inf))


@pytest.mark.parametrize("product", [FloatProduct, HalfProduct])
@pytest.mark.usefixtures("by_tiles")
def test_fast_lists_hold_nearly_all_of_the_nearest(
    device: Device, product: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    modality = np.arange(1500) % 2
    centers, gap = rng.normal(size=(100, 64)), rng.normal(size=(2, 64))
    features = centers[rng.integers(0, 100, size=1500)] + 0.6 * gap[modality]
    features = (features + 0.4 * rng.normal(size=(1500, 64))).astype(np.float32)
    inputs = device.put(features), device.put(modality)
    monkeypatch.setattr(candidates, "product_of", product)
    exact, fast = (
        device.get(mabm.rank_neighbors(*inputs, precision=precision).ranks)
        for precision in ("exact", "fast")
    )
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), fast.tolist(), strict=True)]
    assert sum(shared) >= 0.99 * exact.size


@pytest.mark.usefixtures("by_tiles")
def test_fast_lists_prove_nothing_and_redo_nothing(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    features = device.put(np.ones((300, 16), dtype=np.float32))
    with caplog.at_level(logging.INFO, logger="mabm"):
        ranking = mabm.rank_neighbors(features, k1=6, precision="fast")
    assert redone_rows(caplog) == 0
    assert (device.get(ranking.scores) == 0).all()


def overflowing(what: str) -> np.ndarray:
    noise = np.random.default_rng(4).normal(size=(100, 16))
    # Beyond what float16 holds at any scale; the mean is 0, and so are two rows of either group.
    signs = np.sign(noise[:48])
    opposites = np.concatenate([signs, -signs, np.zeros((4, 16))])
    scaled = {"products": noise * 1e30, "means": noise * 3e37, "rows": opposites * 2.0**120}
    return scaled[what].astype(np.float32)


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize(
    ("what", "product"),
    [
        ("products", FloatProduct),
        ("products", HalfProduct),
        ("means", FloatProduct),
        ("means", HalfProduct),
        ("rows", FloatProduct),
        ("rows", HalfProduct),
    ],
)
@pytest.mark.usefixtures("by_tiles")
def test_fast_lists_are_whole_where_something_overflows(
    device: Device, what: str, product: type, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "product_of", product)
    found = mabm.rank_neighbors(
        device.put(overflowing(what)),
        device.put(np.arange(100) % 2),
        k1=6,
        preset=preset,
        precision="fast",
    )
    assert (device.get(found.ranks) >= 0).all()


TAKE_PRECISION: dict[str, Callable[..., object]] = {
    "rank_neighbors": mabm.rank_neighbors,
    "encode_samples": mabm.encode_samples,
    "modality_jaccard": mabm.modality_jaccard,
    "jaccard_graph": mabm.jaccard_graph,
    "pseudo_labels": mabm.pseudo_labels,
    "rerank": lambda x, **options: mabm.rerank(x[:5], x[5:], **options),
    "ModalityDBSCAN": lambda x, **options: mabm.ModalityDBSCAN(**options).fit(x),
}


@pytest.mark.parametrize("name", TAKE_PRECISION)
def test_precision_reaches_the_ranking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def rank_lists(*args: object) -> object:
        asked.append(str(args[3]))
        return original(*args)

    original = ranking.rank_lists
    monkeypatch.setattr(ranking, "rank_lists", rank_lists)
    x = torch.randn(20, 4)
    TAKE_PRECISION[name](x)
    TAKE_PRECISION[name](x, precision="exact")
    TAKE_PRECISION[name](x, precision="fast")
    assert asked == ["exact", "exact", "fast"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": np.zeros((3, 2), dtype=np.int32)}, r"ranks must be \(N, K\) int64"),
        ({"ranks": np.full((3, 2), 3)}, r"ranks must be in \[-1, 3\), got 3 to 3"),
        ({"scores": np.zeros((3, 1))}, r"scores must be \(3, 2\) float64, got \(3, 1\)"),
        ({"widths": (1,)}, r"widths must be at least 0 and sum to 2, got \(1,\)"),
        ({"widths": (3, -1)}, r"widths must be at least 0 and sum to 2, got \(3, -1\)"),
        ({"scores": np.full((3, 2), np.nan)}, "scores must not be NaN"),
        ({"ranks": np.full((3, 2), -1)}, "scores must be -inf exactly where ranks are -1"),
        ({"k1": -5}, r"k1 must be in \[1, 1024\], got -5"),
        ({"preset": "spcl"}, "preset must be a Preset, got str"),
        ({"widths": (2**64, 2 - 2**64)}, "widths must be at least 0 and sum to 2, got"),
        ({"preset": mabm.PRESETS["ca_jaccard"]}, "widths must be those of two lists"),
        ({"preset": mabm.PRESETS["modal_invariant"]}, "groups must be given .*, got None"),
        ({"groups": np.zeros(2, dtype=np.int64)}, r"groups must be \(3,\)"),
    ],
)
def test_a_ranking_of_your_own_is_checked(
    device: Device, change: dict[str, object], message: str
) -> None:
    parts: dict[str, object] = {
        "ranks": np.zeros((3, 2), dtype=np.int64),
        "scores": np.zeros((3, 2)),
        "widths": (2,),
        "preset": mabm.PRESETS["spcl"],
        "k1": 2,
    }
    parts.update(change)
    put = {k: device.put(p) if isinstance(p, np.ndarray) else p for k, p in parts.items()}
    with pytest.raises((TypeError, ValueError), match=message):
        mabm.Ranking(**put)
