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
        lent: The rows of this process that ``to`` compares with its own.
    """

    source: int
    to: int
    own: slice
    lent: slice


def meetings(shard: Shard) -> list[Meeting]:
    """The steps of a process, in their order."""
    size = len(shard.counts)
    found = []
    for step in range(1, size // 2 + 1):
        source, to = (shard.rank + step) % size, (shard.rank - step) % size
        own = compared(shard.counts, shard.rank, source)[0]
        lent = compared(shard.counts, to, shard.rank)[1]
        found.append(Meeting(source, to, own, lent))
    return found


def compared(counts: tuple[int, ...], host: int, visitor: int) -> tuple[slice, slice]:
    """The rows of the host and of the visitor that the host compares.

    Args:
        counts: Number of rows of each process.
        host: Rank of a process.
        visitor: Rank of one that it meets.
    """
    own, others = slice(0, counts[host]), slice(0, counts[visitor])
    if 2 * abs(host - visitor) == len(counts):
        half = -(-counts[min(host, visitor)] // 2)
        if host < visitor:
            own = slice(0, half)
        else:
            others = slice(half, counts[visitor])
    return own, others
