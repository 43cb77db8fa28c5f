"""Which of two processes compares their rows: every pair of samples is compared once.

A process meets the following half of the others in a ring: at step s of 1 to R // 2, process p
meets p + s. Of two that are half an even ring apart, both meet the other at the last step. There
p < q compares its first half of rows with all of q, and q all its rows with the second half of p.
"""

from __future__ import annotations

from typing import NamedTuple

from mabm.distributed.shards import Shard


class Meeting(NamedTuple):
    """One step of a process, which meets one other and is met by another.

    Attributes:
        source: Rank of the process whose rows visit this one.
        to: Rank of the process that the rows of this one visit.
        own: The rows of this process that are compared with visitors.
        visitors: The rows of ``source`` that they are compared with.
        lent: The rows of this process that ``to`` compares with its own.
    """

    source: int
    to: int
    own: slice
    visitors: slice
    lent: slice


def meetings(shard: Shard) -> list[Meeting]:
    """The steps of a process, in their order."""
    size = len(shard.counts)
    found = []
    for step in range(1, size // 2 + 1):
        source, to = (shard.rank + step) % size, (shard.rank - step) % size
        own, visitors = _compared(shard, shard.rank, source)
        found.append(Meeting(source, to, own, visitors, _compared(shard, to, shard.rank)[1]))
    return found


def _compared(shard: Shard, host: int, visitor: int) -> tuple[slice, slice]:
    """The rows of the host and of the visitor that the host compares."""
    own, others = slice(0, shard.counts[host]), slice(0, shard.counts[visitor])
    if 2 * abs(host - visitor) == len(shard.counts):
        half = -(-shard.counts[min(host, visitor)] // 2)
        if host < visitor:
            own = slice(0, half)
        else:
            others = slice(half, shard.counts[visitor])
    return own, others
