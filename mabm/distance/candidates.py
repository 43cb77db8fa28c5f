"""Candidates for a ranking, from a fast matrix product and a bound on its rounding error.

The product is computed from centered rows. With ``x_j = m + d_j`` for any vector ``m``,

    x_i . x_j             = d_i . d_j + m . d_j     + a term that depends only on row i
    - |x_i - x_j|^2 / 2   = d_i . d_j - |d_j|^2 / 2 + a term that depends only on row i

so one product and one bias per column order the columns of a row as the exact scores do. If ``m``
is the mean of the rows and all rows are close together, the products are small, and so is their
rounding error, which would otherwise blur the order of such rows.

On the CPU the operands are float32; on a GPU they are float16, scaled to use its range, and their
products are summed in float32, at the full rate of the matrix units (``products.py``). Where a GPU
multiplies 8-bit integers faster, these come first (``integer_products.py``), and float16 for the
rows that they leave unproven.

The matrix of products is symmetric. Each of its tiles on and above the diagonal is computed once
and scanned by rows and by columns, so that a sample's list sees the columns in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from mabm._core.device_memory import available_bytes
from mabm._core.padding import OPERAND_STEP, padded_size
from mabm._core.work import QUIET, Work
from mabm.distance.integer_products import IntegerProduct, wants_integers
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import Product, product_of
from mabm.distance.score_terms import score_terms
from mabm.distance.sides import Sides

# One tile of scores, 64 MB: enough rows and columns for a matrix product to run at full speed and
# for the centering of its operands to be cheap in comparison.
_TILE = 4096
# On a GPU up to 256 MB, to keep its matrix units busy, and a warp for each row and column; the
# largest part of its free memory that a tile may use; and the number that its sides are a multiple
# of.
_GPU_TILE = 8192
_GPU_SHARE = 16
_GPU_STEP = 256
# The largest part of the free memory that the lists of all rows may take together.
_LISTS_SHARE = 4
# Rows that decide whether a product proves enough, and the part of them that may be left unproven:
# what is left is multiplied with all columns at twice the cost, and not in half of the tiles.
_SAMPLE = 256
_MOST_UNPROVEN = 0.125
# Memory for the candidates of one row block; many groups make the block shorter.
_CANDIDATE_BYTES = 64 << 20
_GPU_CANDIDATE_BYTES = 512 << 20
# Under a memory limit: the smallest side of a tile; the numbers kept for each sample, such as
# groups, biases and bounds; and the buffers of the matrix product and of the allocator.
_LEAST_TILE = OPERAND_STEP
_ROW_BYTES = 160
_LIBRARY_BYTES = 16 << 20


class Candidates(NamedTuple):
    """Candidates of B rows for each of L lists, each with all samples that may belong to it.

    Attributes:
        scores: (B, L, C) float32, approximate.
        indices: (B, L, C) int32.
        counts: (B, L) int32, the number of candidates in each list; -1 if the list overflowed, and
            what it contains is unspecified.
        thresholds: (B, L) float32: samples whose approximate score is lower were dropped, because
            they cannot belong to the list; inf if the list overflowed.
        offsets: (B,) float64: an exact score ``s`` of a row is at most ``(score + offset) / area``.
        area: Scalar float64, positive.
        rung: What was multiplied.
    """

    scores: Tensor
    indices: Tensor
    counts: Tensor
    thresholds: Tensor
    offsets: Tensor
    area: Tensor
    rung: str

    @classmethod
    def none_yet(
        cls,
        gaps: Tensor,
        offsets: Tensor,
        area: Tensor,
        places: tuple[int, int],
        rung: str,
        thresholds: Tensor | None = None,
    ) -> Candidates:
        """Empty lists; those of rows without a finite gap count as overflowed.

        Args:
            gaps: (B,) float32.
            offsets: (B,) float64.
            area: Scalar float64.
            places: The number of lists of a row, and the capacity of a list.
            rung: What is multiplied.
            thresholds: (B, L) float32, what lists begin with; by default they take everything.
        """
        num_lists, capacity = places
        shape, bounded = (len(gaps), num_lists), gaps.isfinite()[:, None]
        counts = torch.where(bounded, 0, -1).to(torch.int32)
        if thresholds is None:
            thresholds = torch.full_like(gaps, -torch.inf)[:, None].expand(shape)
        return cls(
            gaps.new_empty((*shape, capacity)),
            counts.new_empty((*shape, capacity)),
            counts.expand(shape).contiguous(),
            thresholds.masked_fill(~bounded, torch.inf),
            offsets,
            area,
            rung,
        )

    def of(self, rows: slice) -> Candidates:
        """The candidates of some rows, in the same memory."""
        scores, indices, counts, thresholds, offsets = (part[rows] for part in self[:5])
        return Candidates(scores, indices, counts, thresholds, offsets, self.area, self.rung)


Blocks: TypeAlias = Iterator[tuple[Tensor, Candidates]]


def propose_candidates(
    x: Tensor,
    layout: ListLayout,
    euclidean: bool,
    trusted: bool = False,
    work: Work = QUIET,
    sides: Sides | None = None,
) -> Blocks:
    """Yields blocks of row numbers (B,) with the candidates of these rows.

    Every row comes at least once, in ascending order, or those of the first side and then those of
    the second. Rows with a list that overflowed may come once more at the end, from a product that
    is slower and more precise; then that counts.

    Args:
        x: (N, D) float32, contiguous, N > 0.
        layout: The lists of each row.
        euclidean: Whether rows are compared by Euclidean distance instead of inner product.
        trusted: Whether approximate scores count as exact: lists are no longer than their widths.
        work: Memory limit, which tiles and candidates keep.
        sides: Rows that are compared with each other; ``None`` for all with all.

    Raises:
        MemoryError: The limit does not allow the smallest tile.
    """
    if not trusted and wants_integers(x):
        integers = Proposals(x, layout, IntegerProduct(x), euclidean, trusted, work, sides)
        if integers.prove_enough():
            overflowed: list[Tensor] = []
            numbers: list[Tensor] = []
            for rows, candidates in integers.of_all_rows():
                yield rows, candidates
                numbers.append(rows)
                overflowed.append((candidates.counts < 0).any(dim=1))
            del integers, candidates  # their memory is free for what comes next
            unproven = torch.cat(numbers)[torch.cat(overflowed)]  # waits for the device, once
            if len(unproven):
                product = product_of(x)
                proposals = Proposals(x, layout, product, euclidean, trusted, work, sides)
                yield from proposals.of_rows(unproven)
            return
        del integers
    yield from Proposals(x, layout, product_of(x), euclidean, trusted, work, sides).of_all_rows()


class Proposals:
    """Candidates by one product; the arguments are those of :func:`propose_candidates`."""

    def __init__(
        self,
        x: Tensor,
        layout: ListLayout,
        product: Product,
        euclidean: bool,
        trusted: bool = False,
        work: Work = QUIET,
        sides: Sides | None = None,
    ) -> None:
        self._count, self._device = len(x), x.device
        self._layout, self._product, self._sides = layout, product, sides
        self._terms = score_terms(x, product, euclidean)
        self._gaps = _gaps(self._terms.bounds, trusted)
        self._block, self._side = tile_shape(x, layout.widths, product.room, work)
        kept = _list_bytes(layout.widths, product.room) * len(x)
        self._fits = kept <= (available_bytes(x.device) or 0) // _LISTS_SHARE
        if work.max_memory is not None:
            side = min(self._side, len(x))
            needed = tile_bytes(x, layout.widths, product.room, side, side, num_listed=len(x))
            self._fits = self._fits and needed <= work.max_memory

    def of_all_rows(self) -> Blocks:
        """Yields all rows. Every product is computed once, if the lists of all rows fit."""
        if not self._fits:
            yield from self.of_rows(self._rows())
            return
        every = self._none_yet(slice(None))
        tile = self._new_tile(self._side, self._side)
        whole = slice(0, self._count)
        first, second = (whole, whole) if self._sides is None else self._sides.ranges
        for number, rows in enumerate(self._tiles(first)):
            left = self._operand(rows)
            for columns in self._tiles(second)[0 if self._sides else number :]:
                right = self._operand(columns) if columns != rows else left
                products = self._multiply(left, right, tile)
                self._collect(products, rows, columns, every.of(rows), columns.stop == second.stop)
                if columns != rows:
                    last = rows.stop == first.stop
                    self._collect(products, columns, rows, every.of(columns), last, transposed=True)
            yield torch.arange(rows.start, rows.stop, device=self._device), every.of(rows)
        for rows in self._tiles(second) if self._sides else []:
            yield torch.arange(rows.start, rows.stop, device=self._device), every.of(rows)

    def of_rows(self, rows: Tensor) -> Blocks:
        """Yields some rows, block by block, each compared with all columns, or the other side.

        Args:
            rows: (B,) int64, row numbers.
        """
        tile = self._new_tile(min(self._block, len(rows)), self._side)
        for those, others in self._opposites(rows):
            for chosen in torch.split(those, self._block):
                left = self._product.operand(chosen)
                candidates = self._none_yet(chosen)
                for columns in self._tiles(others):
                    products = self._multiply(left, self._operand(columns), tile)
                    last = columns.stop == others.stop
                    self._collect(products, chosen, columns, candidates, last)
                yield chosen, candidates

    def prove_enough(self) -> bool:
        """Whether few lists of a sample of rows overflow; waits for the device."""
        rows = None if self._sides is None else self._sides.rows(self._device)
        count = self._count if rows is None else len(rows)
        size = min(_SAMPLE, count)
        places = torch.arange(size, device=self._device) * count // size
        sample = places if rows is None else rows[places]
        overflowed = [(found.counts < 0).any(dim=1) for _, found in self.of_rows(sample)]
        return float(torch.cat(overflowed).double().mean()) <= _MOST_UNPROVEN

    def _rows(self) -> Tensor:
        """(B,) int64, all rows, or those of both sides."""
        if self._sides is None:
            return torch.arange(self._count, device=self._device)
        return self._sides.rows(self._device)

    def _opposites(self, rows: Tensor) -> list[tuple[Tensor, slice]]:
        """The rows, with all columns; or those of each side, with the other one."""
        if self._sides is None:
            return [(rows, slice(0, self._count))]
        pairs = zip(self._sides.split(rows), self._sides.ranges[::-1], strict=True)
        return [(those, others) for those, others in pairs if len(those)]

    def _tiles(self, part: slice) -> list[slice]:
        """A range of samples in parts that are a side of a tile."""
        starts = range(part.start, part.stop, self._side)
        return [slice(start, min(start + self._side, part.stop)) for start in starts]

    def _operand(self, rows: slice) -> Tensor:
        """The operand of a range of samples that may start anywhere."""
        if rows.start % self._product.step == 0:
            return self._product.operand(rows)
        return self._product.operand(torch.arange(rows.start, rows.stop, device=self._device))

    def _none_yet(self, rows: slice | Tensor) -> Candidates:
        widths, product, terms = self._layout.widths, self._product, self._terms
        places = len(widths), _capacity(widths, product.room)
        offsets, area, sides = terms.offsets[rows], terms.area, self._sides
        thresholds = None if sides is None else sides.thresholds(rows, offsets, area)
        return Candidates.none_yet(
            self._gaps[rows], offsets, area, places, product.name, thresholds
        )

    def _new_tile(self, num_rows: int, num_columns: int) -> Tensor:
        """Memory for a tile of products, no larger than all of them."""
        height, width = (
            padded_size(min(size, self._count), self._product.step)
            for size in (num_rows, num_columns)
        )
        return torch.empty(height * width, dtype=self._product.dtype, device=self._device)

    def _multiply(self, left: Tensor, right: Tensor, tile: Tensor) -> Tensor:
        """The products of two operands, in the memory of a tile."""
        products = tile[: len(left) * len(right)].view(len(left), len(right))
        self._product.multiply(left, right, products)
        return products

    def _collect(
        self,
        products: Tensor,
        rows: slice | Tensor,
        columns: slice,
        candidates: Candidates,
        last: bool,
        *,
        transposed: bool = False,
    ) -> None:
        """Adds a tile to the lists of its rows; cuts them if these are the last columns."""
        layout, scales = self._layout, self._product.scales
        torch.ops.mabm.collect_candidates_(
            products,
            self._terms.biases[columns],
            layout.groups[rows],
            layout.groups[columns],
            layout.list_of_group,
            columns.start,
            self._gaps[rows],
            layout.widths,
            last,
            transposed,
            None if scales is None else scales[rows],
            None if scales is None else scales[columns],
            *candidates[:4],
        )


def tile_shape(x: Tensor, widths: list[int], room: int = 1, work: Work = QUIET) -> tuple[int, int]:
    """Rows and columns of a tile of scores, for lists of these lengths and this room.

    Raises:
        MemoryError: The memory limit does not allow the smallest tile.
    """
    side, candidate_bytes = _tile_side(x.device), _CANDIDATE_BYTES
    if x.is_cuda:
        candidate_bytes = min(_GPU_CANDIDATE_BYTES, 4 * side * side)
    rows = candidate_bytes // _list_bytes(widths, room)
    rows = max(1, min(side, len(x), rows))
    if work.max_memory is None:
        return rows, side
    needed = tile_bytes(x, widths, room, rows, side)
    while needed > work.max_memory and max(rows, side) > _LEAST_TILE:
        rows, side = (rows, _half(side)) if side > rows else (rows // 2, side)
        needed = tile_bytes(x, widths, room, rows, side)
    what = f"ranking {len(x)} samples of {x.shape[1]} dimensions"
    work.less(needed, what, "raise max_memory or lower k1")
    return rows, side


def tile_bytes(
    x: Tensor, widths: list[int], room: int, rows: int, side: int, num_listed: int | None = None
) -> int:
    """Peak of the ranking beyond its result, in bytes: of all samples and of a tile of scores.

    Args:
        x: (N, D).
        widths: Length of each list.
        room: That of the product (``products.py``).
        rows: Rows of a tile, which are ranked together.
        side: Columns of a tile.
        num_listed: Rows whose lists are kept at a time; by default those of a tile.
    """
    count, dim = x.shape
    height, width = padded_size(min(rows, count)), padded_size(min(side, count))
    copy = 2 * padded_size(count) * padded_size(dim) if x.is_cuda else 0  # in float16
    of_all = _ROW_BYTES * count + copy
    operands = 4 * padded_size(dim) * (height + width)
    lists = _list_bytes(widths, room) * (rows if num_listed is None else num_listed)
    # Exact scores and the numbers of what is scored; ranks and their scores.
    ranked = rows * (12 * _capacity(widths, room) + 16 * sum(widths))
    return of_all + 4 * height * width + operands + lists + ranked + _LIBRARY_BYTES


def _list_bytes(widths: list[int], room: int) -> int:
    """Bytes of the lists of a row: scores and indices, and the counts and thresholds."""
    return 8 * len(widths) * (_capacity(widths, room) + 1)


def _half(side: int) -> int:
    """Half the side of a tile, such that operands start at multiples of their step."""
    return max(side // 2 // OPERAND_STEP * OPERAND_STEP, OPERAND_STEP)


def _capacity(widths: list[int], room: int) -> int:
    """Candidates of a row for each list: room for some near ones, and for several between cuts."""
    return 2 * room * (2 * max(widths) + 16)


def _tile_side(device: torch.device) -> int:
    """Rows and columns of a tile of scores; on a GPU limited by its free memory."""
    if device.type != "cuda":
        return _TILE
    free = available_bytes(device) or 0
    side = math.isqrt(free // _GPU_SHARE // 4) // _GPU_STEP * _GPU_STEP
    return max(_GPU_STEP, min(_GPU_TILE, side))


def _gaps(bounds: Tensor, trusted: bool) -> Tensor:
    """(N,) float32, rounded up: how far apart approximate scores prove the order of exact ones.

    Negative where scores are trusted; inf where nothing bounds their error in either case.
    """
    gaps = (2 * bounds).to(torch.float32)
    gaps = gaps.nextafter(torch.full_like(gaps, torch.inf))
    return gaps.masked_fill(gaps.isfinite(), -1.0) if trusted else gaps
