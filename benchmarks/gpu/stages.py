"""The stages of the library as the benchmarks run them, and the least work of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import mabm
from mabm.distance import candidates
from mabm.distance.candidates import tile_shape
from mabm.distance.products import Product, product_of
from mabm.distance.rows import NeighborSets
from mabm.distance.whole_products import wants_digits

# The most samples with dense matrices: (N, N) float32 takes 4.7 GB.
DENSE_LIMIT = 34_167
QUERY_SHARE = 10  # one sample in so many is a query of the re-ranking
DIGIT_PRODUCTS = 16  # of 8-bit integers, in place of one of float64


@dataclass(frozen=True)
class Prepared:
    """One input and the results of every stage on it."""

    features: Tensor
    modality: Tensor
    ranking: mabm.Ranking[Tensor]
    neighbors: NeighborSets[Tensor]
    encoding: mabm.Encoding[Tensor]
    expanded: mabm.Encoding[Tensor]
    graph: mabm.NeighborGraph[Tensor]
    labels: Tensor
    product: Product

    @classmethod
    def of(cls, features: Tensor, modality: Tensor) -> Prepared:
        """Runs the pipeline stage by stage."""
        ranking = mabm.rank_neighbors(features, modality)
        neighbors = mabm.k_reciprocal_neighbors(ranking)
        encoding = mabm.encode_neighbors(features, neighbors)
        expanded = mabm.expand_queries(encoding, ranking)
        graph = mabm.prune_distances(expanded)
        labels = graph.dbscan()
        product = product_of(features)
        parts = (ranking, neighbors, encoding, expanded, graph, labels, product)
        return cls(features, modality, *parts)

    @property
    def num_queries(self) -> int:
        """The number of queries of the re-ranking: the last samples, infrared ones."""
        return max(len(self.features) // QUERY_SHARE, 1)

    @property
    def product_operations(self) -> float:
        """Operations of the full product of all features with each other."""
        count, dim = self.features.shape
        return 2.0 * count * count * dim


@dataclass(frozen=True)
class Floor:
    """The least work of a stage: operations by precision, and bytes moved.

    The bytes are those of its inputs, read once, and of its results, written once.
    """

    moved: float
    operations: Mapping[str, float]

    def milliseconds(self, rates: Mapping[str, float]) -> tuple[float, str]:
        """The longer time of the two at the measured rates, and which of them it is."""
        products = sum(count / rates[precision] for precision, count in self.operations.items())
        bytes_alone = self.moved / rates["copy"]
        return max(products, bytes_alone) * 1e3, "product" if products > bytes_alone else "bytes"


@dataclass(frozen=True)
class Stage:
    """One measured call.

    Attributes:
        name: Its name in reports.
        run: The call.
        floor: Its least work on an input.
        dense: Whether its result or its work is N x N.
    """

    name: str
    run: Callable[[Prepared], object]
    floor: Callable[[Prepared], Floor]
    dense: bool = False


def size_of(*parts: Any) -> float:
    """Bytes of tensors, rows and rankings."""
    total = 0.0
    for part in parts:
        if isinstance(part, Tensor):
            total += part.numel() * part.element_size()
        elif isinstance(part, mabm.Ranking):
            total += size_of(part.ranks, part.scores)
        else:
            total += size_of(*part.tensors())
    return total


def _whole(given: Prepared) -> Floor:
    moved = size_of(given.features, given.labels)
    return Floor(moved, {"float16": given.product_operations})


def _ranking(given: Prepared) -> Floor:
    moved = size_of(given.features, given.ranking)
    return Floor(moved, {"float16": given.product_operations})


def _bytes_of(*parts: str) -> Callable[[Prepared], Floor]:
    return lambda given: Floor(size_of(*(getattr(given, part) for part in parts)), {})


def _dense(given: Prepared) -> Floor:
    return Floor(size_of(given.expanded) + 4.0 * len(given.features) ** 2, {})


def _multiply_tiles(given: Prepared) -> None:
    """Runs the float16 product of the ranking, tile by tile, without collecting candidates."""
    count, product = len(given.features), given.product
    _, side = tile_shape(given.features, given.ranking.widths)
    size = len(product.operand(slice(0, side)))
    tile = torch.empty(size**2, device=given.features.device)
    for start in range(0, count, side):
        left = product.operand(slice(start, start + side))
        for first in range(start, count, side):
            right = product.operand(slice(first, first + side))
            product.multiply(left, right, tile[: len(left) * len(right)].view(len(left), -1))


def _rank_by_halves(given: Prepared) -> mabm.Ranking[Tensor]:
    """Ranks as a GPU does that multiplies 8-bit integers no faster."""
    with patch.object(candidates, "wants_integers", lambda x: False):
        return mabm.rank_neighbors(given.features, given.modality)


def _product_alone(given: Prepared) -> Floor:
    operands = size_of(given.product.operand(slice(None)))
    moved = operands + 4.0 * len(given.features) ** 2
    return Floor(moved, {"float16": given.product_operations})


def _rerank(given: Prepared) -> Tensor:
    split = len(given.features) - given.num_queries
    (gallery, query), (left, right) = (
        part.tensor_split([split]) for part in (given.features, given.modality)
    )
    return mabm.rerank(query, gallery, right, left)


def _reranking(given: Prepared) -> Floor:
    count, dim = given.features.shape
    queries = given.num_queries
    moved = size_of(given.features) + 4.0 * queries * (count - queries)
    euclidean = 2.0 * queries * count * dim
    exact = {"float64": euclidean}
    if wants_digits(given.features):
        exact = {"int8": DIGIT_PRODUCTS * euclidean}
    return Floor(moved, {"float16": given.product_operations, **exact})


WHOLE, FAST = "pseudo_labels", "pseudo_labels, fast"
RANKING, RERANKING = "rank_neighbors", "rerank"
BY_HALVES = "rank_neighbors, 8-bit integers not tried"
PRODUCT = "product alone, in the tiles of the ranking"

STAGES = (
    Stage(WHOLE, lambda g: mabm.pseudo_labels(g.features, g.modality), _whole),
    Stage(RANKING, lambda g: mabm.rank_neighbors(g.features, g.modality), _ranking),
    Stage(
        "k_reciprocal_neighbors",
        lambda g: mabm.k_reciprocal_neighbors(g.ranking),
        _bytes_of("ranking", "neighbors"),
    ),
    Stage(
        "encode_neighbors",
        lambda g: mabm.encode_neighbors(g.features, g.neighbors),
        _bytes_of("features", "neighbors", "encoding"),
    ),
    Stage(
        "expand_queries",
        lambda g: mabm.expand_queries(g.encoding, g.ranking),
        lambda g: Floor(size_of(g.encoding, g.ranking.ranks, g.expanded), {}),
    ),
    Stage(
        "prune_distances",
        lambda g: mabm.prune_distances(g.expanded),
        _bytes_of("expanded", "graph"),
    ),
    Stage("dbscan", lambda g: g.graph.dbscan(), _bytes_of("graph", "labels")),
    Stage(FAST, lambda g: mabm.pseudo_labels(g.features, g.modality, precision="fast"), _whole),
    Stage(
        "rank_neighbors, fast",
        lambda g: mabm.rank_neighbors(g.features, g.modality, precision="fast"),
        _ranking,
    ),
    Stage(BY_HALVES, _rank_by_halves, _ranking),
    Stage(PRODUCT, _multiply_tiles, _product_alone),
    Stage("jaccard_distance", lambda g: mabm.jaccard_distance(g.expanded), _dense, dense=True),
    Stage(RERANKING, _rerank, _reranking, dense=True),
)
AFTER_RANKING = tuple(stage.name for stage in STAGES[2:7])
