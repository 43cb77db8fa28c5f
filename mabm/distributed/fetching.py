"""Rows of other processes: each asks their owners for the samples it needs, and gets their rows."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm.distributed.exchange import exchange
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team


class Fetch:
    """Fetches rows of some samples, own ones too, from the processes that have them.

    All processes make one with the samples that each needs, and call its methods in one order.

    Attributes:
        samples: (M,) int64, ascending, the samples that this process needs.
    """

    def __init__(self, team: Team, shard: Shard, samples: Tensor) -> None:
        self._team = team
        self.samples = samples
        parts = torch.split(samples, shard.per_owner(samples))
        # The own rows that each process asks for.
        self._asked = exchange(
            team, lambda rank: (parts[rank] - shard.first_of(rank)).to(torch.int32)
        )

    def rows(self, table: Tensor) -> Tensor:
        """Returns the (M, ...) rows of the samples, from the rows (n, ...) of each process."""
        return torch.cat(exchange(self._team, lambda rank: table[self._asked[rank].long()]))

    def ragged_rows(self, indptr: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        """Returns the CSR rows of the samples, from those of each process.

        Args:
            indptr: (n + 1,) int64.
            columns: (entries,) each.

        Returns:
            (M + 1,) int64, and as many columns.
        """
        sizes = self.rows(indptr.diff().to(torch.int32))

        def fetch(column: Tensor) -> Tensor:
            return torch.cat(
                exchange(
                    self._team, lambda rank: column[entries_of(indptr, self._asked[rank].long())]
                )
            )

        return starts_of(sizes), *(fetch(column) for column in columns)


def starts_of(sizes: Tensor) -> Tensor:
    """Returns (M + 1,) int64, where each of M rows of these sizes begins, and their end."""
    starts = sizes.new_zeros(len(sizes) + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=starts[1:])
    return starts


def entries_of(indptr: Tensor, rows: Tensor) -> Tensor:
    """Returns int64 positions of the entries of some rows of CSR, row after row.

    Args:
        indptr: (n + 1,) int64.
        rows: (M,) int64.
    """
    sizes = indptr.diff()[rows]
    starts = starts_of(sizes)
    # An entry is as far from the first of its row as here from the first of the result's row.
    shifts = torch.repeat_interleave(indptr[rows] - starts[:-1], sizes)
    return shifts + torch.arange(len(shifts), device=shifts.device)


def rows_of_entries(indptr: Tensor) -> Tensor:
    """Returns (entries,) int64, the row of each entry of CSR."""
    return torch.repeat_interleave(indptr.diff())
