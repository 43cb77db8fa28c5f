"""Ops on some of the rows, compared with these rows of what they give for all."""

from typing import Any

import torch
from cases import Case
from torch import Tensor

import mabm
from mabm.distance.encoding import averaged_rows
from mabm.distance.neighbors import half_list
from mabm.distance.ranking import rank


def rows_of(starts: Tensor, *columns: Tensor, rows: slice) -> list[Tensor]:
    """CSR of some rows."""
    first, last = int(starts[rows.start]), int(starts[rows.stop])
    return [starts[rows.start : rows.stop + 1] - first, *(each[first:last] for each in columns)]


def check_some_rows(case: Case, ops: Any) -> None:
    x, groups = torch.from_numpy(case.features), torch.from_numpy(case.modality)
    some = slice(len(x) // 3, len(x) // 3 + (len(x) + 1) // 2)
    numbers = torch.arange(len(x))[some]
    ranking = rank(x, groups, case.preset, case.k1)
    ranks = ranking.ranks
    mask = ops.reciprocal_mask(ranks)
    assert torch.equal(ops.reciprocal_mask(ranks, numbers.flip(0)), mask[some].flip(0))

    half = half_list(ranking)
    half = ranks[:, :0].contiguous() if half is None else half
    half_mask = ops.reciprocal_mask(half)
    sets = ops.expand_neighbors(ranks, mask, half, half_mask)
    found = ops.expand_neighbors(ranks[some], mask[some], half, half_mask)
    check_equal(found, rows_of(*sets, rows=some))

    encoding = ops.encode_neighbors(x, *sets, None, None)
    rows, weights = averaged_rows(ranking, groups, min(case.k2, 3))
    averaged = ops.average_encodings(*encoding, rows, weights)
    found = ops.average_encodings(*encoding, rows[some], weights[some])
    check_equal(found, rows_of(*averaged, rows=some))

    # Pairs within the rows: those of the graph of all that are among them.
    graph = mabm.NeighborGraph.unchecked(*ops.jaccard_graph(*averaged, 0.7), 0.7)
    near = ops.jaccard_graph(*rows_of(*averaged, rows=some), 0.7, len(x))
    starts, indices, distances = rows_of(*graph.tensors(), rows=some)
    is_among = (indices >= some.start) & (indices < some.stop)
    sizes = torch.zeros(len(starts) - 1, dtype=torch.int64)
    sizes.index_add_(0, torch.repeat_interleave(starts.diff()), is_among.long())
    expected = [sizes, indices[is_among] - some.start, distances[is_among]]
    check_equal([near[0].diff(), *near[1:]], expected)


def check_equal(found: Any, expected: Any) -> None:
    for part, wanted in zip(found, expected, strict=True):
        assert torch.equal(part, wanted)
