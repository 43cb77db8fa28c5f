"""Retrieval scores: CMC, mAP and mINP, as defined by each data set's protocol."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from mabm._core.advice import advise, is_wanted
from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import ArrayT, check_numbers, like, to_tensor
from mabm._core.columns import Column, check_column, read_categories
from mabm._core.protocols import RetrievalProtocol
from mabm._core.saving import Saved
from mabm.evaluation.tasks import PROTOCOLS

logger = logging.getLogger(__name__)

# Distances of a query count as equal if they differ by less than this, relative to the largest.
_ALIKE = 1e-5
# Distances are assumed to be similarities if the matches are, on average, past the middle of the
# gallery by more than a tenth of it and by more standard errors than chance explains.
_FARTHER, _STANDARD_ERRORS = 0.1, 4.0

# Distances ranked in one step; a step uses about ten int64 arrays of this many elements.
_ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class RetrievalScores(Saved, Generic[ArrayT]):
    """Retrieval scores, averaged over the queries that have a match in the gallery.

    Attributes:
        cmc: (R,) float32: ``cmc[r]`` is the share of queries with a match at rank r + 1 or before.
            R is ``max_rank``, or the number of ranks if that is smaller.
        mean_average_precision: mAP, in [0, 1].
        mean_inverse_negative_penalty: mINP, in [0, 1]: the number of matches divided by the rank of
            the last match.
        num_queries: Number of queries with a match; queries without one do not count.

    Example:
        >>> import torch, mabm
        >>> mabm.RetrievalScores(torch.tensor([0.5, 1.0]), 0.75, 0.7, 40)
        RetrievalScores(rank-1 0.5000, mAP 0.7500, mINP 0.7000, 40 queries)
    """

    cmc: ArrayT
    mean_average_precision: float
    mean_inverse_negative_penalty: float
    num_queries: int

    def __repr__(self) -> str:
        first = f"rank-1 {float(self.cmc[0]):.4f}, " if len(self.cmc) else ""
        return (
            f"RetrievalScores({first}mAP {self.mean_average_precision:.4f}, "
            f"mINP {self.mean_inverse_negative_penalty:.4f}, {self.num_queries} queries)"
        )


def evaluate_retrieval(
    distance: ArrayT,
    query_ids: Column,
    gallery_ids: Column,
    query_cameras: Column | None = None,
    gallery_cameras: Column | None = None,
    *,
    protocol: str | RetrievalProtocol,
    max_rank: int = 20,
) -> RetrievalScores[ArrayT]:
    """Computes CMC, mAP and mINP of a distance matrix.

    A warning is logged once per process if distances look like similarities or are all equal; they
    are scored anyway.

    Args:
        distance: (Q, G) numbers, smaller is nearer; ties go to the lower gallery index. They are
            compared in their own dtype.
        query_ids: (Q,) integers, or words such as ``"0001"``.
        gallery_ids: (G,) of the same kind.
        query_cameras: (Q,) integers, or ``None`` if the protocol does not use cameras.
        gallery_cameras: (G,) integers, or ``None`` if the protocol does not use cameras.
        protocol: Name of a data set with a published protocol (a key of :data:`mabm.PROTOCOLS`,
            in any spelling), or your own :class:`RetrievalProtocol`.
        max_rank: Largest rank of the CMC, at least 1.

    Returns:
        The scores, with a CMC of the same kind as ``distance``. Average precision is the mean over
        a query's matches of the precision at their rank, without interpolation. If the CMC counts
        identities, its length is the largest number of identities that any query is compared with,
        at most ``max_rank``; queries with fewer repeat their last value.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes do not fit, a distance is NaN, the protocol is unknown or needs cameras
            that are not given, or no query has a match in the gallery.

    Source:
        Wu et al., ICCV 2017 (SYSU-MM01); Nguyen et al., Sensors 2017 (RegDB); Zhang and Wang, CVPR
        2023 (LLCM); mINP: Ye et al., TPAMI 2022, equation 8.

    Example:
        >>> import torch, mabm
        >>> distance = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
        >>> query_ids, gallery_ids = torch.tensor([7, 7]), torch.tensor([7, 8, 7])
        >>> scores = mabm.evaluate_retrieval(distance, query_ids, gallery_ids, protocol="regdb")
        >>> scores
        RetrievalScores(rank-1 0.5000, mAP 0.7083, mINP 0.6667, 2 queries)
        >>> scores.cmc
        tensor([0.5000, 1.0000, 1.0000])
    """
    ranking = _check_arguments(
        distance, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    max_rank = check_integer("max_rank", max_rank, at_least=1)
    num_queries, num_gallery = ranking.distance.shape
    step = max(_ELEMENTS_AT_ONCE // num_gallery, 1)
    blocks = [
        _score_block(ranking, slice(start, start + step)) for start in range(0, num_queries, step)
    ]
    precision = torch.cat([block.average_precision for block in blocks])
    penalty = torch.cat([block.inverse_negative_penalty for block in blocks])
    if not len(precision):
        raise ValueError(
            f"query_ids must have a match in gallery_ids under protocol {ranking.protocol.name!r}, "
            f"got none for any of {num_queries} queries"
        )
    if statistics := [block.statistics for block in blocks if block.statistics is not None]:
        _advise_on_distance(torch.stack(statistics).sum(dim=0), num_queries)
    length = min(max_rank, num_gallery)
    first = torch.cat([block.first_match for block in blocks])
    counts = torch.bincount(first[first <= length] - 1, minlength=length)
    longest = max(block.num_ranks for block in blocks)
    cmc = counts.cumsum(dim=0)[:longest].to(torch.float32) / len(precision)
    return RetrievalScores(
        like(cmc, distance), float(precision.mean()), float(penalty.mean()), len(precision)
    )


def average_precision(matches: Tensor, ranks: Tensor) -> Tensor:
    """Returns the average precision of each query: the mean precision at the ranks of its matches.

    Args:
        matches: (Q, G) bool in the order of the ranked gallery.
        ranks: Integers, broadcast to (Q, G): the rank of each sample, from 1; any number if it is
            not a match.

    Returns:
        (Q,) float64; 0 without a match.
    """
    num_matches = matches.cumsum(dim=1)
    precision = num_matches / ranks.clamp(min=1).to(torch.float64)
    total = torch.where(matches, precision, 0.0).sum(dim=1)
    return total / matches.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class _Ranking:
    """The checked arguments of :func:`evaluate_retrieval`, all on the device of the distance.

    Attributes:
        distance: (Q, G).
        query_ids: (Q,) int64.
        gallery_ids: (G,) int64.
        gallery_numbers: (G,) int64: the identity of each sample as a number in [0, I).
        num_identities: I, the identities in the gallery.
        cameras: (Q,) and (G,) int64; ``None`` if the protocol does not use cameras.
        protocol: Which gallery samples are excluded, and what the CMC counts.
    """

    distance: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    gallery_numbers: Tensor
    num_identities: int
    cameras: tuple[Tensor, Tensor] | None
    protocol: RetrievalProtocol


def _check_arguments(
    distance: object,
    query_ids: object,
    gallery_ids: object,
    query_cameras: object,
    gallery_cameras: object,
    protocol: object,
) -> _Ranking:
    values = _check_distance(distance)
    chosen = _resolve_protocol(protocol)
    names = ("query_ids", "gallery_ids")
    identities, _ = read_categories(
        (query_ids, gallery_ids), names, "one identity each", takes_bool=False
    )
    queries, gallery = _check_both(names, (identities[0], identities[1]), values)
    cameras = _check_cameras(chosen, query_cameras, gallery_cameras, values)
    unique, numbers = torch.unique(gallery, return_inverse=True)
    return _Ranking(values, queries, gallery, numbers, len(unique), cameras, chosen)


@dataclass(frozen=True)
class _Block:
    """Scores of some queries, of which V have a match.

    Attributes:
        average_precision: (V,) float64.
        inverse_negative_penalty: (V,) float64.
        first_match: (V,) int64: rank of the first match, as the CMC counts ranks, from 1.
        num_ranks: Largest number of ranks that the CMC can count for a query.
        statistics: The result of :func:`_distance_statistics`, or ``None`` if no warning would be
            logged.
    """

    average_precision: Tensor
    inverse_negative_penalty: Tensor
    first_match: Tensor
    num_ranks: int
    statistics: Tensor | None


def _score_block(ranking: _Ranking, rows: slice) -> _Block:
    """Ranks the gallery for some queries and scores it."""
    distance = ranking.distance[rows]
    num_gallery = distance.shape[1]
    order = distance.argsort(dim=1, stable=True)
    matches = ranking.gallery_ids[order] == ranking.query_ids[rows, None]
    compared = _compared(ranking, order, matches, rows)
    matches &= compared
    ranks = compared.cumsum(dim=1)  # from 1, where compared
    has_match = matches.any(dim=1)
    num_matches = matches.sum(dim=1)
    match_ranks = torch.where(matches, ranks, 0)
    first, num_ranks = torch.where(matches, ranks, num_gallery + 1).amin(dim=1), num_gallery
    if ranking.protocol.cmc_by_identity:
        occurrences = torch.where(compared, ranks, num_gallery + 1)
        identity_ranks = ranks.new_full((len(order), ranking.num_identities), num_gallery + 1)
        identity_ranks.scatter_reduce_(1, ranking.gallery_numbers[order], occurrences, "amin")
        num_ranks = int((identity_ranks <= num_gallery).sum(dim=1).max())
        first = (identity_ranks < first[:, None]).sum(dim=1) + 1
    statistics = None
    if is_wanted(logger, "similarities") or is_wanted(logger, "alike"):
        statistics = _distance_statistics(
            distance, order, match_ranks.sum(dim=1), num_matches, ranks[:, -1]
        )
    penalty = num_matches.to(torch.float64) / match_ranks.amax(dim=1)
    return _Block(
        average_precision(matches, ranks)[has_match],
        penalty[has_match],
        first[has_match],
        num_ranks,
        statistics,
    )


def _compared(ranking: _Ranking, order: Tensor, matches: Tensor, rows: slice) -> Tensor:
    """(B, G) bool: whether each sample of the ranked galleries is compared with the query."""
    if ranking.cameras is None:
        return torch.ones_like(matches)
    queries, gallery = ranking.cameras
    return ranking.protocol.compared(matches, queries[rows, None], gallery[order])


def _distance_statistics(
    distance: Tensor, order: Tensor, rank_sums: Tensor, num_matches: Tensor, num_compared: Tensor
) -> Tensor:
    """(3,) float64: queries whose distances are all equal, matches, sum of their relative ranks.

    Args:
        distance: (B, G).
        order: (B, G) the gallery by ascending distance.
        rank_sums: (B,) sum of the ranks of a query's matches, from 1.
        num_matches: (B,).
        num_compared: (B,) samples of the gallery that are compared.
    """
    least, most = distance.gather(1, order[:, [0, -1]]).to(torch.float64).T
    alike = most - least <= _ALIKE * torch.maximum(most.abs(), least.abs())
    relative = (rank_sums - 0.5 * num_matches) / num_compared.clamp(min=1).to(torch.float64)
    return torch.stack([alike.sum(), num_matches.sum(), relative.sum()])


def _advise_on_distance(statistics: Tensor, num_queries: int) -> None:
    """Warns if distances are all equal for most queries, or if matches come last.

    Args:
        statistics: (3,) float64, the sum of :func:`_distance_statistics` over all queries.
        num_queries: Number of queries, with or without a match.
    """
    alike, num_matches, relative_ranks = statistics.tolist()
    if 2 * alike > num_queries:
        advise(
            logger,
            "alike",
            f"distances to the whole gallery are equal for {alike:.0f} of {num_queries} queries: "
            "the scores only reflect the order of the gallery, which breaks ties; check whether "
            "the features have collapsed to one point",
        )
    mean_rank = relative_ranks / max(num_matches, 1)
    # The standard error of a mean of uniform numbers is 1 / sqrt(12 n).
    chance = _STANDARD_ERRORS / math.sqrt(12 * max(num_matches, 1))
    if mean_rank > 0.5 + max(_FARTHER, chance):
        advise(
            logger,
            "similarities",
            f"matches rank behind {100 * mean_rank:.0f} % of the gallery on average, where 50 % is "
            "chance: distance seems to contain similarities; smaller must be nearer, so try "
            "1 - similarity",
        )


def _check_distance(value: object) -> Tensor:
    distance = check_numbers(to_tensor(value, "distance"), "distance")
    if distance.dim() != 2 or 0 in distance.shape:
        raise ValueError(
            f"distance must be (Q, G) with at least one of each, got shape {tuple(distance.shape)}"
        )
    bad = torch.nonzero(distance.isnan().any(dim=1)).flatten()
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"distance must not be NaN, got NaN in row {int(bad[0])}{more}")
    return distance


def _resolve_protocol(protocol: object) -> RetrievalProtocol:
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {tuple(PROTOCOLS)}, got {protocol!r}")
        return PROTOCOLS[protocol]
    if not isinstance(protocol, RetrievalProtocol):
        raise TypeError(
            f"protocol must be a name or a RetrievalProtocol, got {type(protocol).__name__}: "
            f"{shown(protocol)}"
        )
    return protocol


def _check_cameras(
    protocol: RetrievalProtocol, query_cameras: object, gallery_cameras: object, distance: Tensor
) -> tuple[Tensor, Tensor] | None:
    if not protocol.needs_cameras:
        return None
    given = (query_cameras, gallery_cameras)
    names = ("query_cameras", "gallery_cameras")
    for name, value in zip(names, given, strict=True):
        if value is None:
            raise ValueError(f"protocol {protocol.name!r} needs {name}, got None")
    return _check_both(names, given, distance)


def _check_both(
    names: tuple[str, str], values: tuple[object, object], distance: Tensor
) -> tuple[Tensor, Tensor]:
    (queries, gallery), device = distance.shape, distance.device
    return (
        check_column(values[0], queries, names[0], "one per row of distance").to(device),
        check_column(values[1], gallery, names[1], "one per column of distance").to(device),
    )
