"""Neighbor lists of the rows of a process, into which it merges what others find."""

from __future__ import annotations

import torch
from torch import Tensor

from mabm.distributed.team import Team

# Memory for the lists that are merged at a time, and for an entry of them: two ranks and scores,
# both in the order of ranks, and numbers of either order.
_MERGE_BYTES = 8 << 20
_ENTRY_BYTES = 96


class NeighborLists:
    """The nearest samples known so far for each of n rows, in lists whose widths sum to K.

    Attributes:
        ranks: (n, K) int64, numbers among the samples of all processes; each list nearest first,
            ties by lower number, -1 where it ends early.
        scores: (n, K) float64, exact; -inf where ``ranks`` is -1.
        widths: Length of each list.
    """

    def __init__(self, ranks: Tensor, scores: Tensor, widths: list[int]) -> None:
        self.ranks, self.scores, self.widths = ranks, scores, widths

    def least(self) -> Tensor:
        """(n, L) float64: what scores less is not in the list of a row; -inf if it is not full."""
        open_list = self.scores.new_full((len(self.scores), 1), -torch.inf)
        lists = torch.split(self.scores, self.widths, dim=1)
        return torch.cat([part[:, -1:] if part.shape[1] else open_list for part in lists], dim=1)

    def merge(self, first: int, ranks: Tensor, scores: Tensor) -> None:
        """Merges lists (B, K), of as many rows from number ``first`` on; no sample comes twice."""
        changed = (ranks >= 0).any(dim=1).nonzero().flatten()
        row_bytes = _ENTRY_BYTES * max(1, ranks.shape[1])
        for found in torch.split(changed, max(1, _MERGE_BYTES // row_bytes)):
            own, start = first + found, 0
            for width in self.widths:
                columns = slice(start, start + width)
                start += width
                self.ranks[own, columns], self.scores[own, columns] = _first(
                    torch.cat([self.ranks[own, columns], ranks[found, columns]], dim=1),
                    torch.cat([self.scores[own, columns], scores[found, columns]], dim=1),
                    width,
                )


def _first(ranks: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The first ``width`` of samples (B, W) by descending score, ties by lower number."""
    ranks, by_number = ranks.sort(dim=1)
    scores = scores.gather(1, by_number)
    # As numbers to compare, 0 and -0 are the same score.
    order = (scores + 0.0).sort(dim=1, descending=True, stable=True).indices[:, :width]
    return ranks.gather(1, order), scores.gather(1, order)


def send_home(
    team: Team,
    found: tuple[Tensor, Tensor],
    widths: list[int],
    to: int,
    source: int,
    num_rows: int,
) -> tuple[Tensor, Tensor]:
    """Sends lists of another process's rows to it, and returns those that one sends here.

    Only entries travel, and how many there are in each list.

    Args:
        team: The processes.
        found: Ranks (B, K) int64 below 2^31, each list -1 at its end, and scores (B, K) float64.
        widths: Length of each list.
        to: Rank of the process whose rows they are.
        source: Rank of the process that sends lists of this one's rows.
        num_rows: Number of these rows, B'.

    Returns:
        Ranks (B', K) and scores, as ``source`` gives them.
    """
    ranks, scores = found
    is_entry = ranks >= 0
    counts = torch.stack([part.sum(dim=1) for part in torch.split(is_entry, widths, dim=1)], dim=1)
    received = counts.new_empty((num_rows, len(widths)), dtype=torch.int32)
    team.start_swap(counts.to(torch.int32), to, source, received).wait()
    places = [torch.arange(width, device=ranks.device) for width in widths]
    is_entry_here = torch.cat(
        [place < number[:, None] for place, number in zip(places, received.T, strict=True)], dim=1
    )
    numbers = received.new_empty(int(received.sum()))
    their_scores = scores.new_empty(len(numbers))
    transfers = [
        team.start_swap(ranks[is_entry].to(torch.int32), to, source, numbers),
        team.start_swap(scores[is_entry], to, source, their_scores),
    ]
    for transfer in transfers:
        transfer.wait()
    home_ranks = ranks.new_full(is_entry_here.shape, -1)
    home_scores = scores.new_full(is_entry_here.shape, -torch.inf)
    home_ranks[is_entry_here] = numbers.to(torch.int64)
    home_scores[is_entry_here] = their_scores
    return home_ranks, home_scores
