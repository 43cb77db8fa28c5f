"""Candidates of every row on the CPU, proven complete.

A *rung* scores all pairs cheaply, with a bound on each error (``rungs.py``). The op
``screen_pairs_`` does so for two blocks of samples and keeps, in lists of each row, what may be in
the ranking; ``csrc/ops/cpu/screening.cpp`` has the proof. A row with more candidates than a list
has places overflows: nothing is known of it, and the next rung screens it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mabm._core.precision import without_autocast
from mabm._core.work import Advance
from mabm.distance.instructions import fast_int8_kernel
from mabm.distance.list_layout import ListLayout
from mabm.distance.rung_choice import (
    MOST_DIRECTIONS,
    capacity_for,
    choose_rungs,
    greatest_capacity,
)
from mabm.distance.rungs import Rung, measure
from mabm.distance.sides import Sides

# Bytes of one packed block of samples, and multiplications of a call, a fraction of a second of
# work: between calls progress is reported.
_BLOCK_BYTES = 32 << 20
_PRODUCTS_AT_ONCE = 2**34
_TILE = 192  # csrc/common/screening.h
# Whether thresholds are raised and candidates are collected in each pass over all pairs.
_FINE_PASSES = ((True, True),)
_COARSE_PASSES = ((True, False), (False, True))
# Bytes of the lists of rows that an earlier rung left.
_REST_BYTES = 64 << 20
# Bytes of the lists of all rows at once. Beyond it, with very many samples, groups or neighbors,
# rows are screened in parts, each against all samples.
_LIST_BYTES = 4 << 30
# Rows that are faster ranked by exact scores than screened again.
_FEW_ROWS = 64
# Error bounds of precision "fast" as a share of the proven ones: rests of rows hardly ever point
# the same way.
_FAST_SHARE = 1 / 8
# Buffers of the matrix product and of the allocator.
_LIBRARY_BYTES = 16 << 20


class Proposal(NamedTuple):
    """Candidates of B rows for each of L lists, each with all samples that may belong to it.

    Attributes:
        rung: What proposed them.
        rows: (B,) int64.
        candidates: (B, L, C) int32.
        counts: (B, L) int32, the number of candidates in each list; -1 for all lists of a row if
            one of them overflowed.
        bounds: (B, L, C) float32, upper bounds on the scores of candidates: a score ``s`` is at
            most ``(bound + offset) / area``; ``None`` if all candidates are to be scored.
        offsets: (B,) float64, of each row; ``None`` without bounds.
        area: Scalar float64, positive; ``None`` without bounds.
    """

    rung: str
    rows: Tensor
    candidates: Tensor
    counts: Tensor
    bounds: Tensor | None = None
    offsets: Tensor | None = None
    area: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ScreenLists:
    """L lists for each of B rows, with C places, in the making.

    Attributes:
        rows: (B,) int32.
        bounds: (B, L, C) float32, upper bounds of the candidates.
        candidates: (B, L, C) int32.
        counts: (B, L) int32; -1 for all lists of a row if one of them overflowed.
        lower_bounds: (B, L, W) float32, the W greatest lower bounds seen, W the longest width.
        thresholds: (B, L) float32; what has this upper bound or a lower one is dropped.
    """

    rows: Tensor
    bounds: Tensor
    candidates: Tensor
    counts: Tensor
    lower_bounds: Tensor
    thresholds: Tensor

    @classmethod
    def empty(
        cls, rows: Tensor, widths: list[int], capacity: int, thresholds: Tensor | None = None
    ) -> ScreenLists:
        """Lists without candidates, for rows (B,) int32; by default all is taken at first."""
        shape = (len(rows), len(widths))
        if thresholds is None:
            thresholds = torch.full(shape, -torch.inf, dtype=torch.float32, device="cpu")
        return cls(
            rows,
            torch.empty((*shape, capacity), dtype=torch.float32, device="cpu"),
            rows.new_empty((*shape, capacity)),
            rows.new_zeros(shape),
            torch.full((*shape, max(widths)), -torch.inf, dtype=torch.float32, device="cpu"),
            thresholds,
        )

    def parts(self) -> tuple[Tensor, ...]:
        """The lists in the order of ``mabm::screen_pairs_``."""
        return self.bounds, self.candidates, self.counts, self.lower_bounds, self.thresholds


def screen(
    x: Tensor,
    layout: ListLayout,
    euclidean: bool,
    fast: bool,
    max_memory: int | None,
    advance: Advance,
    sides: Sides | None = None,
) -> Iterator[Proposal]:
    """Yields candidates of all rows; those of overflowed rows again from the next rung, if any.

    Args:
        x: (N, D) float32, contiguous, N > 0.
        layout: The lists of each row.
        euclidean: Whether rows are compared by Euclidean distance instead of inner product.
        fast: Whether to take smaller bounds, which prove nothing.
        max_memory: Bytes that lists may take, or ``None``.
        advance: Called with the number of rows done.
        sides: Rows that are compared with each other; ``None`` for all with all.
    """
    with without_autocast(x.device):
        measures = measure(x, euclidean)
        area = torch.tensor(measures.area, dtype=torch.float64, device=x.device)
        plan = choose_rungs(x, layout, measures, sides)
    # Samples of a group side by side, so that a tile rarely has columns of two lists; within a
    # group those of a cell, so that lists fill with near samples early.
    groups = layout.groups.to(torch.int64)
    order = (groups * (1 << 31) + plan.cells).argsort(stable=True).to(torch.int32)
    if sides is not None:
        order = torch.cat(sides.split(order))
    capacity, left = plan.capacity, order
    for number, make in enumerate(plan.rungs):
        with without_autocast(x.device):
            rung = make().narrowed(_FAST_SHARE) if fast else make()
        unproven = []
        for rows in _row_blocks(left, layout, capacity, max_memory, is_first=number == 0):
            numbers = rows.to(torch.int64)
            offsets = measures.offsets[numbers]
            thresholds = None if sides is None else sides.thresholds(numbers, offsets, area)
            lists = ScreenLists.empty(rows, layout.widths, capacity, thresholds)
            fill_lists(lists, rung, layout, order, max_memory, advance, sides)
            yield Proposal(
                rung.name,
                numbers,
                lists.candidates,
                lists.counts,
                lists.bounds,
                offsets,
                area,
            )
            unproven.append(rows[(lists.counts < 0).any(dim=1)])
        left = torch.cat(unproven)
        if len(left) < _FEW_ROWS:
            return
        capacity = 8 * capacity_for(layout.widths, None)


def screen_bytes(x: Tensor, widths: list[int], max_memory: int | None) -> int:
    """Memory of a screen under a limit but for its lists, of which it has the shortest, in bytes.

    Of each sample: measures and bounds, scores of the rows that choose the rungs, and an operand of
    at most ``MOST_DIRECTIONS``. Of all: two packed blocks, and the shortest lists.
    """
    count, dim = x.shape
    of_sample = 320 + 12 * 64 + 4 * min(dim, MOST_DIRECTIONS)
    block = min(_block_bytes(max_memory), 4 * dim * max(count, _TILE))
    lists = 2 * _TILE * len(widths) * (8 * capacity_for(widths, None) + 8)
    return count * of_sample + 2 * max(block, 4 * dim * _TILE) + lists


def screen_peak(count: int, dim: int, widths: list[int]) -> int:
    """Most memory of a ranking on the CPU without a limit, beside its result, in bytes.

    Assumes that a first rung leaves at most a quarter of the rows. It needs either long lists or
    all dimensions, never both: errors of float32 products are too small for long lists.
    """
    block = min(_BLOCK_BYTES, 4 * dim * max(count, _TILE))
    directions = min(dim, MOST_DIRECTIONS)
    greatest, least = greatest_capacity(count, dim, widths), capacity_for(widths, None)
    choosing = count * 12 * 32 + 32 * dim * directions  # scores of a sample; directions, and copies
    whole = min(_LIST_BYTES, count * _row_list_bytes(widths, least)) + 2 * block
    again = min(_REST_BYTES // 2, count // 4 * _row_list_bytes(widths, 8 * least))
    operands = 4 * directions + (dim + 64 if fast_int8_kernel() else 0)
    narrow = (
        count * operands
        + min(_LIST_BYTES, count * _row_list_bytes(widths, greatest))
        + 4 * dim * directions
        + again
        + block * 5 // 4
    )
    of_each = 320 + 16 * sum(widths)  # measures; the part of the result that an op returns
    beside = narrow if greatest > least else 0
    return count * of_each + max(choosing, whole, beside) + _LIBRARY_BYTES


def _row_list_bytes(widths: list[int], capacity: int) -> int:
    """Memory of the lists of a row as they fill."""
    return len(widths) * (8 * capacity + 4 * max(widths) + 8)


def _block_bytes(max_memory: int | None) -> int:
    """Bytes of a packed block: of a limited memory a small part."""
    return _BLOCK_BYTES if max_memory is None else min(_BLOCK_BYTES, max_memory // 8)


def _row_blocks(
    rows: Tensor, layout: ListLayout, capacity: int, max_memory: int | None, is_first: bool
) -> tuple[Tensor, ...]:
    """Rows whose lists are made at a time: all of them, unless that takes too much memory."""
    limit = _LIST_BYTES if is_first else _REST_BYTES // 2
    if max_memory is not None:
        limit = min(limit, max_memory // 2)
    return torch.split(rows, max(_TILE, limit // _row_list_bytes(layout.widths, capacity)))


def fill_lists(
    lists: ScreenLists,
    rung: Rung,
    layout: ListLayout,
    order: Tensor,
    max_memory: int | None,
    advance: Advance,
    sides: Sides | None = None,
) -> None:
    """Screens the rows of the lists against all samples, or their sides, and cuts the lists."""
    count, dim = rung.operands.shape
    side = min(_block_bytes(max_memory) // (rung.operands.element_size() * max(dim, 1)), 1 << 14)
    while side > _TILE and side * side * dim > _PRODUCTS_AT_ONCE:
        side //= 2
    side = max(_TILE, side // _TILE * _TILE)
    places = order.new_full((count,), -1)
    places[lists.rows.to(torch.int64)] = torch.arange(
        len(lists.rows), dtype=torch.int32, device="cpu"
    )
    mirrored = len(lists.rows) == len(order)
    # Thresholds that are there from the start need not rise first.
    are_open = bool((lists.thresholds == -torch.inf).any())
    for raises, collects in _COARSE_PASSES if rung.is_coarse and are_open else _FINE_PASSES:
        for rows, columns in _pairs_of_blocks(lists.rows, order, sides, side):
            for others in columns:
                torch.ops.mabm.screen_pairs_(
                    *rung.parts(),
                    layout.groups,
                    layout.list_of_group,
                    layout.widths,
                    rows,
                    others,
                    places,
                    mirrored,
                    raises,
                    collects,
                    *lists.parts(),
                )
            if collects:
                advance(len(rows))
    torch.ops.mabm.cut_candidates_(lists.bounds, lists.candidates, lists.counts, lists.thresholds)


def _pairs_of_blocks(
    rows: Tensor, order: Tensor, sides: Sides | None, size: int
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Blocks of rows, each with the blocks that it is compared with.

    If the rows are all there are, each pair comes once, for the lists of both samples.
    """
    are_all = len(rows) == len(order)
    if sides is None:
        blocks = torch.split(rows, size)
        for number, block in enumerate(blocks):
            yield block, blocks[number:] if are_all else torch.split(order, size)
        return
    (first, second), others = sides.split(rows), sides.split(order)
    for block in torch.split(first, size):
        yield block, torch.split(others[1], size)
    for block in () if are_all else torch.split(second, size):
        yield block, torch.split(others[0], size)
