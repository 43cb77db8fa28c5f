"""Joining sets of samples: connected components, numbered by their smallest sample."""

import numpy as np
import pytest
import torch
from devices import CPU, Device, threads
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from op_samples import OPS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Pairs = tuple[NDArray[np.int32], NDArray[np.int32]]


def roots_of(takes_part: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.int32]:
    """The smallest sample of each sample's component by SciPy, -1 for those that take no part."""
    count = len(takes_part)
    graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    smallest = np.full(count, count, dtype=np.int32)
    np.minimum.at(smallest, numbers, np.arange(count, dtype=np.int32))
    return np.where(takes_part, smallest[numbers], -1).astype(np.int32)


def draw_pairs(rng: np.random.Generator, members: NDArray[np.int64], count: int) -> Pairs:
    first, second = rng.choice(members, size=(2, count if len(members) else 0)).astype(np.int32)
    return first, second


def join(device: Device, parents: NDArray[np.int32], pairs: Pairs) -> NDArray[np.int32]:
    put = [device.put(torch.from_numpy(part.copy())) for part in (parents, *pairs)]
    assert OPS.join_samples_(*put) is None
    for part, before in zip(put[1:], pairs, strict=True):
        np.testing.assert_array_equal(device.get(part), before)
    return device.get(put[0])


def alone(takes_part: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.where(takes_part, np.arange(len(takes_part)), -1).astype(np.int32)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_roots_are_those_of_scipy(
    device: Device, count: int, share: float, num_pairs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    takes_part = rng.random(count) < share
    pairs = draw_pairs(rng, takes_part.nonzero()[0], num_pairs)
    found = join(device, alone(takes_part), pairs)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, roots_of(takes_part, pairs))


@given(st.integers(1, 80), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_trees_of_any_depth_are_taken_and_flattened(
    device: Device, count: int, num_pairs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    takes_part = rng.random(count) < 0.9
    parents = alone(takes_part)
    for sample in takes_part.nonzero()[0]:
        smaller = takes_part[: sample + 1].nonzero()[0]
        if rng.random() < 0.7:
            parents[sample] = rng.choice(smaller[-3:])  # deep, as it points to one of the last
    pairs = draw_pairs(rng, takes_part.nonzero()[0], num_pairs)
    own = takes_part.nonzero()[0].astype(np.int32)
    both = tuple(
        np.concatenate(parts) for parts in zip(pairs, (own, parents[takes_part]), strict=True)
    )
    np.testing.assert_array_equal(join(device, parents, pairs), roots_of(takes_part, both))


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_long_chains(device: Device, order: str) -> None:
    count = 20_000
    first = np.arange(1, count, dtype=np.int32)
    if order == "descending":
        first = first[::-1].copy()
    if order == "shuffled":
        np.random.default_rng(0).shuffle(first)
    found = join(device, np.arange(count, dtype=np.int32), (first, first - 1))
    assert (found == 0).all()


def test_in_parts_and_in_any_order_it_is_the_same(device: Device) -> None:
    rng = np.random.default_rng(1)
    takes_part = rng.random(3000) < 0.8
    pairs = draw_pairs(rng, takes_part.nonzero()[0], 2500)
    whole = join(device, alone(takes_part), pairs)
    order = rng.permutation(2500)
    parents = alone(takes_part)
    for part in np.array_split(order, 7):
        parents = join(device, parents, (pairs[1][part], pairs[0][part]))
    np.testing.assert_array_equal(parents, whole)
    assert 1 < len(np.unique(whole)) < takes_part.sum()


def test_no_samples_and_no_pairs(device: Device) -> None:
    nothing = np.zeros(0, dtype=np.int32)
    assert len(join(device, nothing, (nothing, nothing))) == 0
    parents = np.array([0, 0, 1, -1, 2], dtype=np.int32)
    assert join(device, parents, (nothing, nothing)).tolist() == [0, 0, 0, -1, 0]


def test_any_number_of_threads_gives_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    pairs = draw_pairs(rng, np.arange(5000), 4000)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(join(CPU, np.arange(5000, dtype=np.int32), pairs))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("wrong", [-1, 3, 10, 2**31 - 1])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_refused_changes_nothing(wrong: int, side: int) -> None:
    parents = torch.tensor([0, 1, 2, -1, 4], dtype=torch.int32)
    pairs = [torch.tensor([0, 1, 2], dtype=torch.int32) for _ in range(2)]
    pairs[side][2] = wrong
    pairs[1 - side][0] = 4
    before = parents.clone()
    with pytest.raises(RuntimeError, match=rf"{('first', 'second')[side]} must be .*, got {wrong}"):
        OPS.join_samples_(parents, *pairs)
    assert torch.equal(parents, before)
