"""The proof behind exact ranking: the error bounds hold, and only what they allow is dropped."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import KINDS, make_features
from devices import CPU, Device

import mabm
from mabm.distance import candidates, ranking
from mabm.distance.candidates import propose_candidates
from mabm.distance.integer_products import IntegerProduct
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import FloatProduct, HalfProduct, Product
from mabm.distance.score_terms import score_terms


@pytest.fixture(params=[FloatProduct, HalfProduct, IntegerProduct])
def product(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[torch.Tensor], Product]:
    """What multiplies, on whatever device; on the CPU float16 is multiplied in float32."""
    monkeypatch.setattr(candidates, "wants_integers", lambda x: False)
    monkeypatch.setattr(candidates, "product_of", request.param)
    monkeypatch.setattr(ranking, "propose", ranking.propose_by_tiles)
    return request.param


def one_list(count: int, width: int, device: Device = CPU) -> ListLayout:
    groups = device.put(torch.zeros(count, dtype=torch.int32))
    return ListLayout(groups, device.put(torch.zeros(1, 1, dtype=torch.int32)), [width])


def close_rows(dim: int, spread: float) -> np.ndarray:
    """Thirty rows about a long common vector: what centering is for, and what tempts it most."""
    rng = np.random.default_rng(dim)
    return (1 + spread * rng.normal(size=(30, dim))).astype(np.float32)


def signs(dim: int) -> np.ndarray:
    return np.sign(close_rows(dim, 1.0) - 1)


def rounded_alike(dim: int) -> np.ndarray:
    """Rows and their negatives, of which float16 loses the same part with the same sign."""
    rows = signs(dim)[:15] * (1 + 2.0**-11 - 2.0**-20)
    return np.concatenate([rows, -rows]).astype(np.float32)


def noise(scale: float | np.ndarray) -> np.ndarray:
    return (np.random.default_rng(7).normal(size=(30, 48)) * scale).astype(np.float32)


INPUTS = {
    **{
        f"D={d} spread={s:g}": close_rows(d, s)
        for d in (1, 300, 2048, 20_000)
        for s in (1e-4, 1e-6)
    },
    **{kind: make_features(kind, np.arange(30) % 2, seed=8) for kind in KINDS},
    **{f"one step of float32, D={d}": 1 + 2.0**-22 * signs(d) for d in (2048, 20_000)},
    **{f"rounded alike, D={d}": rounded_alike(d) for d in (7, 2048, 20_000)},
    "huge": noise(1e17),
    "tiny": noise(1e-30),
    "denormal": noise(1e-42),
    "all equal": np.full((30, 7), 0.3),
    "zeros": np.zeros((30, 7)),
    "a giant row": noise(np.r_[1e6, np.ones(29)][:, None]),
    "a giant column": noise(np.r_[1e5, np.full(47, 1e-4)]),
    "every magnitude": noise(10.0 ** np.linspace(-12, 4, 48)),
}

UNBOUNDED = {
    "products that overflow": noise(1e30),
    "means that overflow": noise(3e37),
    "a row beyond float16 at any scale": noise(np.r_[1e36, np.ones(29)][:, None]),
    "rows on either side of overflow": noise(10.0 ** np.linspace(-30, 36, 30)[:, None]),
}


@functools.cache
def exact_scores(name: str, euclidean: bool) -> np.ndarray:
    wide = INPUTS[name].astype(np.float32).astype(np.float64)
    scores = np.empty((len(wide), len(wide)))
    for i, row in enumerate(wide):
        for j, other in enumerate(wide[: i + 1]):
            terms = -((row - other) ** 2) / 2 if euclidean else row * other
            scores[i, j] = scores[j, i] = math.fsum(terms.tolist())
    return scores


def scores_and_errors(
    device: Device, name: str, euclidean: bool, product: Callable[[torch.Tensor], Product]
) -> tuple[np.ndarray, np.ndarray]:
    """All scores, and how far off each is but for a constant of its row."""
    x = device.put(torch.from_numpy(INPUTS[name].astype(np.float32)))
    count = len(x)
    (rows, found), *more = propose_candidates(x, one_list(count, count, device), euclidean)
    assert not more
    assert rows.tolist() == list(range(count))
    assert found.counts.tolist() == [[count]] * count  # nothing dropped: every score is there
    scores = np.empty((count, count))
    indices = device.get(found.indices)[:, 0, :count].astype(np.int64)
    np.put_along_axis(scores, indices, device.get(found.scores)[:, 0, :count].astype(float), 1)
    # Up to a constant of the row, and in the units of the product.
    return scores, scores - exact_scores(name, euclidean) * float(product(x).unit)


def spreads_and_bounds(
    device: Device, name: str, euclidean: bool, product: Callable[[torch.Tensor], Product]
) -> tuple[np.ndarray, np.ndarray]:
    """How far apart the errors of each row's scores lie, and how far each may be off."""
    _, errors = scores_and_errors(device, name, euclidean, product)
    x = device.put(torch.from_numpy(INPUTS[name].astype(np.float32)))
    return np.ptp(errors, axis=1), device.get(score_terms(x, product(x), euclidean).bounds)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_no_score_is_further_off_than_its_bound(
    device: Device, name: str, euclidean: bool, product: Callable[[torch.Tensor], Product]
) -> None:
    spreads, bounds = spreads_and_bounds(device, name, euclidean, product)
    assert np.isfinite(bounds).all()
    assert (spreads <= 2 * bounds).all()


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_scores_and_offsets_bound_exact_scores(
    device: Device, name: str, euclidean: bool, product: Callable[[torch.Tensor], Product]
) -> None:
    scores, _ = scores_and_errors(device, name, euclidean, product)
    x = device.put(torch.from_numpy(INPUTS[name].astype(np.float32)))
    terms = score_terms(x, product(x), euclidean)
    exact = exact_scores(name, euclidean) * (2 if euclidean else 1)
    beyond = scores + device.get(terms.offsets)[:, None] - exact * float(terms.area)
    assert (beyond >= 0).all()
    # And hardly more than the errors of both: nothing else is in an offset.
    assert (beyond <= 3 * device.get(terms.bounds)[:, None]).all()


