"""Gathering and exchanging rows between all processes of a team."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mabm.distributed.team import Team


def gather_all(team: Team, rows: Tensor) -> list[Tensor]:
    """Returns the rows (M, ...) of every process, in the order of ranks; their M may differ."""
    return exchange(team, lambda _: rows)


def exchange(team: Team, part_for: Callable[[int], Tensor]) -> list[Tensor]:
    """Sends each process its part, and returns the parts that all processes send here.

    Args:
        team: The processes.
        part_for: Called once for each rank, returns the rows (M, ...) for it; M may differ. The
            parts are made one after the other, so that only one of them is held at a time.
    """
    received = {team.rank: part_for(team.rank)}
    for step in range(1, team.size):
        to, source = (team.rank + step) % team.size, (team.rank - step) % team.size
        received[source] = team.swap(part_for(to), to, source)
    return [received[source] for source in range(team.size)]


def gather_first(team: Team, rows: Tensor) -> Tensor:
    """Returns the rows (M, ...) of all processes, in the order of ranks, to the first one.

    The others get no rows.
    """
    return torch.cat(exchange(team, lambda rank: rows if rank == 0 else rows[:0]))


def share_first(team: Team, rows: Tensor) -> Tensor:
    """Returns the rows (M, ...) of the first process to all; only their type matters elsewhere."""
    return exchange(team, lambda _: rows if team.rank == 0 else rows[:0])[0]


def split_first(team: Team, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Returns to each process its part of the rows (N, ...) of the first one.

    Args:
        team: The processes.
        rows: Those of the first process; only their type matters elsewhere.
        counts: Number of rows for each process; they sum to N.
    """
    parts = torch.split(rows, list(counts)) if team.rank == 0 else [rows[:0]] * team.size
    return exchange(team, lambda rank: parts[rank])[0]


def add_up(team: Team, values: Tensor) -> Tensor:
    """Returns the sum of integers (M, ...) of one shape over all processes."""
    total = values.clone()
    for step in range(1, team.size):
        to, source = (team.rank + step) % team.size, (team.rank - step) % team.size
        total += team.swap(values, to, source)
    return total


def least_of(team: Team, value: int, device: torch.device) -> int:
    """Returns the least integer of all processes."""
    own = torch.tensor([value], dtype=torch.int64, device=device)
    return min(int(each) for each in gather_all(team, own))
