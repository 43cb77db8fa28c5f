"""The work of each part of the pipeline on a GPU: bytes, operations, launches.

One function a part, whose docstring is its reason and a cell of the table. Work follows from N, D,
the defaults of ``mabm.pseudo_labels`` with two modalities, and the counts of ``counts.py``. A
function changes together with its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, log2

from counts import Counts
from stages import DIGIT_PRODUCTS, PRODUCT, QUERY_SHARE, RANKING, RERANKING, WHOLE

# The side of a tile of products where memory is large, and rows of a block of PyTorch's calls.
TILE, BLOCK = 8192, 4096
# The largest part of rows unproven by 8-bit integers, from which on float16 comes first; the sample
# that decides; columns that thresholds are guessed from (mabm/distance/candidates.py, rows.h).
MOST_UNPROVEN, SAMPLE, GUESSED = 0.125, 256, 2048
# Rows of a window of counters, and places for near rows (csrc/kernels/jaccard.cuh).
WINDOW, NEAR_SLOTS = 12_000, 256
# Slots of the table of a short row (csrc/kernels/row_table.cuh).
TABLE = 2048
# Bytes that memory and caches read together.
SECTOR = 32
# Queries of the re-ranking at once, and columns of products of digits at once
# (mabm/distance/whole_products.py).
QUERY_ROWS, DIGIT_COLUMNS = 256, 8192


@dataclass(frozen=True)
class Size:
    """An input.

    Attributes:
        count: N.
        dim: D.
        counts: What was counted on it, or on one like it.
        tries_integers: Whether 8-bit integers are tried before float16.
    """

    count: int
    dim: int
    counts: Counts
    tries_integers: bool = True

    @property
    def entries(self) -> float:
        """Numbers in the features."""
        return float(self.count) * self.dim

    @property
    def num_sides(self) -> int:
        """Tiles in a row of tiles."""
        return ceil(self.count / TILE)

    @property
    def num_tiles(self) -> int:
        """Tiles on and above the diagonal."""
        return self.num_sides * (self.num_sides + 1) // 2

    @property
    def tile_area(self) -> float:
        """Products in these tiles."""
        sides = [min(TILE, self.count - first) for first in range(0, self.count, TILE)]
        return (float(sum(sides)) ** 2 + sum(float(side) ** 2 for side in sides)) / 2

    @property
    def by_integers(self) -> bool:
        """Whether 8-bit integers come first."""
        return self.tries_integers and self.counts.unproven <= MOST_UNPROVEN

    @property
    def num_left(self) -> float:
        """Rows that 8-bit integers leave to float16, where they come first."""
        return self.count * self.counts.unproven if self.by_integers else 0.0

    @property
    def candidates(self) -> float:
        """Candidates of all rows that are scored exactly."""
        c = self.counts
        if not self.by_integers:
            return self.count * c.half_candidates
        return (self.count - self.num_left) * c.candidates + self.num_left * c.half_candidates

    @property
    def insertions(self) -> float:
        """Insertions of all rows by the first product."""
        c = self.counts
        return self.count * (c.insertions if self.by_integers else c.half_insertions)


@dataclass(frozen=True)
class Work:
    """What a part does.

    Attributes:
        moved: Bytes read from memory and written to it.
        reused: Bytes that are read again, with the size of what they are read from: as much of it
            as fits comes from the cache.
        operations: By kind, see ``cards.KINDS``.
        launches: Kernels of the library.
        calls: Calls of PyTorch.
        waits: Times that the host waits for the device.
    """

    moved: float = 0.0
    reused: tuple[tuple[float, float], ...] = ()
    operations: Mapping[str, float] = field(default_factory=dict)
    launches: float = 0.0
    calls: float = 0.0
    waits: float = 0.0


def check(size: Size) -> Work:
    """The features read for their extremes, in blocks of rows; groups counted, twice."""
    return Work(moved=4 * size.entries, calls=ceil(size.count / BLOCK) + 16, waits=4)


def prepare(size: Size) -> Work:
    """The features read for columns, integers and lengths; a sample of rows is tried.

    The same with halves if float16 comes first.
    """
    integers, halves = float(size.tries_integers), float(not size.by_integers)
    sampled = integers * SAMPLE * size.count
    return Work(
        moved=(13 * integers + 14 * halves) * size.entries
        + (1300 * integers + 700 * halves) * size.count  # of numbers a row
        + 8 * sampled,
        operations={
            "float64": 8 * (integers + halves) * size.entries,
            "conversions": 3.5 * (integers + halves) * size.entries,
            "int8": 2 * sampled * size.dim,
        },
        launches=8 * integers + 6 * halves + 2 * integers * size.num_sides,
        calls=165 * integers + 50 * halves + 6 * integers * size.num_sides,
        waits=3 * integers,
    )


def multiply(size: Size) -> Work:
    """Tiles on and above the diagonal: both operands of each read, 4 bytes a product written."""
    width, kind = (1, "int8") if size.by_integers else (2, "float16")
    operands = size.num_tiles * 2 * min(TILE, size.count) * size.dim * width
    return Work(
        moved=operands + 4 * size.tile_area,
        operations={kind: 2 * size.tile_area * size.dim},
        calls=size.num_tiles,
    )


def collect(size: Size) -> Work:
    """Every product read, off the diagonal from both sides, some twice to guess thresholds.

    Group, list, bias and scale of its column come from the cache; 20 instructions an insertion.
    """
    products = float(size.count) * (size.count + GUESSED)
    return Work(
        moved=4 * products + 8 * size.insertions,
        operations={
            "shared": (6 if size.by_integers else 5) * products,
            "scalar": 16 * products + 32 * 20 * size.insertions,
        },
        launches=2 * size.num_sides**2,
        calls=6,
    )


def multiply_left(size: Size) -> Work:
    """Rows that integers leave: float16 of all rows made, theirs multiplied with all columns.

    Products are written and read.
    """
    if not size.num_left:
        return Work()
    products = size.num_left * size.count
    blocks = ceil(size.num_left / TILE) * size.num_sides
    return Work(
        moved=14 * size.entries + 8 * products,
        operations={"float16": 2 * products * size.dim, "scalar": 16 * products},
        launches=6 + 2 * blocks,
        calls=60 + 2 * blocks,
        waits=1,
    )


def score(size: Size) -> Work:
    """A row of features for each candidate in reach, in any order; an addition in float64 an entry.

    Bits are moved to float64; lists are ordered by counting the better ones.
    """
    c = size.counts
    terms = size.candidates * size.dim
    of_list = size.candidates / size.count / c.lists
    return Work(
        moved=48 * size.count * c.width,
        reused=((4 * terms, 4 * size.entries),),
        operations={
            "float64": terms + 2 * size.candidates * of_list,
            "scalar": 5 * terms,
        },
        launches=2 * size.num_sides,
        calls=6 * size.num_sides + 20,
        waits=1,
    )


def expand(size: Size) -> Work:
    """The list of each ranked neighbor searched, twice; lists merged by two sorts.

    For each row a bit for each sample in shared memory, cleared and read three times.
    """
    c = size.counts
    listed = size.count * c.width
    return Work(
        moved=110 * listed + 4 * size.count * c.members,
        reused=((2 * 8 * listed * c.width, 8 * listed),),
        operations={
            "shared": 7 / 32 * float(size.count) ** 2,
            "atomics": 2 * size.count * (c.width + 2 * c.members),
        },
        launches=8,
        calls=5,
        waits=1,
    )


def encode(size: Size) -> Work:
    """Products looked up in the row's list, then in the other's; softmax in float64.

    A row of features is read for each product that neither has.
    """
    c = size.counts
    members = size.count * c.members
    terms = members * (1 - c.known) * size.dim
    searched = members * (1 - c.listed) * 8 * c.width
    return Work(
        moved=members * 44 + 16 * size.count * c.width,
        reused=((4 * terms, 4 * size.entries), (searched, 8 * size.count * c.width)),
        operations={"float64": terms + 60 * members, "scalar": 5 * terms},
        launches=5,
        waits=1,
    )


def average(size: Size) -> Work:
    """Entries of the averaged rows read twice, each added to a table in shared memory.

    That is two additions of 32 bits, and one for its key; places are counts of smaller ones.
    """
    c = size.counts
    added = size.count * c.additions
    return Work(
        moved=size.count * (16 * c.averaged + 8 * c.expanded),
        reused=((2 * 8 * added, 8 * size.count * c.entries),),
        operations={
            "atomics": 2 * 3 * added,
            "shared": size.count * (2 * 2 * 3 * TABLE + c.expanded**2),
        },
        launches=8,
        calls=22,
        waits=1,
    )


def prune(size: Size) -> Work:
    """Entries sorted by column; the column of each entry read, an addition an entry of it.

    Columns are searched for the ends of windows; a counter for each pair of samples is cleared and
    read twice.
    """
    c = size.counts
    entries, pairs = size.count * c.expanded, size.count * c.pairs
    # The last steps of a search, among entries of 8 bytes, are in one sector.
    steps = log2(max(c.pairs / c.expanded * 8 / SECTOR, 2))
    searches = 2 * (ceil(size.count / WINDOW) - 1) * entries * steps
    return Work(
        moved=entries * (4 * 24 + 40) + size.count * (24 * c.near + 16),
        reused=((8 * pairs + SECTOR * searches, 8 * entries),),
        operations={
            "atomics": pairs,
            "shared": 3 * float(size.count) ** 2,
            "scalar": 6 * pairs + 9 * float(size.count) ** 2,
        },
        launches=10,
        calls=4,
        waits=1,
    )


def cluster(size: Size) -> Work:
    """The graph read three times; roots followed."""
    near = size.count * size.counts.near
    return Work(moved=3 * 8 * near + 60 * size.count, launches=8, calls=1)


def multiply_all(size: Size) -> Work:
    """All products in float16, as the floor has them, written once."""
    tiles = size.num_sides**2
    operands = tiles * 2 * min(TILE, size.count) * size.dim * 2
    products = float(size.count) ** 2
    return Work(
        moved=operands + 4 * products,
        operations={"float16": 2 * products * size.dim},
        calls=tiles,
    )


def fill_dense(size: Size) -> Work:
    """Entries by column as in the graph; a distance divided in float64, written, for each pair."""
    c = size.counts
    entries, pairs = size.count * c.expanded, size.count * c.pairs
    distances = float(size.count) ** 2
    return Work(
        moved=entries * (4 * 24 + 40) + 4 * distances,
        reused=((8 * pairs, 8 * entries),),
        operations={"atomics": pairs, "shared": 2 * distances, "float64": 12 * 0.1 * distances},
        launches=7,
        calls=4,
    )


def fill_queries(size: Size) -> Work:
    """As the dense distance, for one sample in ten."""
    whole = fill_dense(size)
    return Work(
        moved=whole.moved / QUERY_SHARE,
        reused=tuple((again / QUERY_SHARE, held) for again, held in whole.reused),
        operations={kind: count / QUERY_SHARE for kind, count in whole.operations.items()},
        launches=7,
        calls=8,
        waits=4,
    )


def multiply_whole(size: Size) -> Work:
    """Rows rounded to whole numbers, 116 bytes an entry, and queries times all rows in float64.

    All rows are read for each block of queries; distances are made of products and mixed, 120 bytes
    each.
    """
    pairs, blocks = _query_pairs(size)
    return Work(
        moved=(8 + 116) * size.entries + 8 * pairs,
        reused=(
            (8 * size.entries * blocks, 8 * size.entries),
            (120 * pairs, 8 * QUERY_ROWS * size.count),
        ),
        operations={"float64 products": 2 * pairs * size.dim},
        calls=14 * blocks + 26 * ceil(size.count / BLOCK),
    )


def multiply_digits(size: Size) -> Work:
    """The same in 16 products of 8-bit digits: 172 bytes an entry to round and split it.

    Seven sums a product are written, read and added in float64, 160 bytes, and scaled, 32.
    """
    pairs, blocks = _query_pairs(size)
    columns = min(DIGIT_COLUMNS, size.count)
    return Work(
        moved=(8 + 172) * size.entries,
        reused=(
            (DIGIT_PRODUCTS * size.entries * blocks, 4 * float(columns) * size.dim),
            (160 * pairs, 12 * float(QUERY_ROWS) * columns),
            ((32 + 120) * pairs, 8 * QUERY_ROWS * size.count),
        ),
        operations={
            "int8": DIGIT_PRODUCTS * 2 * pairs * size.dim,
            "float64": 20 * pairs,
            "conversions": 7 * pairs,
        },
        calls=(18 + 14 * ceil(size.count / columns)) * blocks + 32 * ceil(size.count / BLOCK),
    )


def _query_pairs(size: Size) -> tuple[float, int]:
    """Pairs of a query and any row, and blocks of queries."""
    queries = size.count / QUERY_SHARE
    return queries * size.count, ceil(queries / QUERY_ROWS)


@dataclass(frozen=True)
class Part:
    """A part of the pipeline.

    Attributes:
        name: In the table.
        work: Its work on an input.
        stages: The stages of ``stages.py`` that it is a part of.
        slow_float64: Whether it is for devices with slow float64 or for the others, unless for all.
    """

    name: str
    work: Callable[[Size], Work]
    stages: tuple[str, ...]
    slow_float64: bool | None = None

    def runs_on(self, slow_float64: bool) -> bool:
        """Whether a device with slow or fast float64 takes it."""
        return self.slow_float64 in (None, slow_float64)


PARTS = (
    Part("checks", check, (WHOLE, RANKING, RERANKING)),
    Part("preparation", prepare, (WHOLE, RANKING, RERANKING)),
    Part("product", multiply, (WHOLE, RANKING, RERANKING)),
    Part("candidates", collect, (WHOLE, RANKING, RERANKING)),
    Part("rows left to float16", multiply_left, (WHOLE, RANKING, RERANKING)),
    Part("exact scores", score, (WHOLE, RANKING, RERANKING)),
    Part("reciprocity, expansion", expand, (WHOLE, "k_reciprocal_neighbors", RERANKING)),
    Part("encoding", encode, (WHOLE, "encode_neighbors", RERANKING)),
    Part("query expansion", average, (WHOLE, "expand_queries", RERANKING)),
    Part("graph", prune, (WHOLE, "prune_distances")),
    Part("DBSCAN", cluster, (WHOLE, "dbscan")),
    Part("product alone", multiply_all, (PRODUCT,)),
    Part("dense distance", fill_dense, ("jaccard_distance",)),
    Part("dense distance of queries", fill_queries, (RERANKING,)),
    Part("re-ranking: products in float64", multiply_whole, (RERANKING,), slow_float64=False),
    Part("re-ranking: products in digits", multiply_digits, (RERANKING,), slow_float64=True),
)


def peak_bytes(size: Size) -> float:
    """Peak memory with the features: what lives at the worst of two moments."""
    c, count = size.counts, size.count
    features, ranks = 4 * size.entries, 16 * count * c.width
    lists = count * c.lists * (8 * c.capacity + 8)
    width = 1 if size.by_integers else 2
    ranking = width * size.entries + lists + 100 * count + 4 * TILE**2
    # Of the graph: the encoding, the rows of entries, sorted columns with their order and a copy,
    # entries by column; places for near rows.
    graph = count * c.expanded * (8 + 4 + 12 + 12 + 8) + count * (NEAR_SLOTS * 8 + 100)
    return features + ranks + max(ranking, graph)
