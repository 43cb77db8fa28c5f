"""Products of 8-bit integers: what they multiply, and that slower ones follow where they fail."""

import logging
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from devices import Device

import mabm
from mabm._core.work import Work
from mabm.distance import candidates, integer_products, ranking
from mabm.distance.candidates import Proposals
from mabm.distance.integer_products import IntegerProduct, has_fast_integers
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import FloatProduct, HalfProduct, Product


@pytest.mark.parametrize(
    ("capability", "fast"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 0), True),
        ((10, 3), False),
        ((12, 0), True),
    ],
)
def test_cards_that_multiply_integers_faster(capability: tuple[int, int], fast: bool) -> None:
    assert has_fast_integers(capability) is fast


def test_a_cpu_takes_no_integers() -> None:
    assert not integer_products.wants_integers(torch.randn(3, 4))


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (16, 16), (17, 5), (40, 48), (257, 33)])
def test_products_are_those_of_the_centered_rows(device: Device, count: int, dim: int) -> None:
    x = device.put(torch.from_numpy(np.random.default_rng(count).normal(size=(count, dim))).float())
    product = IntegerProduct(x)
    chosen = torch.arange(count // 2, count, device=x.device)
    left, right = product.operand(chosen), product.operand(slice(None))
    out = device.put(torch.empty(len(left), len(right), dtype=torch.int32))
    product.multiply(left, right, out)
    assert torch.equal(out.cpu(), left.cpu().int() @ right.cpu().int().T)
    scales = product.scales.double()
    found = out[: len(chosen), :count] * scales[chosen, None] * scales / product.unit
    centered = (x - product.mean).double()
    bounds = product.error_bounds(torch.linalg.vector_norm(centered, dim=1))[chosen]
    errors = (found - centered[chosen] @ centered.T).abs()
    assert (errors <= bounds[:, None]).all()
    assert (bounds <= 0.05 * centered.norm(dim=1).max() ** 2).all()  # and they say something


def layout_of(groups: np.ndarray, width: int) -> ListLayout:
    table = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    return ListLayout(torch.from_numpy(groups.astype(np.int32)), table, [width, width])


def features_of(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    noise = rng.normal(size=(count, 64))
    centers = rng.normal(size=(count // 20 + 1, 64))
    clustered = centers[rng.integers(0, len(centers), count)] + 0.3 * noise
    first = np.arange(64) == 0
    return {
        "clustered": clustered,
        "noise": noise,
        "duplicates": clustered[np.arange(count) % min(8, count)],
        "nearly equal": 1 + 2.0**-20 * np.sign(noise),
        "cancellation": 1e4 + 1e-2 * noise,
        "hubs": clustered * np.where(np.arange(count) % 50 == 0, 30, 1)[:, None],
        "an outlier column": np.where(first, 1e4 * np.abs(noise), noise),
        "heavy tails": np.maximum(noise, 0) ** 4,
        "scales apart": noise * 10.0 ** np.linspace(-20, 15, count)[:, None],
        "tiny": clustered * 1e-20,
        "huge": clustered * 1e15,
    }[kind].astype(np.float32)


KINDS = (
    "clustered",
    "noise",
    "duplicates",
    "nearly equal",
    "cancellation",
    "hubs",
    "an outlier column",
    "heavy tails",
    "scales apart",
    "tiny",
    "huge",
)


@pytest.fixture
def route(monkeypatch: pytest.MonkeyPatch) -> None:
    """The route of a GPU with fast integers, on any device, in small tiles."""
    for name in ("_TILE", "_GPU_TILE"):
        monkeypatch.setattr(candidates, name, 64)
    monkeypatch.setattr(candidates, "_GPU_STEP", 64)
    monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)
    monkeypatch.setattr(candidates, "wants_integers", lambda x: True)
    monkeypatch.setattr(candidates, "product_of", HalfProduct)


def exact_ranks(x: torch.Tensor, layout: ListLayout, euclidean: bool) -> torch.Tensor:
    rows = torch.arange(len(x))
    lists = (layout.groups, layout.list_of_group, layout.widths)
    return torch.ops.mabm.rank_exactly(x, rows, *lists, euclidean)[0]


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize("most_unproven", [0.0, 0.125, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("route")
def test_ranks_are_exact_by_whatever_products(
    device: Device, kind: str, preset: str, most_unproven: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_MOST_UNPROVEN", most_unproven)
    features, groups = features_of(kind, 300), np.arange(300) % 2
    found = mabm.rank_neighbors(device.put(features), device.put(groups), k1=10, preset=preset)
    euclidean = preset == "spcl"
    table = torch.zeros(2, 2, dtype=torch.int32) if euclidean else torch.tensor([[0, 1]] * 2)
    widths = [10] if euclidean else [5, 5]
    layout = ListLayout(torch.from_numpy(groups).int(), table.int(), widths)
    expected = exact_ranks(torch.from_numpy(features), layout, euclidean)
    np.testing.assert_array_equal(device.get(found.ranks), expected.numpy())


def rows_by_rung(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """How many rows each product has proven, as the log says."""
    (message,) = (one.getMessage() for one in caplog.records if " samples: " in one.getMessage())
    parts = re.findall(r"(\d+) by ([^,]+)", message)
    return {name: int(number) for number, name in parts}


@pytest.mark.usefixtures("route")
def test_float16_follows_for_the_rows_that_integers_leave(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_MOST_UNPROVEN", 1.0)
    with caplog.at_level(logging.DEBUG, logger="mabm"):
        mabm.rank_neighbors(torch.from_numpy(features_of("heavy tails", 700)), k1=5)
    proven = rows_by_rung(caplog)
    assert set(proven) == {"8-bit integers", "float16", "exact scores"}
    assert proven["8-bit integers"] > 0
    assert proven["float16"] > 0
    assert proven["exact scores"] == 0


@pytest.mark.usefixtures("route")
def test_integers_are_left_out_where_a_sample_proves_little(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="mabm"):
        mabm.rank_neighbors(torch.from_numpy(features_of("hubs", 700)), k1=5)
    assert rows_by_rung(caplog) == {"float16": 700, "exact scores": 0}


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("product", [FloatProduct, HalfProduct, IntegerProduct])
@pytest.mark.usefixtures("route")
def test_half_of_the_tiles_propose_what_all_do(
    product: Callable[[torch.Tensor], Product], count: int
) -> None:
    x = torch.from_numpy(features_of("clustered", count))
    layout = layout_of(np.arange(count) % 2, 4)
    proposals = Proposals(x, layout, product(x), euclidean=False)
    half, whole = (
        [torch.cat(part) for part in zip(*(found[:4] for _, found in blocks), strict=True)]
        for blocks in (proposals.of_all_rows(), proposals.of_rows(torch.arange(count)))
    )
    assert torch.equal(half[2], whole[2])
    taken = torch.arange(half[0].shape[2]) < half[2][..., None]
    assert torch.equal(half[1][taken], whole[1][taken])


def test_lists_of_all_rows_that_do_not_fit_are_made_block_by_block() -> None:
    x = torch.from_numpy(features_of("clustered", 300))
    layout = layout_of(np.arange(300) % 2, 4)
    expected = exact_ranks(x, layout, False)
    num_blocks = []
    least = candidates.tile_bytes(
        x, layout.widths, 2, candidates._LEAST_TILE, candidates._LEAST_TILE
    )
    for limit in (None, least + 10**7, least + 10**5, least):
        found = list(candidates.propose_candidates(x, layout, False, work=Work(limit)))
        ranks = [
            torch.ops.mabm.rank_candidates(x, rows, one.indices, one.counts, [4, 4], False)[0]
            for rows, one in found
        ]
        assert torch.equal(torch.cat(ranks), expected)
        num_blocks.append(len(found))
    assert num_blocks[0] == 1
    assert num_blocks == sorted(num_blocks)
    assert num_blocks[-1] > 1
