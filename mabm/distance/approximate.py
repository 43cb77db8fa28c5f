"""Approximate ranking: a search proposes candidates, which are ranked by their exact scores.

Which samples a list contains is up to the search. Their scores, their order and the order of ties
are exact, as in every ranking. How many of the nearest samples the search has found is measured on
some rows that are also ranked exactly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from mabm._core.arguments import check_instance, check_integer, check_real, shown
from mabm._core.arrays import is_integer, to_tensor
from mabm._core.saving import Saved
from mabm._core.work import Advance
from mabm.distance.list_layout import ListLayout
from mabm.distance.presets import Metric
from mabm.distance.search.protocol import NeighborSearch, check_recall_rows

logger = logging.getLogger(__name__)

# Candidates beyond the length of a list, so that the rounding of a search does not decide which
# sample is the last one.
_SPARE = 16


@dataclass(frozen=True)
class RankingRecall(Saved):
    """How many of the exact neighbors an approximate ranking has, measured on some of its rows.

    A neighbor counts as found if it is in the same list. Where the last place of a list is tied,
    only the sample of lowest index counts.

    Attributes:
        total: Share of the neighbors in all exact lists that were found, in [0, 1].
        lists: The same for each list; 1 for a list without neighbors.
        num_rows: Number of rows that it was measured on.

    Raises:
        TypeError: An attribute has the wrong type.
        ValueError: A share is outside [0, 1], or ``num_rows`` is negative.

    Example:
        >>> import mabm
        >>> mabm.RankingRecall(0.98, (0.99, 0.97), 256).lists
        (0.99, 0.97)
    """

    total: float
    lists: tuple[float, ...]
    num_rows: int

    def __post_init__(self) -> None:
        """Rejects what is not a share, and a number of rows that is none."""
        check_real("total", self.total, 0.0, 1.0)
        for share in self.lists:
            check_real("lists", share, 0.0, 1.0)
        check_integer("num_rows", self.num_rows, at_least=0)


def check_recall(value: object, num_lists: int) -> None:
    """Raises TypeError or ValueError unless it is the recall of a ranking with so many lists."""
    check_instance("recall", value, RankingRecall)
    if isinstance(value, RankingRecall) and len(value.lists) != num_lists:
        raise ValueError(f"recall must be of {num_lists} lists, got {len(value.lists)}")


def rank_by_search(
    x: Tensor, layout: ListLayout, euclidean: bool, search: NeighborSearch, advance: Advance
) -> tuple[Tensor, Tensor, RankingRecall]:
    """Ranks the candidates of a search.

    Args:
        x: (N, D) float32, contiguous.
        layout: The lists of each row.
        euclidean: Whether rows are compared by Euclidean distance instead of inner product.
        search: Finds candidates in one group of samples at a time.
        advance: Is told the number of samples that have been searched.

    Returns:
        (N, K) int64 ranks, -1 where too few samples were found; (N, K) float64 exact scores; and
        the recall.

    Raises:
        TypeError: The search does not return two arrays of numbers.
        ValueError: They have the wrong shape, or an index is out of range.
    """
    num_rows = min(check_recall_rows(search), len(x))
    found, own_list = _find_candidates(x, layout, euclidean, search, advance)
    candidates, counts = _listed(found, own_list, layout, len(x))
    itself = torch.arange(len(x), device=x.device)
    ranks, scores = torch.ops.mabm.rank_candidates(
        x, itself, candidates, counts, layout.widths, euclidean
    )
    recall = _measure_recall(x, layout, euclidean, ranks, num_rows)
    by_list = ", ".join(f"{share:.4f}" for share in recall.lists)
    logger.info(
        "recall %.4f on %d rows (by list: %s): ranked approximately, by %s",
        *(recall.total, recall.num_rows, by_list, type(search).__name__),
    )
    return ranks, scores, recall


def _find_candidates(
    x: Tensor, layout: ListLayout, euclidean: bool, search: NeighborSearch, advance: Advance
) -> tuple[Tensor, Tensor]:
    """(N, L, C) candidates of each list, int64, -1 for none; and (N,) the list of the row itself.

    A list of several groups takes the best of all, by the scores of the search.
    """
    capacity, num_lists = max(layout.widths) + _SPARE, len(layout.widths)
    best = x.new_full((len(x), num_lists, capacity), -torch.inf)
    found = torch.full(best.shape, -1, dtype=torch.int64, device=x.device)
    groups = layout.groups.long()
    metric: Metric = "euclidean" if euclidean else "inner_product"
    for group in range(len(layout.list_of_group)):
        members = torch.nonzero(groups == group).flatten()
        if not len(members):
            continue  # there are no samples at all
        list_of_row = layout.list_of_group[groups, group]
        lists = sorted(set(layout.list_of_group[:, group].tolist()))
        wanted = min(max(layout.widths[each] for each in lists) + _SPARE, len(members))
        rows = x if len(members) == len(x) else x[members]
        answer = search.find_candidates(rows, x, wanted, metric)
        scores, indices = _checked_answer(answer, len(x), len(members), x.device)
        indices = torch.where(indices >= 0, members[indices.clamp(min=0)], -1)
        for each in lists:
            takers = torch.nonzero(list_of_row == each).flatten()
            joined = torch.cat([best[takers, each], scores[takers]], dim=1)
            kept, places = joined.topk(capacity, dim=1)
            both = torch.cat([found[takers, each], indices[takers]], dim=1)
            best[takers, each], found[takers, each] = kept, both.gather(1, places)
        advance(len(members))
    return found, layout.list_of_group[groups, groups].long()


def _checked_answer(
    answer: object, num_queries: int, num_members: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scores (Q, C), float32 without NaN, -inf for none only; and indices (Q, C) int64."""
    name = "precision.find_candidates(...)"
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        kind = type(answer).__name__
        raise TypeError(f"{name} must be scores and indices, got {kind}: {shown(answer)}")
    scores, indices = to_tensor(answer[0], f"{name}[0]"), to_tensor(answer[1], f"{name}[1]")
    if not scores.is_floating_point():
        raise TypeError(f"{name}[0] must be floating point, got dtype {scores.dtype}")
    if not is_integer(indices):
        raise TypeError(f"{name}[1] must be integers, got dtype {indices.dtype}")
    if scores.dim() != 2 or scores.shape[0] != num_queries or scores.shape != indices.shape:
        raise ValueError(
            f"{name} must be two of ({num_queries}, C), one row per sample, got "
            f"{tuple(scores.shape)} and {tuple(indices.shape)}"
        )
    indices = indices.to(device, torch.int64)
    if indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) < num_members:
        raise ValueError(
            f"{name}[1] must be in [-1, {num_members}), got {int(indices.min())} to "
            f"{int(indices.max())}"
        )
    scores = scores.to(device, torch.float32)
    least, greatest = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    scores = scores.nan_to_num(nan=least, posinf=greatest, neginf=least)
    return scores.where(indices >= 0, -torch.inf), indices


