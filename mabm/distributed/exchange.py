"""Gathering and exchanging rows between all processes of a team."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mabm.distributed.team import Team


def gather_all(team: Team, rows: Tensor) -> list[Tensor]:
    """Returns the rows (M, ...) of every process, in the order of ranks; their M may differ."""
    parts = [rows] * team.size
    for step in range(1, team.size):
        source = (team.rank - step) % team.size
        parts[source] = team.swap(rows, (team.rank + step) % team.size, source)
    return parts


def exchange(team: Team, parts: Sequence[Tensor]) -> list[Tensor]:
    """Sends each process its part, and returns the parts that all processes send here.

    Args:
        team: The processes.
        parts: One (M, ...) for each process, in the order of ranks; M may differ.
    """
    received = list(parts)
    for step in range(1, team.size):
        to, source = (team.rank + step) % team.size, (team.rank - step) % team.size
        received[source] = team.swap(parts[to], to, source)
    return received


def add_up(team: Team, values: Tensor) -> Tensor:
    """Returns the sum of integers (M, ...) of one shape over all processes."""
    return torch.stack(gather_all(team, values)).sum(dim=0)
