"""What the work of a GPU depends on beside the size of its input, counted on an input.

On a GPU the counts are of the route that it takes; on the CPU the same route is taken for the rows
of a sample, and the other stages return the same bits on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from stages import Prepared
from torch import Tensor

from mabm.distance.candidates import Candidates, Proposals
from mabm.distance.integer_products import IntegerProduct
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import HalfProduct

# Columns of a tile, and the sample of them that thresholds are guessed from: kSampleRuns and
# kSampleClasses in csrc/common/rows.h.
_TILE, _RUNS, _CLASSES = 8192, 64, 32
# Rows whose candidates are counted, and those whose lists are filled one by one.
_SAMPLE = 512
_FOLLOWED = 16


@dataclass(frozen=True)
class Counts:
    """Means per row of an input, unless said otherwise.

    Attributes:
        width: Ranked neighbors in all lists.
        lists: Lists.
        capacity: Places of a list of candidates, of 8-bit integers.
        candidates: Candidates of 8-bit integers that are scored exactly, in all lists.
        insertions: Candidates that are put into a list, most of them to be dropped later.
        unproven: Part of the rows that 8-bit integers leave to float16.
        half_candidates: As ``candidates``, of float16.
        half_insertions: As ``insertions``, of float16.
        half_unproven: Part of the rows that float16 leaves to exact scores.
        members: Members of E(i).
        listed: Part of these in the row's own lists.
        known: Part of these in the lists of either side.
        entries: Entries of V.
        averaged: Rows that are averaged.
        additions: Entries of these rows.
        expanded: Entries of V'.
        pairs: Entries of the columns that a row of V' has entries in.
        near: Near rows.
        crowded: Part of the rows with more near ones than the first pass has room for.
    """

    width: float
    lists: float
    capacity: float
    candidates: float
    insertions: float
    unproven: float
    half_candidates: float
    half_insertions: float
    half_unproven: float
    members: float
    listed: float
    known: float
    entries: float
    averaged: float
    additions: float
    expanded: float
    pairs: float
    near: float
    crowded: float


class WidenedProduct(IntegerProduct):
    """The product of 8-bit integers by float32 ones, for which CPUs are fast.

    Sums are exact up to 2^24: lengths of 2,048 entries that are nearly Gaussian multiply to less.
    """

    def multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Writes the (B, T) products of two operands to ``out``."""
        out.copy_(left.float() @ right.float().T)


def count_work(given: Prepared) -> Counts:
    """Counts on an input and the results of every stage on it."""
    count = len(given.features)
    ranks, ends = given.ranking.ranks, given.neighbors.indptr
    row_of = torch.repeat_interleave(ends.diff())
    columns = given.expanded.indices.long()
    per_column = torch.bincount(columns, minlength=count)
    averaged = torch.cat(given.ranking.lists(_AVERAGED), dim=1)
    near = given.graph.indptr.diff()
    return Counts(
        width=float(ranks.shape[1]),
        lists=float(len(given.ranking.widths)),
        **_of_candidates(given),
        members=len(row_of) / count,
        **_known(ranks, row_of, given.neighbors.indices.long()),
        entries=len(given.encoding.indices) / count,
        averaged=float(averaged.shape[1]),
        additions=float(given.encoding.indptr.diff()[averaged].sum()) / count,
        expanded=len(columns) / count,
        pairs=float(per_column[columns].sum()) / count,
        near=float(near.sum()) / count,
        crowded=float((near > _NEAR_SLOTS).double().mean()),
    )


# The defaults of the query expansion, and kNearSlots in csrc/kernels/jaccard.cuh.
_AVERAGED = 6
_NEAR_SLOTS = 256


def _known(ranks: Tensor, rows: Tensor, others: Tensor) -> dict[str, float]:
    """The parts of the pairs (rows, others) that are in lists of the rows, and in any."""
    count = len(ranks)
    pairs = torch.arange(count, device=ranks.device)[:, None] * count + ranks
    listed = torch.isin(rows * count + others, pairs)
    known = listed | torch.isin(others * count + rows, pairs)
    return {"listed": float(listed.double().mean()), "known": float(known.double().mean())}


