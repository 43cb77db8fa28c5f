"""Encoding and local query expansion of the rows of each process (method steps 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.work import QUIET, Work
from mabm.distance.encoding import averaged_rows, is_expanded
from mabm.distance.ranking import Ranking
from mabm.distance.rows import Encoding, NeighborSets
from mabm.distributed.exchange import gather_all
from mabm.distributed.fetching import Fetch, rows_of_entries, starts_of
from mabm.distributed.numbering import Numbering
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team

# In how many parts the features of another process visit, so that they take the memory of one
# shard beside the own rows: a part as it arrives, and as it is used.
_PARTS = 2
# Pairs that are scored at a time.
_PAIRS_AT_ONCE = 1 << 18


def encode_shard(
    team: Team,
    shard: Shard,
    neighbors: NeighborSets[Tensor],
    ranking: Ranking[Tensor],
    work: Work = QUIET,
) -> Encoding[Tensor]:
    """The rows V of a process: the weights of its neighbor sets.

    Products that the ranking of these rows has are taken from it. For the others, the features of
    the neighbors visit, those of one process after the other.

    Args:
        team: The processes.
        shard: The rows of this process.
        neighbors: E(i) of these rows; ``indices`` are numbers among all samples.
        ranking: Their neighbor lists.
        work: Reports progress.

    Returns:
        A row for each row of this process; ``indices`` are numbers among all samples.
    """
    indptr, indices = neighbors.indptr, neighbors.indices
    with (
        team.stage("encoding"),
        work.stage("encoding", len(shard)),
        running_ops(f"encoding {len(shard)} samples", "lower k1"),
    ):
        rows = rows_of_entries(indptr)
        products = _known_products(ranking, rows, indices, shard.total)
        missing = products.isnan().nonzero().flatten()
        for entries, x, others in _visits(team, shard, missing, indices):
            products[entries] = _score_pairs(x, rows[entries], others)
            del x
        weighed = torch.ops.mabm.weigh_products(indptr, indices, products, shard.first)
    return Encoding.unchecked(*weighed)


def _known_products(ranking: Ranking[Tensor], rows: Tensor, indices: Tensor, total: int) -> Tensor:
    """(entries,) float64: the products of rows with samples that are in their lists, else NaN.

    Args:
        ranking: The lists of n rows; its scores are products, or of no use here.
        rows: (entries,) int64 in [0, n), ascending.
        indices: (entries,) int32, numbers among all samples, ascending in each row.
        total: Number of all samples.
    """
    products = torch.full_like(indices, torch.nan, dtype=torch.float64)
    if ranking.preset.metric != "inner_product" or not ranking.ranks.shape[1]:
        return products
    ranks, order = ranking.ranks.sort(dim=1)
    scores = ranking.scores.gather(1, order)[ranks >= 0]
    listed = ranks + total * torch.arange(len(ranks), device=ranks.device)[:, None]
    listed = listed[ranks >= 0]
    if len(listed):
        wanted = rows * total + indices
        places = torch.searchsorted(listed, wanted).clamp(max=len(listed) - 1)
        is_listed = listed[places] == wanted
        products[is_listed] = scores[places[is_listed]]
    return products


def _visits(
    team: Team, shard: Shard, entries: Tensor, indices: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields parts of some entries, with features that have their rows and their samples.

    Args:
        team: The processes.
        shard: The rows of this process.
        entries: (M,) int64, positions of entries, row by row.
        indices: Of all entries, the sample of each.

    Yields:
        Some of ``entries``; features, of which the first n are those of this process; and the row
        of each entry's sample in them.
    """
    ends = torch.tensor(shard.counts, device=entries.device).cumsum(0)
    owners = torch.searchsorted(ends, indices[entries].long(), right=True)
    for step in range(team.size):
        source, to = (team.rank + step) % team.size, (team.rank - step) % team.size
        visited = entries[owners == source]
        samples = indices[visited].long() - shard.first_of(source)
        if step == 0:
            yield visited, shard.features, samples
            continue
        needed, places = torch.unique(samples, return_inverse=True)
        part = -(-len(needed) // _PARTS)
        for first in range(0, _PARTS * part, part) if part else [0] * _PARTS:
            asked = team.swap(needed[first : first + part].to(torch.int32), source, to)
            x = torch.cat([shard.features, team.swap(shard.features[asked.long()], to, source)])
            is_here = (places >= first) & (places < first + part)
            yield visited[is_here], x, len(shard) + places[is_here] - first
            del x  # before the next part arrives


def _score_pairs(x: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """(M,) float64, the exact inner products of rows ``rows`` (M,) of x with rows ``others`` (M,).

    Each pair is ranked as a list of one candidate.
    """
    parts = [
        torch.ops.mabm.rank_candidates(
            x,
            some,
            candidates.to(torch.int32).view(-1, 1, 1),
            torch.ones_like(candidates, dtype=torch.int32)[:, None],
            [1],
            False,
        )[1].flatten()
        for some, candidates in zip(
            torch.split(rows, _PAIRS_AT_ONCE), torch.split(others, _PAIRS_AT_ONCE), strict=True
        )
    ]
    return torch.cat(parts)


def expand_shard(
    team: Team,
    shard: Shard,
    encoding: Encoding[Tensor],
    ranking: Ranking[Tensor],
    k2: int,
    work: Work = QUIET,
) -> Encoding[Tensor]:
    """The rows V' of a process: averages of its rows V with those of their neighbors.

    Args:
        team: The processes.
        shard: The rows of this process.
        encoding: Their rows V; ``indices`` are numbers among all samples.
        ranking: Their neighbor lists.
        k2: Number of neighbors to average, as in :func:`mabm.expand_queries`.
        work: Reports progress.
    """
    if not is_expanded(ranking.preset, k2):
        return encoding
    with (
        team.stage("query expansion"),
        work.stage("query expansion", len(shard)),
        running_ops(f"averaging the rows of {len(shard)} samples", "lower k2 or k1"),
    ):
        groups = shard.groups
        if ranking.preset.query_expansion == "merged_group_means" and groups is not None:
            groups = torch.cat(gather_all(team, groups))
        rows, weights = averaged_rows(ranking, groups, k2, shard.first)
        fetch = Fetch(team, shard, Numbering(shard.total, rows).samples)
        sizes, indices, fetched_weights = fetch.ragged_rows(
            encoding.indptr, encoding.indices, encoding.weights
        )
        members = Numbering(shard.total, fetch.samples, indices)
        # CSR over all members; those whose rows are not needed have none.
        of_members = sizes.new_zeros(len(members))
        of_members[members.places(fetch.samples).long()] = sizes.diff()
        averaged = torch.ops.mabm.average_encodings(
            starts_of(of_members),
            members.places(indices),
            fetched_weights,
            members.places(rows).long(),
            weights,
        )
    return Encoding.unchecked(
        averaged[0], members.samples[averaged[1].long()].to(torch.int32), averaged[2]
    )
