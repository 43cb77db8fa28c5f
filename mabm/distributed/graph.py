"""The pruned graph of the rows of each process (method step 6).

Of two processes, one finds the pairs between their rows (``halves.py``). It asks for the rows that
share enough weight with the columns of its own ones, as only these can be near, and sends the pairs
that it found back.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Work
from mabm.distance.graph import NeighborGraph
from mabm.distance.rows import Encoding
from mabm.distributed.exchange import least_of
from mabm.distributed.fetching import entries_of, rows_of_entries, starts_of
from mabm.distributed.halves import meetings
from mabm.distributed.numbering import Numbering
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team

# Rows of another process visit in parts, so that they take little memory beside the own ones; more
# parts take more messages.
_MOST_PARTS = 4
_PART_ROWS = 4096
# Relative room for rounding in the least overlap of near rows, as in csrc/common/fixed_point.h.
_ROUNDING = 1e-12


class _Pairs(NamedTuple):
    """M near pairs: int32 rows of this process, int32 samples, float32 distances."""

    rows: Tensor
    samples: Tensor
    distances: Tensor

    def packed(self) -> Tensor:
        """(M, 3) int32, to send."""
        return torch.stack([self.rows, self.samples, self.distances.view(torch.int32)], dim=1)

    @classmethod
    def unpack(cls, packed: Tensor) -> _Pairs:
        """From what :meth:`packed` returned to another process."""
        rows, samples, distances = packed.T.contiguous()
        return cls(rows, samples, distances.view(torch.float32))


def prune_shard(
    team: Team,
    shard: Shard,
    encoding: Encoding[Tensor],
    max_distance: float,
    work: Work = QUIET,
) -> NeighborGraph[Tensor]:
    """The pairs of the rows of a process with all samples within ``max_distance``.

    Args:
        team: The processes.
        shard: The rows of this process.
        encoding: Their rows V'; ``indices`` are numbers among all samples.
        max_distance: Largest distance kept, in [0, 1).
        work: Reports progress.

    Returns:
        A row for each row of this process; ``indices`` are numbers among all samples, ascending.
    """
    with (
        team.stage("graph"),
        work.stage("graph", len(shard)),
        running_ops(
            f"the graph of {len(shard)} samples", "lower max_distance, or k1 and k2 before it"
        ),
    ):
        columns = Numbering(shard.total, encoding.indices)
        own = Encoding.unchecked(
            encoding.indptr, columns.places(encoding.indices), encoding.weights
        )
        parts = [_own_pairs(shard, own, len(columns), max_distance)]
        sums = _row_sums(encoding.indptr, encoding.weights)
        least_sum = least_of(team, int(sums.min()) if len(sums) else 2**31, sums.device)
        least = _least_overlap(max_distance, 2 * least_sum)
        asked = _packed(shard.total, columns.samples)
        num_parts = max(1, min(_MOST_PARTS, -(-max(shard.counts) // _PART_ROWS)))
        for meeting in meetings(shard):
            wanted = _unpacked(team.swap(asked, meeting.source, meeting.to), shard.total)
            for rows in _parts(meeting.lent, num_parts):
                lent = _lend(encoding, rows, wanted, least).packed()
                visitors = _Visitors.unpack(team.swap(lent, meeting.to, meeting.source))
                del lent
                found = _pairs_with(own, meeting.own, columns, visitors, max_distance)
                del visitors
                home = found._replace(rows=found.samples, samples=found.rows + shard.first)
                parts.append(_Pairs.unpack(team.swap(home.packed(), meeting.source, meeting.to)))
                samples = found.samples + shard.first_of(meeting.source)
                parts.append(found._replace(samples=samples))
            del wanted
        del own, columns, asked
        return _assemble(shard, parts, max_distance)


def _parts(rows: slice, count: int) -> list[slice]:
    """A range of rows in so many parts, some of which may be empty."""
    ends = [rows.start + (rows.stop - rows.start) * part // count for part in range(count + 1)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _least_overlap(max_distance: float, both_sums: int) -> int:
    """An overlap that every two rows within ``max_distance`` reach.

    With an overlap s, rows that sum to a and b have the distance 1 - s / (a + b - s). Distances are
    compared in float32, so one just above the bound may round down to it.

    Args:
        max_distance: Largest distance kept, in [0, 1).
        both_sums: The least sum of the weights of two rows.
    """
    bound = float(np.nextafter(np.float32(max_distance), np.float32(2)))
    return max(1, int(both_sums * ((1 - bound) / (2 - bound)) * (1 - _ROUNDING)))


def _own_pairs(
    shard: Shard, own: Encoding[Tensor], num_columns: int, max_distance: float
) -> _Pairs:
    """The pairs within one process, both ways; ``own`` is over ``num_columns`` columns."""
    indptr, indices, distances = torch.ops.mabm.jaccard_graph(
        own.indptr, own.indices, own.weights, max_distance, num_columns
    )
    rows = rows_of_entries(indptr).to(torch.int32)
    return _Pairs(rows, indices + shard.first, distances)


class _Visitors(NamedTuple):
    """Rows V' of another process, of which only the columns that were asked for are listed.

    Attributes:
        rows: (M,) int32, numbers of the rows in their process.
        sizes: (M,) int32, the numbers of their entries.
        rests: (M,) int32, the weight of each row in columns that were not asked for.
        indices: (entries,) int32, numbers among all samples.
        weights: (entries,) int32.
    """

    rows: Tensor
    sizes: Tensor
    rests: Tensor
    indices: Tensor
    weights: Tensor

    def packed(self) -> Tensor:
        """All in one int32 tensor, to send."""
        return torch.cat([self.rows.new_tensor([len(self.rows)]), *self])

    @classmethod
    def unpack(cls, packed: Tensor) -> _Visitors:
        """From what :meth:`packed` returned to another process."""
        count = int(packed[0])
        num_entries = (len(packed) - 1 - 3 * count) // 2
        return cls(*torch.split(packed[1:], [count] * 3 + [num_entries] * 2))


def _lend(encoding: Encoding[Tensor], rows: slice, wanted: Tensor, least: int) -> _Visitors:
    """The rows of an encoding that have at least the weight ``least`` in columns.

    Args:
        encoding: The rows of this process.
        rows: Those that may be lent.
        wanted: (N,) bool, the columns.
        least: A weight.
    """
    starts = encoding.indptr[rows.start : rows.stop + 1]
    entries = slice(int(starts[0]), int(starts[-1]))
    indices, weights = encoding.indices[entries], encoding.weights[entries]
    starts = starts - starts[0]
    is_wanted = wanted[indices.long()]
    shared = _row_sums(starts, weights * is_wanted)
    lent = (shared >= least).nonzero().flatten()
    of_lent = entries_of(starts, lent)
    of_lent = of_lent[is_wanted[of_lent]]
    sizes = _row_sums(starts, is_wanted)[lent].to(torch.int32)
    rests = (_row_sums(starts, weights) - shared)[lent].to(torch.int32)
    numbers = (lent + rows.start).to(torch.int32)
    return _Visitors(numbers, sizes, rests, indices[of_lent], weights[of_lent])


def _pairs_with(
    own: Encoding[Tensor],
    rows: slice,
    columns: Numbering,
    visitors: _Visitors,
    max_distance: float,
) -> _Pairs:
    """The near pairs of some rows of this process with visitors, which keep their numbers.

    Args:
        own: The rows of this process; ``indices`` are numbers of columns.
        rows: Those that are compared.
        columns: Numbers the columns; one more is for the rests of visitors.
        visitors: The others.
        max_distance: Largest distance kept.
    """
    starts = own.indptr[rows.start : rows.stop + 1]
    entries = slice(int(starts[0]), int(starts[-1]))
    has_rest = visitors.rests > 0
    indptr = starts_of(visitors.sizes + has_rest.to(torch.int32))
    indices = visitors.indices.new_empty(int(indptr[-1]))
    weights = torch.empty_like(indices)
    shifts = torch.repeat_interleave(indptr[:-1] - starts_of(visitors.sizes)[:-1], visitors.sizes)
    places = shifts + torch.arange(len(shifts), device=shifts.device)
    indices[places], weights[places] = columns.places(visitors.indices), visitors.weights
    last = indptr[1:][has_rest] - 1
    indices[last], weights[last] = len(columns), visitors.rests[has_rest]
    near, others, distances = torch.ops.mabm.near_rows(
        starts - starts[0],
        own.indices[entries],
        own.weights[entries],
        indptr,
        indices,
        weights,
        len(columns) + 1,
        max_distance,
    )
    found = (rows_of_entries(near) + rows.start).to(torch.int32)
    return _Pairs(found, visitors.rows[others.long()], distances)


def _assemble(shard: Shard, parts: list[_Pairs], max_distance: float) -> NeighborGraph[Tensor]:
    """The graph of the rows of a process from pairs in any order."""
    rows, samples, distances = (torch.cat(columns) for columns in zip(*parts, strict=True))
    parts.clear()
    order = (rows.long() * shard.total + samples).argsort()
    sizes = torch.bincount(rows, minlength=len(shard))
    return NeighborGraph.unchecked(starts_of(sizes), samples[order], distances[order], max_distance)


def _row_sums(indptr: Tensor, values: Tensor) -> Tensor:
    """(n,) int64, the sum of the entries of each row of CSR."""
    return starts_of(values)[indptr].diff()


def _packed(total: int, samples: Tensor) -> Tensor:
    """A bit for each of N samples, set for some: (N / 8,) uint8, rounded up."""
    bits = torch.zeros(-(-total // 8) * 8, dtype=torch.uint8, device=samples.device)
    bits[samples] = 1
    return (bits.view(-1, 8) << _shifts(bits)).sum(dim=1, dtype=torch.uint8)


def _unpacked(bytes_: Tensor, total: int) -> Tensor:
    """(N,) bool from the bits of :func:`_packed`."""
    return ((bytes_[:, None] >> _shifts(bytes_)) & 1).bool().flatten()[:total]


def _shifts(bits: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=bits.device)
