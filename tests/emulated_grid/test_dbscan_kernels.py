"""DBSCAN on graphs that provoke races: chains, rings, stars, borders of several clusters, noise."""

import functools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from kernel_bench import SIZES, assert_same_bits, in_every_order, shuffled, tensors
from numpy.typing import NDArray

from mabm import reference

EPS = 0.5
Edges = list[tuple[int, int]]


class Graph:
    """Symmetric rows: every sample with itself, near pairs just within EPS, far ones just not."""

    def __init__(self, count: int, near: Edges, far: Edges = ()) -> None:
        self.dense = np.full((count, count), np.inf, np.float32)
        for edges, distance in ((far, np.nextafter(np.float32(EPS), 1)), (near, EPS)):
            for a, b in edges:
                self.dense[a, b] = self.dense[b, a] = distance
        np.fill_diagonal(self.dense, 0)
        rows, columns = np.nonzero(np.isfinite(self.dense))
        indptr = np.searchsorted(rows, np.arange(count + 1))
        self.rows = (indptr, columns.astype(np.int32), self.dense[rows, columns])


@functools.cache
def labels_of(graph: Graph, min_samples: int) -> NDArray[np.int64]:
    """The labels of the reference, which are also the CPU's."""
    labels = reference.dbscan(graph.dense, eps=EPS, min_samples=min_samples)
    from_cpu = torch.ops.mabm.dbscan(*tensors(*graph.rows), EPS, min_samples)
    assert_same_bits(from_cpu.numpy(), labels)
    return labels


def renumber(edges: Edges, count: int, seed: int) -> Edges:
    names = np.random.default_rng(seed).permutation(count)
    return [(int(names[a]), int(names[b])) for a, b in edges]


def chain(count: int) -> Edges:
    return [(i, i + 1) for i in range(count - 1)]