def _listed(
    found: Tensor, own_list: Tensor, layout: ListLayout, num_samples: int
) -> tuple[Tensor, Tensor]:
    """(N, L, C) int32 distinct candidates from the left, and (N, L) int32 how many there are.

    Every row is a candidate of its own list: a search of a graph may miss even that.
    """
    itself = torch.arange(num_samples, device=found.device)
    every = torch.arange(len(layout.widths), device=found.device)
    extra = torch.where(every == own_list[:, None], itself[:, None], -1)
    joined = torch.cat([found, extra[..., None]], dim=2)
    ordered = joined.where(joined >= 0, num_samples).sort(dim=2).values
    repeated = ordered[..., 1:] == ordered[..., :-1]
    ordered[..., 1:].masked_fill_(repeated, num_samples)
    ordered = ordered.sort(dim=2).values
    counts = (ordered < num_samples).sum(dim=2)
    return ordered.where(ordered < num_samples, 0).to(torch.int32), counts.to(torch.int32)


def _measure_recall(
    x: Tensor, layout: ListLayout, euclidean: bool, ranks: Tensor, num_rows: int
) -> RankingRecall:
    """Compares the lists of some rows with the exact ones.

    The rows are drawn by a generator of their own: samples are often in the order of their person
    or modality, so that every n-th one could be of one kind.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randperm(len(x), generator=generator, device="cpu")[:num_rows]
    rows = drawn.sort().values.to(x.device)
    exact, _ = torch.ops.mabm.rank_exactly(
        x, rows, layout.groups, layout.list_of_group, layout.widths, euclidean
    )
    first = torch.arange(num_rows, device=x.device)[:, None] * len(x)  # makes pairs of one number
    hits, sizes = [], []
    in_lists = (torch.split(part, layout.widths, dim=1) for part in (exact, ranks[rows]))
    for wanted, listed in zip(*in_lists, strict=True):
        is_found = torch.isin((wanted + first)[wanted >= 0], (listed + first)[listed >= 0])
        hits.append(int(is_found.sum()))
        sizes.append(len(is_found))
    shares = [hit / size if size else 1.0 for hit, size in zip(hits, sizes, strict=True)]
    total = sum(hits) / sum(sizes) if sum(sizes) else 1.0
    return RankingRecall(total, tuple(shares), num_rows)
