"""Exact products of rounded rows: against fractions, in digits and in float64, in any order."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from devices import Device

import mabm
from mabm.distance import whole_products
from mabm.distance.whole_products import (
    WholeRows,
    has_slow_float64,
    inner_products,
    wants_digits,
    whole_rows_bytes,
)

KINDS = (
    "noise",
    "heavy tails",
    "one entry",
    "one large entry",
    "alike",
    "largest digits",
    "lengths apart",
    "magnitudes apart",
    "nearly two units",
    "zeros between",
)


def rows_of(kind: str, count: int, dim: int) -> torch.Tensor:
    rng = np.random.default_rng([count, dim])
    noise, row = rng.normal(size=(count, dim)), np.arange(count)
    place = np.arange(dim) == (7 * row % dim)[:, None]
    # With 2^26 beside it, an entry is a whole number of units: here such as change many digits.
    few = [1, 127, 128, 129, 255, 256, 32639, 32640, 32896, 2**23 - 128, 2**23 - 127, 2**23, 2**25]
    digits = np.where(np.arange(dim) == 0, 2.0**26, 0)
    digits = np.where(
        np.arange(dim) == dim - 1, np.resize([*few, *(-f for f in few)], (count, 1)), digits
    )
    values = {
        "noise": noise,
        "heavy tails": np.maximum(noise, 0) ** 4,
        "one entry": place * (1 - 2.0**-24),
        "one large entry": np.where(place & (row % 3 == 0)[:, None], 1000, noise),
        "alike": 1 + 2.0**-20 * np.sign(noise),
        "largest digits": digits,
        "lengths apart": noise * 10 ** rng.uniform(-1, 2, size=(count, 1)),
        "magnitudes apart": noise * 10.0 ** np.linspace(-42, 37, count)[:, None],
        "nearly two units": 2.0 ** rng.integers(-3, 3, size=(count, 1)) * (noise > 0),
        "zeros between": noise * (row % 2)[:, None],
    }[kind]
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(params=["float64", "digits"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What rows are multiplied in, on any device; in digits, some columns at a time."""
    in_digits = request.param == "digits"
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: in_digits)
    monkeypatch.setattr(whole_products, "_COLUMNS_AT_ONCE", 24)
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("queries", "count", "dim"), [(1, 1, 3), (5, 9, 130), (3, 33, 16)])
@pytest.mark.usefixtures("route")
def test_against_fractions(device: Device, kind: str, queries: int, count: int, dim: int) -> None:
    x = rows_of(kind, count, dim)
    whole = WholeRows(device.put(x))
    units = whole.units.tolist()
    rows = [
        [round(Fraction(value) / Fraction(unit)) * Fraction(unit) for value in row]
        for row, unit in zip(x.tolist(), units, strict=True)
    ]
    exact = [[sum(map(Fraction.__mul__, a, b)) for b in rows] for a in rows]
    few = slice(count - queries, None)
    found = whole.multiply(whole, few).tolist()
    assert [list(map(Fraction, row)) for row in found] == exact[few]
    for row, length in enumerate(map(Fraction, whole.squares.tolist())):
        assert length == exact[row][row]
        bits = length / Fraction(units[row]) ** 2
        assert bits <= 2**53  # so that no sum of products exceeds 2^53
        assert bits >= 2**50 or not bits  # and no more is lost than that asks for


@pytest.mark.parametrize("dim", [3, 130, 513, 2048])
def test_lengths_at_the_bound(device: Device, route: str, dim: int) -> None:
    # Squared lengths about 2, where the unit doubles. The first, coarse rounding takes all entries
    # but one down by nearly half a unit.
    coarse = 2.0 ** (1 - (53 - math.ceil(math.log2(dim))) // 2)
    rows = torch.full((3000, dim), (math.floor((dim - 1) ** -0.5 / coarse) + 0.49) * coarse)
    rows[:, 0] = 1 + torch.linspace(-(2.0**-14), 2.0**-14, len(rows))
    whole = WholeRows(device.put(rows))
    assert len(whole.units.unique()) == 2
    assert (whole.squares / whole.units.square() <= 2.0**53).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("queries", "count", "dim"), [(1, 1, 129), (1, 50, 200), (17, 16, 513), (33, 49, 2048)]
)
def test_digits_and_float64_give_the_same_bits(
    device: Device,
    kind: str,
    queries: int,
    count: int,
    dim: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = rows_of(kind, count, dim), rows_of(kind, queries, dim)
    expected = inner_products(y, x)
    distances = WholeRows(y).squared_distances(WholeRows(x))
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: True)
    monkeypatch.setattr(whole_products, "_COLUMNS_AT_ONCE", 32)
    x, y = device.put(x), device.put(y)
    np.testing.assert_array_equal(device.get(inner_products(y, x)), expected)
    found = WholeRows(y).squared_distances(WholeRows(x))
    np.testing.assert_array_equal(device.get(found), distances)