EDGES = {
    "chain": chain(70),
    "chain in any order": renumber(chain(70), 70, 1),
    "chain of pairs first": [(i, i + 35) for i in range(35)] + [(i + 35, i + 1) for i in range(34)],
    "ring": [*chain(70), (69, 0)],
    "ring in any order": renumber([*chain(70), (69, 0)], 70, 2),
    "star about the first": [(0, i) for i in range(1, 70)],
    "star about the last": [(69, i) for i in range(69)],
    "two stars that share their rays": [(c, i) for c in (0, 69) for i in range(1, 69)],
    "stars joined by a bridge": renumber(
        [(c, c + i) for c in (0, 35) for i in range(1, 35)] + [(34, 69)], 70, 3
    ),
    "all pairs": [(a, b) for a in range(70) for b in range(a)],
    "no pair": [],
    "many pairs": [(i, 69 - i) for i in range(35)],
    "binary tree upwards": [(i, 69 - (69 - i - 1) // 2) for i in range(69)],
}
GRAPHS = {name: Graph(70, edges) for name, edges in EDGES.items()}


def check(seeds: Sequence[int], graph: Graph, min_samples: int) -> NDArray[np.int64]:
    """Compares labels with the reference's in several orders; returns them."""
    labels = labels_of(graph, min_samples)
    is_core = (graph.dense <= EPS).sum(axis=1) >= min_samples
    roots = [np.flatnonzero(is_core & (labels == c))[0] for c in range(labels.max() + 1)]
    for seed in seeds:
        grid = shuffled(seed)
        parents, is_root = grid.join_cores(*graph.rows, EPS, min_samples)
        assert np.array_equal(parents >= 0, is_core)
        assert_same_bits(is_root, np.isin(np.arange(len(labels)), roots).astype(np.int32))
        clusters = grid.exclusive_sum(is_root)
        assert_same_bits(grid.label_samples(*graph.rows, EPS, parents, clusters), labels)
    return labels


@in_every_order
@pytest.mark.parametrize("graph", GRAPHS)
def test_labels_are_those_of_the_definition_in_many_orders(graph: str, seed: int) -> None:
    for min_samples in (1, 2, 3, 4):
        check(range(seed, 800, 100), GRAPHS[graph], min_samples)


@functools.cache
def random_graph(count: int, density: float) -> Graph:
    rng = np.random.default_rng((count, int(10 * density)))
    near, far = (rng.integers(0, count, (int(d * count), 2)).tolist() for d in (density, 2))
    return Graph(count, near, far)


@in_every_order
@pytest.mark.parametrize("count", SIZES)
def test_random_graphs_from_noise_to_one_cluster(count: int, seed: int) -> None:
    clusters = set()
    for density in (0.1, 0.5, 1.0, 3.0):
        for min_samples in (1, 2, 4):
            labels = check([seed, seed + 100], random_graph(count, density), min_samples)
            clusters.add(int(labels.max()) + 1)
    assert count == 1 or len(clusters) > 4


@in_every_order
def test_a_border_sample_takes_the_smallest_cluster_of_its_neighbors(seed: int) -> None:
    # Two cliques, samples with one core of each near, and samples without: none of them a core.
    near = [(a, b) for t in (40, 10) for a in range(t, t + 5) for b in range(t, a)]
    near += [(i, t) for i in (0, 5, 25, 60) for t in (40, 10)]
    near += [(61, 60), (62, 41)]
    labels = check([seed], Graph(70, near), 5)
    assert labels[[10, 40, 0, 5, 25, 60, 61, 62]].tolist() == [0, 1, 0, 0, 0, 0, -1, 1]


@in_every_order
def test_border_samples_whose_rows_are_longer_than_a_warp(seed: int) -> None:
    # Their rows hold every sample; near are one core of each of two cliques, 32 columns apart, so
    # that one lane sees both: first that of the smaller cluster, or last.
    cliques = [[*range(5), *range(74, 79)], [*range(32, 37), *range(42, 47)]]
    near = [(a, b) for clique in cliques for a in clique for b in clique if a != b]
    borders = {100 + i: (i, 32 + i) for i in range(5)}
    borders |= {110 + i: (42 + i, 74 + i) for i in range(5)}
    near += [(border, core) for border, cores in borders.items() for core in cores]
    far = [(border, other) for border in borders for other in range(150) if other != border]
    labels = check([seed], Graph(150, near, far), 5)
    assert labels[list(borders)].tolist() == [0] * 10


@in_every_order
def test_a_distance_that_is_no_number_is_not_near(seed: int) -> None:
    indptr, indices, distances = random_graph(257, 1.0).rows
    with_nan = np.where(distances > EPS, np.float32(np.nan), distances)
    grid = shuffled(seed)
    parents, is_root = grid.join_cores(indptr, indices, with_nan, EPS, 2)
    clusters = grid.exclusive_sum(is_root)
    labels = grid.label_samples(indptr, indices, with_nan, EPS, parents, clusters)
    assert np.isnan(with_nan).any()
    assert_same_bits(labels, labels_of(random_graph(257, 1.0), 2))


@in_every_order
def test_no_samples_and_rows_without_entries(seed: int) -> None:
    grid = shuffled(seed)
    nothing = (np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    parents, is_root = grid.join_cores(*nothing, EPS, 1)
    assert parents.tolist() == is_root.tolist() == []
    rows = (np.array([0, 0, 1, 1]), np.array([1], np.int32), np.zeros(1, np.float32))
    parents, is_root = grid.join_cores(*rows, EPS, 1)
    labels = grid.label_samples(*rows, EPS, parents, grid.exclusive_sum(is_root))
    assert labels.tolist() == [-1, 0, -1]


# ---- Joined samples -----------------------------------------------------------------------------


def check_joined(seed: int, parents: NDArray[np.int32], edges: Edges) -> NDArray[np.int32]:
    """Compares roots with the CPU's; returns them."""
    first, second = np.array(edges, np.int32).reshape(-1, 2).T.copy()
    expected = tensors(parents.copy(), first, second)
    torch.ops.mabm.join_samples_(*expected)
    found = shuffled(seed).join_samples(parents, first, second)
    assert_same_bits(found, expected[0].numpy())
    return found


@in_every_order
@pytest.mark.parametrize("graph", EDGES)
def test_joined_samples_are_those_of_the_cpu_in_many_orders(graph: str, seed: int) -> None:
    samples = np.arange(70, dtype=np.int32)
    for order in range(seed, 800, 100):
        whole = check_joined(order, samples, EDGES[graph])
        half = check_joined(order, samples, EDGES[graph][::2])  # and the other half onto its roots
        assert_same_bits(check_joined(order, half, EDGES[graph][1::2]), whole)


@in_every_order
@pytest.mark.parametrize("count", SIZES)
def test_samples_joined_onto_any_trees(count: int, seed: int) -> None:
    rng = np.random.default_rng(count)
    for share in (0.5, 1.0):
        members = np.flatnonzero(rng.random(count) < share)
        parents = np.full(count, -1, np.int32)
        for place, sample in enumerate(members):
            parents[sample] = members[max(place - int(rng.integers(0, 3)), 0)]
        for num_pairs in (0, count // 2, 2 * count):
            pairs = rng.choice(members, (num_pairs if len(members) else 0, 2)).tolist()
            roots = check_joined(seed, parents, pairs)
            assert ((roots >= 0) == (parents >= 0)).all()
