"""Clusters of a graph whose rows several processes share: the labels of one process.

For DBSCAN, each process joins the near core samples of its rows by union-find over all samples; the
forests of two processes are merged into one, and so on along a tree. A cluster's root is its first
core sample, so that counting roots numbers the clusters as one process does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.partition import NOISE, cluster_sizes, count_spanning
from mabm._core.work import QUIET, Work
from mabm.cluster.dbscan import DBSCAN, Clusterer
from mabm.cluster.pseudo_labels import label_graph
from mabm.distance.graph import NeighborGraph
from mabm.distributed.exchange import (
    add_up,
    exchange,
    gather_all,
    gather_first,
    share_first,
    split_first,
)
from mabm.distributed.fetching import rows_of_entries, starts_of
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team


class ShardClusters(NamedTuple):
    """The clusters of the rows of a process.

    Attributes:
        labels: (n,) int64: clusters of all processes, noise -1.
        core: (n,) bool, whether a row is a core sample; ``None`` if unknown.
        sizes: (C,) int64, number of samples of all processes in each cluster.
        spanning: Number of clusters with samples of every group; ``None`` without groups.
    """

    labels: Tensor
    core: Tensor | None
    sizes: Tensor
    spanning: int | None


def cluster_shard(
    team: Team,
    shard: Shard,
    graph: NeighborGraph[Tensor],
    clusterer: Clusterer,
    work: Work = QUIET,
) -> ShardClusters:
    """The labels of the rows of a process by any clusterer, and the sizes of all clusters.

    Args:
        team: The processes.
        shard: The rows of this process.
        graph: Their rows of the graph; ``indices`` are numbers among all samples.
        clusterer: DBSCAN runs on all processes; any other gets the whole graph on the first one.
        work: Reports progress.
    """
    if not isinstance(clusterer, DBSCAN):
        return _cluster_on_first(team, shard, graph, clusterer, work)
    labels, core, count = label_shard(
        team, shard, graph, clusterer.eps, clusterer.min_samples, work
    )
    with team.stage("clustering"):
        sizes = add_up(team, torch.bincount(labels[labels >= 0], minlength=count))
        spanning = _count_spanning(team, shard, labels)
    return ShardClusters(labels, core, sizes, spanning)


def _count_spanning(team: Team, shard: Shard, labels: Tensor) -> int | None:
    """The number of clusters with samples of every group, ``None`` without groups.

    Each process counts the groups of some clusters: their cells, pairs of cluster and group, are
    sent there.
    """
    if shard.groups is None:
        return None
    names = torch.tensor(list(shard.group_sizes), dtype=torch.int64, device=labels.device)
    num_groups = max(len(names), 1)
    is_clustered = labels >= 0
    numbers = torch.searchsorted(names, shard.groups[is_clustered])
    cells = torch.unique(labels[is_clustered] * num_groups + numbers)
    owners = cells // num_groups % team.size
    received = torch.cat(exchange(team, lambda rank: cells[owners == rank]))
    clusters = torch.unique(received) // num_groups
    groups_of_cluster = torch.unique(clusters, return_counts=True)[1]
    return int(add_up(team, (groups_of_cluster == num_groups).sum()[None]))


def _cluster_on_first(
    team: Team, shard: Shard, graph: NeighborGraph[Tensor], clusterer: Clusterer, work: Work
) -> ShardClusters:
    """The labels that the first process computes from the graph of all samples."""
    with team.stage("clustering"):
        starts = starts_of(gather_first(team, graph.indptr.diff()))
        columns = [gather_first(team, each) for each in (graph.indices, graph.distances)]
        groups = None if shard.groups is None else gather_first(team, shard.groups)
        labels, core = starts.new_zeros(0), None
        if team.rank == 0:
            whole = NeighborGraph.unchecked(starts, *columns, graph.max_distance)
            labels, core = label_graph(whole, clusterer, work)
        sizes = share_first(team, cluster_sizes(labels))
        spanning = 0 if groups is None else count_spanning(labels, groups)
        tells_core, spanning = share_first(
            team, torch.tensor([core is not None, spanning], device=labels.device).long()
        ).tolist()
        core = torch.zeros_like(labels, dtype=torch.bool) if core is None else core
        core = split_first(team, core, shard.counts) if tells_core else None
        labels = split_first(team, labels, shard.counts)
    return ShardClusters(labels, core, sizes, None if groups is None else spanning)


def label_shard(
    team: Team,
    shard: Shard,
    graph: NeighborGraph[Tensor],
    eps: float,
    min_samples: int,
    work: Work = QUIET,
) -> tuple[Tensor, Tensor, int]:
    """The labels of the rows of a process, as :meth:`mabm.NeighborGraph.dbscan` gives them.

    Args:
        team: The processes.
        shard: The rows of this process.
        graph: Their rows of the graph; ``indices`` are numbers among all samples.
        eps: Largest distance between neighbors, compared in float32.
        min_samples: Number of neighbors, including itself, that make a sample a core sample.
        work: Reports progress.

    Returns:
        (n,) int64 labels: clusters 0..C-1 of all processes, noise -1; (n,) bool, the core samples;
        and C.
    """
    with (
        team.stage("clustering"),
        work.stage("clustering", len(shard)),
        running_ops(
            f"clustering {len(shard)} samples", "lower max_distance, or k1 and k2 before it"
        ),
    ):
        radius = torch.tensor(eps, dtype=torch.float32, device=graph.distances.device)
        is_near = graph.distances <= radius
        rows, others = rows_of_entries(graph.indptr)[is_near], graph.indices[is_near]
        core = torch.bincount(rows, minlength=len(shard)) >= min_samples
        is_core = torch.cat(gather_all(team, core))
        to_core = is_core[others.long()]
        rows, others = rows[to_core], others[to_core]
        numbers = torch.arange(shard.total, dtype=torch.int32, device=core.device)
        roots = numbers.where(is_core, -1)
        # Each pair once: both triangles are there.
        joined = core[rows] & (others < rows + shard.first)
        own = (rows[joined] + shard.first).to(torch.int32)
        torch.ops.mabm.join_samples_(roots, own, others[joined])
        roots = _merged(team, roots, numbers)
        clusters = (roots == numbers).cumsum(0, dtype=torch.int32)
        clusters -= 1
        num_clusters = int(clusters[-1]) + 1 if len(clusters) else 0
        # The smallest number among the core neighbors; a core sample is one of its own.
        found = clusters[roots[others.long()].long()]
        labels = found.new_full((len(shard),), num_clusters)
        labels.scatter_reduce_(0, rows, found, "amin")
        labels = labels.long().where(labels < num_clusters, NOISE)
    return labels, core, num_clusters


def _merged(team: Team, roots: Tensor, numbers: Tensor) -> Tensor:
    """The roots (N,) of all processes together, from those of each; -1 for no root."""
    step = 1
    while step < team.size:
        partner = team.rank ^ step if team.rank % step == 0 else team.size
        if partner < team.size:
            gives = team.rank > partner
            moved = ((roots != numbers) & (roots >= 0)).nonzero().flatten() if gives else roots[:0]
            pairs = torch.stack([moved.to(torch.int32), roots[moved.long()]], dim=1)
            received = team.swap(pairs, partner, partner)
            first, second = received.unbind(dim=1)
            torch.ops.mabm.join_samples_(roots, first.contiguous(), second.contiguous())
        step *= 2
    while step > 1:
        step //= 2
        partner = team.rank ^ step if team.rank % step == 0 else team.size
        if partner < team.size:
            gives = team.rank < partner
            received = team.swap(roots if gives else roots[:0], partner, partner)
            roots = roots if gives else received
    return roots
