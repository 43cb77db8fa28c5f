"""Which rungs a ranking takes, from the scores of a small sample of rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mabm.distance.instructions import fast_int8_kernel
from mabm.distance.list_layout import ListLayout
from mabm.distance.projection import leading_directions, projection_on
from mabm.distance.quantization import MOST_DIMENSIONS, rotation_helps
from mabm.distance.rungs import (
    Measures,
    Rung,
    float_rung,
    product_error,
    projected_rung,
    projection_error,
    quantization_error,
    quantized_rung,
)
from mabm.distance.sides import Sides

# Rows whose scores are computed, and the most numbers that these scores may be.
_SAMPLE_ROWS = 32
_SAMPLE_SCORES = 1 << 24
# Rows that directions are found from.
_DIRECTION_ROWS = 512
# Numbers of directions to choose from; more are hardly faster than all dimensions.
_WIDTHS = (32, 64, 96, 128, 192, 256)
MOST_DIRECTIONS = _WIDTHS[-1]
# What a pair costs beside its product, and a candidate, in multiplications of a kernel: the
# comparison with two thresholds; scoring (by D times the first, plus the second).
_COMPARISON = 24
_CANDIDATE = (16, 8000)
# A list that is fuller after a cut overflows (csrc/ops/cpu/screen_lists.h).
_FULLEST = 7 / 8
# Multiplications of int8 for one of float32: every instruction set for them takes four at a time
# where it takes one float32.
_INT8_SPEED = 4
# Passes over the features to quantize them, in multiplications for each number; a rotation adds two
# matrix products.
_QUANTIZATION = 16
# Multiplications of all pairs below which a choice takes longer than it saves.
_LITTLE_WORK = 1 << 34


@dataclass(frozen=True)
class Plan:
    """The rungs of a ranking in their order, and the capacity of the lists of the first.

    Attributes:
        rungs: Functions that make each rung.
        capacity: Candidates of a row for each list.
        cells: (N,) int32, the same number for samples that are probably near each other; a guess,
            on which nothing but time depends.
    """

    rungs: list[Callable[[], Rung]]
    capacity: int
    cells: Tensor


@dataclass(frozen=True)
class _Option:
    """A rung that could be the first: its error relative to both lengths, and its costs."""

    error: float
    pair: int  # multiplications for a pair
    row: int  # multiplications for a row in advance
    make: Callable[[], Rung]
    passes: int = 2  # over all pairs (Rung.is_coarse)


def choose_rungs(
    x: Tensor, layout: ListLayout, measures: Measures, sides: Sides | None = None
) -> Plan:
    """Chooses the first rung by its predicted cost; finer ones follow, float32 last of all.

    Args:
        x: (N, D) float32, N > 0.
        layout: The lists of each row.
        measures: Those of the rows.
        sides: Rows that are compared with each other; ``None`` for all with all.
    """
    count, dim = x.shape
    # Samples whose pairs, all with all, would be as many as there are.
    size = count if sides is None else math.isqrt(2 * sides.num_pairs)
    make_whole = functools.partial(float_rung, x, measures)
    whole = _Option(product_error(dim), dim, 0, make_whole, passes=1)
    if not has_choice(size, dim):
        cells = torch.zeros_like(layout.groups)
        return Plan([whole.make], capacity_for(layout.widths, None), cells)
    all_rows = torch.arange(count, device=x.device) if sides is None else sides.rows(x.device)
    num_rows = min(_SAMPLE_ROWS, max(8, _SAMPLE_SCORES // count))
    places = len(all_rows) * torch.arange(num_rows, device=x.device) // num_rows
    rows = all_rows[places]
    quantized = _quantized(x, rows, measures)
    options = [*_projections(x, rows, measures), *quantized, whole]
    # Products with centered rows: those with the mean are the same for all columns of a row.
    scores = ((x[rows] - measures.center) * measures.unit) @ x.T * measures.unit
    cells = (scores / measures.centered[rows, None].clamp(min=1e-30)).argmax(dim=0)
    scores += measures.biases.to(torch.float32)
    known = _known_thresholds(layout, measures, rows, sides)
    reached = layout if sides is None else sides.apart(layout)
    errors = [each.error for each in options]
    needed = _needed_candidates(scores, reached, measures, rows, errors, known)
    columns = size * size / len(all_rows)  # of a row, twice what each pair computed once gives it
    if bool((known > -torch.inf).all()):
        options = [replace(each, passes=1) for each in options]  # none has to raise thresholds
    costs = [
        _cost(option, candidates, layout, dim, columns)
        for option, candidates in zip(options, needed, strict=True)
    ]
    best = min(range(len(options)), key=costs.__getitem__)
    chosen = [options[best]]
    if options[best] is not whole:
        chosen += [each for each in quantized if each.error < options[best].error]
        chosen.append(whole)
    rungs = [each.make for each in chosen]
    return Plan(rungs, capacity_for(layout.widths, needed[best]), cells.to(torch.int32))


def capacity_for(widths: list[int], needed: Tensor | None) -> int:
    """Places of a list: room for twice what most of a sample needed, and for the list itself."""
    least = 4 * max(widths) + 32
    if needed is None:
        return least
    typical = float(needed.flatten().kthvalue(max(1, int(0.95 * needed.numel()))).values)
    return int(max(least, min(_most_places(widths), 2 * typical + 32)))


def greatest_capacity(count: int, dim: int, widths: list[int]) -> int:
    """The most places of a list that a ranking of ``count`` samples may take at first."""
    return _most_places(widths) if has_choice(count, dim) else capacity_for(widths, None)


def _most_places(widths: list[int]) -> int:
    return 16 * max(widths) + 512


def has_choice(count: int, dim: int) -> bool:
    """Whether rungs are chosen, or the work is so little that float32 does all of it."""
    return count * count * dim >= _LITTLE_WORK and dim >= 2 * _WIDTHS[0]


def samples_with_choice(dim: int) -> int:
    """The fewest samples for which rungs are chosen, if D allows it."""
    return math.isqrt(_LITTLE_WORK // dim) + 1


def _projections(x: Tensor, rows: Tensor, measures: Measures) -> list[_Option]:
    """One option for each number of directions."""
    count, dim = x.shape
    kept = torch.ones(count, dtype=torch.bool, device=x.device)
    kept[rows] = False  # rows that directions are found from look better than they are
    others = kept.nonzero().flatten()
    others = others[:: max(1, len(others) // _DIRECTION_ROWS)][:_DIRECTION_ROWS]
    widths = [width for width in _WIDTHS if 2 * width <= min(dim, len(others))]
    if not widths:
        return []
    sample = (x[others] - measures.center) * measures.unit
    directions = leading_directions(sample, widths[-1])
    if directions is None or not bool(directions.isfinite().all()):
        return []
    projection = projection_on(directions)
    seen = projection.project(x[rows], measures.center, measures.unit).to(torch.float64).square()
    lengths = measures.centered[rows].square()
    options = []
    for width in widths:
        rest = (lengths - seen[:, :width].sum(1)).clamp(min=0) / lengths.clamp(min=1e-300)
        error = float(rest.mean()) + 2 * projection_error(projection) + product_error(width)
        make = functools.partial(_narrow_rung, x, measures, directions[:, :width])
        options.append(_Option(error, width, dim * width, make))
    return options


def _narrow_rung(x: Tensor, measures: Measures, directions: Tensor) -> Rung:
    return projected_rung(x, measures, projection_on(directions.contiguous()))


def _quantized(x: Tensor, rows: Tensor, measures: Measures) -> list[_Option]:
    """One option if the processor multiplies int8 faster than float32, else none."""
    if fast_int8_kernel() is None or x.shape[1] > MOST_DIMENSIONS:
        return []
    dim = x.shape[1]
    sample = x[rows]
    rotate = rotation_helps(sample, measures.center)
    passes = _QUANTIZATION + (4 * math.isqrt(dim) if rotate else 0)
    error = quantization_error(sample, measures, rotate=rotate)
    make = functools.partial(quantized_rung, x, measures, rotate=rotate)
    return [_Option(error, dim // _INT8_SPEED, passes * dim, make)]


def _known_thresholds(
    layout: ListLayout, measures: Measures, rows: Tensor, sides: Sides | None
) -> Tensor:
    """(rows, L) float32: what a score must exceed to be in a list; -inf if nothing is known."""
    area = torch.tensor(measures.area, dtype=torch.float64, device=rows.device)
    known = None if sides is None else sides.thresholds(rows, measures.offsets[rows], area)
    if known is None:
        shape = (len(rows), len(layout.widths))
        known = torch.full(shape, -torch.inf, dtype=torch.float32, device=rows.device)
    return known


def _needed_candidates(
    scores: Tensor,
    layout: ListLayout,
    measures: Measures,
    rows: Tensor,
    errors: list[float],
    known: Tensor,
) -> list[Tensor]:
    """(rows, L) float32 for each error: how many samples of each list are within it.

    The lists are those that something is known of; the layout may have more.
    """
    lengths = measures.centered.to(torch.float32)
    needed = [torch.zeros_like(known) for _ in errors]
    for at, row in enumerate(rows.tolist()):
        lists = layout.list_of_group[layout.groups[row].long()][layout.groups.long()]
        for number in range(known.shape[1]):
            width, least = layout.widths[number], known[at, number]
            members = (lists == number).nonzero().flatten()
            found = scores[at, members]
            if 0 < width < len(found):
                least = torch.maximum(least, found.topk(width).values[-1])
            if least == -torch.inf:
                for each in needed:
                    each[at, number] = len(found)
                continue
            gaps = (least - found) / (2 * lengths[row] * lengths[members]).clamp(min=1e-30)
            for each, error in zip(needed, errors, strict=True):
                each[at, number] = int((gaps <= error).sum())
    return needed


def _cost(option: _Option, needed: Tensor, layout: ListLayout, dim: int, columns: float) -> float:
    """Predicted multiplications for each row, of the columns that it is compared with."""
    capacity = capacity_for(layout.widths, needed)
    overflowed = (needed.amax(dim=1) > capacity * _FULLEST).float().mean()
    candidates = needed.clamp(max=capacity).sum(dim=1).mean() * (1 - overflowed)
    pairs = option.passes * columns / 2 * (option.pair + _COMPARISON)
    again = overflowed * columns * (dim + _COMPARISON)
    scoring = candidates * (_CANDIDATE[0] * dim + _CANDIDATE[1])
    return float(option.row + pairs + scoring + again)