def test_more_rows_than_are_multiplied_at_once(
    device: Device, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = device.put(rows_of("noise", 600, 20))
    expected = WholeRows(x).multiply(WholeRows(x))
    monkeypatch.setattr(whole_products, "_ROWS_AT_ONCE", 170)
    assert torch.equal(inner_products(x, x), expected)


def test_the_order_of_summation_and_of_sides_changes_nothing(device: Device, route: str) -> None:
    own, others = (device.put(rows_of("noise", count, 2048)) for count in (40, 30))
    others[7] *= 2.0**-40
    others[8] = 0
    found = inner_products(own, others)
    lengths = own.double().norm(dim=1)[:, None] * others.double().norm(dim=1)
    errors = (found - own.double() @ others.double().T).abs()
    assert (errors <= 2.0**-24 * lengths).all()  # those of a float32 product are far larger
    assert (found[:, 8] == 0).all()
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(2048)).to(own.device)
    assert torch.equal(inner_products(own[:, shuffled], others[:, shuffled]), found)
    for row in (0, 39):
        assert torch.equal(inner_products(own[row : row + 1], others)[0], found[row])
    assert torch.equal(inner_products(others, own), found.T)


@pytest.mark.parametrize("kind", KINDS)
def test_squared_distances(device: Device, kind: str, route: str) -> None:
    x = rows_of(kind, 60, 300)
    x[20:40] = x[:20] * (1 + 2.0**-23)  # nearly equal, some in other units
    x[40:] = x[:20]
    whole = WholeRows(device.put(x))
    found = torch.from_numpy(device.get(whole.squared_distances(whole)))
    assert (found >= 0).all()
    assert (found.diagonal() == 0).all()
    assert (found[:20, 40:].diagonal() == 0).all()
    wide = x.double()
    expected = torch.stack([(wide - row).square().sum(dim=1) for row in wide])
    lengths = wide.norm(dim=1)
    most = torch.maximum(lengths[:, None], lengths)
    loss = 300**0.5 * 2.0**-26.5 * most  # of the difference of two rows
    errors = (found - expected).abs()
    assert (errors <= 2 * loss * expected.sqrt() + loss**2 + 2.0**-50 * most**2).all()


@pytest.mark.parametrize("count", [0, 1])
def test_no_rows(device: Device, route: str, count: int) -> None:
    some, none = (device.put(torch.ones(n, 5)) for n in (count, 0))
    assert inner_products(some, none).shape == (count, 0)
    assert inner_products(none, some).shape == (0, count)


@pytest.mark.parametrize("preset", ["bmil", "spcl"])
def test_reranked_distances_are_the_same_by_both(
    device: Device, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(15, 140))[rng.integers(0, 15, 90)] + rng.normal(size=(90, 140))
    modality = np.arange(90) % 2
    query, gallery, one, other = (
        part
        for array in (features.astype(np.float32), modality)
        for part in (array[:30], array[30:])
    )
    expected = mabm.rerank(query, gallery, one, other, preset=preset)
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: True)
    put = map(device.put, (query, gallery, one, other))
    np.testing.assert_array_equal(device.get(mabm.rerank(*put, preset=preset)), expected)


@pytest.mark.parametrize(
    ("capability", "slow"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 0), False),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), False),
        ((10, 0), False),
        ((12, 0), True),
    ],
)
def test_cards_that_multiply_digits(capability: tuple[int, int], slow: bool) -> None:
    assert has_slow_float64(capability) is slow


def test_a_cpu_multiplies_float64() -> None:
    assert not wants_digits(torch.randn(3, 200))


@pytest.mark.parametrize("count", [3, 300, 5000])
@pytest.mark.parametrize("dim", [16, 200])
def test_memory_is_at_least_that_of_the_rows(count: int, dim: int, route: str) -> None:
    x = rows_of("noise", count, dim)
    whole = WholeRows(x)
    held = sum(value.nbytes for value in vars(whole).values())
    needed = whole_rows_bytes(x, count, 1)
    assert held < needed <= whole_rows_bytes(x, count + 1, 2)