def test_float16_comes_near_its_bound(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "wants_integers", lambda x: False)
    monkeypatch.setattr(candidates, "product_of", HalfProduct)
    spreads, bounds = spreads_and_bounds(device, "rounded alike, D=7", False, HalfProduct)
    assert (spreads > 1.9 * bounds).all()


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.usefixtures("product")
def test_what_may_overflow_is_not_proposed(device: Device, name: str, euclidean: bool) -> None:
    x = device.put(torch.from_numpy(UNBOUNDED[name]))
    ((_, found),) = propose_candidates(x, one_list(30, 30, device), euclidean)
    longest = np.abs(UNBOUNDED[name]).max(axis=1) >= 1e30
    assert longest.any()
    assert (device.get(found.counts)[longest] == -1).all()


def test_biases_that_overflow_are_not_bounded(device: Device) -> None:
    x = device.put(torch.full((30, 1), 1e23))  # far from 0, and so close together that products fit
    x[::2] *= 1 + 2.0**-20
    terms = score_terms(x, FloatProduct(x), False)
    assert not terms.biases.isfinite().any()
    assert not terms.bounds.isfinite().any()
    assert score_terms(x, FloatProduct(x), True).bounds.isfinite().all()


def ranked_exactly(x: torch.Tensor, layout: ListLayout, euclidean: bool) -> torch.Tensor:
    rows = torch.arange(len(x), device=x.device)
    groups, list_of_group, widths = layout.groups, layout.list_of_group, layout.widths
    return torch.ops.mabm.rank_exactly(x, rows, groups, list_of_group, widths, euclidean)[0]


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize("dim", [2048, 20_000])
@pytest.mark.usefixtures("product")
def test_rows_that_float64_can_hardly_tell_apart(device: Device, dim: int, preset: str) -> None:
    # 1 + 2^-22 * signs: the inner products differ in the last bits of their float64 sums.
    rng = np.random.default_rng(0)
    count = 300 if dim == 2048 else 100
    signs = np.stack([rng.permutation(np.repeat([1, -1], dim // 2)) for _ in range(count)])
    x = device.put(torch.from_numpy((1 + 2.0**-22 * signs).astype(np.float32)))
    modality = device.put(torch.zeros(count, dtype=torch.int64))
    ranking = mabm.rank_neighbors(x, modality, k1=5, preset=preset)
    exactly = ranked_exactly(x, one_list(count, 5, device), preset == "spcl")
    assert torch.equal(ranking.ranks, exactly)


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
@pytest.mark.parametrize("name", INPUTS | UNBOUNDED)
@pytest.mark.usefixtures("product")
def test_ranks_are_those_of_exact_scores(device: Device, name: str, preset: str) -> None:
    features = (INPUTS | UNBOUNDED)[name].astype(np.float32)
    if name in KINDS:  # more of them, so that some are dropped
        features = make_features(name, np.arange(300) % 2, seed=9)
    x = device.put(torch.from_numpy(features))
    modality = torch.zeros(len(x), dtype=torch.int64)
    ranking = mabm.rank_neighbors(x, modality, k1=10, preset=preset)
    exactly = ranked_exactly(x, one_list(len(x), 10, device), preset == "spcl")
    assert torch.equal(ranking.ranks, exactly)


def kept(device: Device, scores: list[float], gap: float, last: bool = True) -> list[int] | None:
    """Which of made-up scores a list of 16 places keeps for its two best; None if it overflowed."""
    count = len(scores)
    no_offset = device.put(torch.zeros(1, dtype=torch.float64))
    gaps = device.put(torch.tensor([gap]))
    lists = candidates.Candidates.none_yet(gaps, no_offset, no_offset[0], (1, 16), "made up")
    torch.ops.mabm.collect_candidates_(
        device.put(torch.tensor([scores])),
        *map(device.put, (torch.zeros(count), torch.zeros(1, dtype=torch.int32))),
        *map(device.put, (torch.zeros(count, dtype=torch.int32), lists.counts.new_zeros(1, 1))),
        *(0, device.put(torch.tensor([gap])), [2], last, False, None, None),
        *lists[:4],
    )
    length = int(lists.counts)
    assert length >= 0 or float(lists.thresholds) == math.inf
    return None if length < 0 else lists.indices[0, 0, :length].tolist()


def test_what_a_cut_drops_at_its_edges(device: Device) -> None:
    keep = functools.partial(kept, device)
    # The second best is 8: what scores 7 = 8 - gap may belong to the list, and less does not.
    assert keep([6.99, 9.0, 7.0, 8.0, 5.0], gap=1.0) == [1, 2, 3]
    assert keep([6.99, 9.0, 7.0, 8.0, 5.0], gap=1.0, last=False) == [1, 2, 3]
    assert keep([6.0, 9.0, 7.0, 8.0, 5.0], gap=100.0) == [0, 1, 2, 3, 4]
    # A list that is full is cut on the way; a few more places are free, or it has overflowed.
    assert keep([8.0] * 14 + [1.0] * 30, gap=1.0) == list(range(14))
    assert keep([8.0] * 15 + [1.0] * 30, gap=1.0) == list(range(15))
    assert keep([8.0] * 15 + [1.0] * 30 + [8.0], gap=1.0) is None
    assert keep([1.0] * 14 + [8.0] * 14, gap=1.0) == list(range(14, 28))
    assert keep([8.0] * 15, gap=1.0) == list(range(15))
    # In a sample the best scores are in two of its classes, or in one, or not in it at all.
    assert keep([{7: 9.0, 70: 8.0}.get(i, 0.0) for i in range(99)], gap=1.0) == [7, 70]
    assert keep([i // 32 if i % 32 == 9 else math.nan for i in range(96)], gap=0.5) == [41, 73]
    above = {100: 3.0, 130: 1.0, 261: 1.0, 8191: 9.0}
    assert keep([above.get(i, -5.0) for i in range(8192)], gap=0.5) == [100, 8191]
    assert keep([above.get(i, -5.0) for i in range(8192)], gap=-1.0) == [100, 8191]
    assert keep([math.nan] * 50 + [2.0, math.nan, 3.0, 1.0], gap=0.5) == [50, 52]
    # Without a gap, what ties with the second best stays, too.
    assert keep([8.0, 7.0, 7.0, 6.0, 7.0], gap=0.0) == [0, 1, 2, 4]
    # Trusted scores: two stay, of equal ones the first.
    assert keep([8.0, 7.0, 7.0, 6.0, 7.0], gap=-1.0) == [0, 1]
    assert keep([7.0] * 40 + [8.0] + [7.0] * 9, gap=-1.0) == [0, 40]
    # Nothing bounds the error.
    assert keep([8.0, 7.0], gap=math.inf) is None
    assert keep([8.0, 7.0], gap=math.nan) is None


def test_lists_are_float32_whatever_the_default_is() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        gaps, zeros = torch.tensor([0, torch.inf]).float(), torch.zeros(2)
        found = candidates.Candidates.none_yet(gaps, zeros, zeros[0], (2, 8), "")
    finally:
        torch.set_default_dtype(before)
    assert found.thresholds.dtype == found.scores.dtype == torch.float32
    assert found.thresholds.tolist() == [[-math.inf] * 2, [math.inf] * 2]
    assert found.counts.tolist() == [[0, 0], [-1, -1]]


@pytest.mark.parametrize("product_type", [HalfProduct, IntegerProduct])
@pytest.mark.parametrize("count", [65, 700])
def test_memory_is_that_of_the_padded_tile_and_of_all_lists(
    count: int, product_type: Callable[[torch.Tensor], Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_LIBRARY_BYTES", 0)
    x, layout = torch.randn(count, 9), one_list(count, 10)
    product = product_type(x)
    proposals = candidates.Proposals(x, layout, product, False)
    side = min(proposals._side, count)
    tile = proposals._new_tile(side, side)
    (_, lists), *_ = proposals.of_all_rows()
    taken = sum(part.numel() * part.element_size() for part in (tile, *lists[:4]))
    spare = candidates.tile_bytes(x, layout.widths, product.room, side, side) - taken
    # Beside these: the operands, the numbers of each sample, and ranks with their exact scores.
    scored = 12 * 72 * product.room
    assert 0 <= spare <= count * (2 * 4 * 64 + 160 + scored + 16 * 10) + 2 * 4 * 64 * 64


@pytest.mark.parametrize(
    ("free", "side"),
    [
        (None, 256),
        (0, 256),
        (16 * 4 * 512**2 - 1, 256),
        (16 * 4 * 512**2, 512),
        (16 * 4 * 8192**2 - 1, 7936),
        (16 * 4 * 8192**2, 8192),
        (2**50, 8192),
    ],
)
def test_a_tile_on_a_gpu_takes_a_sixteenth_of_what_is_free(
    free: int | None, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "available_bytes", lambda device: free)
    assert candidates._tile_side(torch.device("cuda")) == side
    assert candidates._tile_side(torch.device("cpu")) == 4096