def _of_candidates(given: Prepared) -> dict[str, float]:
    """Counts the candidates of a sample of rows by both products of a GPU."""
    x, preset = given.features, given.ranking.preset
    layout = ListLayout.of(x, given.modality, preset, given.ranking.k1)
    size = min(_SAMPLE, len(x))
    sample = torch.arange(size, device=x.device) * len(x) // size
    counts: dict[str, float] = {}
    for prefix, product in (("", _integer_product(x)), ("half_", HalfProduct(x))):
        proposals = Proposals(x, layout, product, euclidean=preset.metric == "euclidean")
        ((_, found),) = proposals.of_rows(sample)
        proven = (found.counts >= 0).all(dim=1)
        counted = torch.nonzero(proven).flatten()
        followed = counted[:: max(len(counted) // _FOLLOWED, 1)]
        inserted = _insertions(x, layout, sample, followed, found, float(product.unit))
        counts |= {
            "capacity": max(counts.get("capacity", 0.0), float(found.indices.shape[2])),
            f"{prefix}candidates": _scored(x, layout, sample, counted, found),
            f"{prefix}insertions": inserted,
            f"{prefix}unproven": float((~proven).double().mean()),
        }
    return counts


def _integer_product(x: Tensor) -> IntegerProduct:
    return IntegerProduct(x) if x.is_cuda else WidenedProduct(x)


def _scored(
    x: Tensor, layout: ListLayout, sample: Tensor, counted: Tensor, found: Candidates
) -> float:
    """Scores the candidates of some rows as a GPU does; the mean number of those that are scored.

    First the ``width`` with the greatest bounds, then those whose bounds the last of these leaves
    in reach. By inner product.
    """
    total = 0
    for place in counted.tolist():
        row, offset = x[sample[place]].double(), found.offsets[place]
        for number, width in enumerate(layout.widths):
            length = int(found.counts[place, number])
            bounds = found.scores[place, number, :length]
            first = bounds.topk(min(width, length))
            nearest = found.indices[place, number, first.indices].long()
            reachable = (x[nearest].double() @ row).min() * found.area - offset
            is_scored = (bounds >= first.values[-1]) | (bounds >= reachable)
            total += int(is_scored.sum()) if length > width else length
    return total / max(len(counted), 1)


def _insertions(
    x: Tensor, layout: ListLayout, sample: Tensor, followed: Tensor, found: Candidates, unit: float
) -> float:
    """Fills the lists of some rows one by one, columns ascending; the mean of all insertions."""
    scores = (x[sample[followed]] @ x.T).cpu()
    groups, lists = layout.groups.cpu(), layout.list_of_group.cpu()
    total = 0
    for row, place in zip(scores, followed.tolist(), strict=True):
        list_of = lists[groups[sample[place]]][groups]
        for number, width in enumerate(layout.widths):
            kept = found.scores[place, number, : int(found.counts[place, number])]
            # What a cut leaves out scores less than the last of the list by more than the gap.
            gap = float(kept.topk(width).values[-1] - found.thresholds[place, number]) / unit
            own = row.where(list_of == number, -torch.inf)
            total += _filled(own, width, gap, found.indices.shape[2])
    return total / max(len(followed), 1)


def _filled(scores: Tensor, width: int, gap: float, capacity: int) -> int:
    """The number of scores that are put into a list, which is cut where it is full."""
    threshold, total = _guess(scores, width) - gap, 0
    scores = scores[scores > -torch.inf]
    kept = scores[:0]
    while len(scores):
        places = torch.nonzero(scores >= threshold).flatten()[: capacity - len(kept)]
        total += len(places)
        kept = torch.cat([kept, scores[places]])
        if len(kept) < capacity:
            break
        scores = scores[int(places[-1]) + 1 :]
        threshold = max(threshold, float(kept.topk(width).values[-1]) - gap)
        kept = kept[kept >= threshold]
    return total


def _guess(scores: Tensor, width: int) -> float:
    """A score that the width-th best is no less than, from a sample of the first tile with any.

    The sample has runs of neighboring columns; those of a place in their run are one class.
    """
    tiles = [tile for tile in scores.split(_TILE) if tile.max() > -torch.inf]
    stride = max(len(tiles[0]) // _RUNS, _CLASSES)
    columns = torch.arange(_RUNS)[:, None] * stride + torch.arange(_CLASSES)
    sampled = tiles[0][columns.clamp(max=len(tiles[0]) - 1)]
    best = sampled.where(columns < len(tiles[0]), -torch.inf).amax(dim=0)
    return float(best.topk(width).values[-1]) if width <= _CLASSES else -torch.inf
