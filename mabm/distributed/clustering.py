"""DBSCAN on a graph whose rows several processes share: the labels of one process.

Each process joins the near core samples of its rows by union-find over all samples; the forests of
two processes are merged into one, and so on along a tree. A cluster's root is its first core
sample, so that counting roots numbers the clusters as one process does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mabm._core.device_memory import running_ops
from mabm._core.partition import NOISE
from mabm._core.work import QUIET, Work
from mabm.distance.graph import NeighborGraph
from mabm.distributed.exchange import gather_all
from mabm.distributed.fetching import rows_of_entries
from mabm.distributed.shards import Shard
from mabm.distributed.team import Team


class ShardClusters(NamedTuple):
    """What DBSCAN finds for the rows of a process.

    Attributes:
        labels: (n,) int64: clusters 0..C-1 of all processes, noise -1.
        core: (n,) bool, whether a row is a core sample.
        num_clusters: Number of clusters of all processes, C.
    """

    labels: Tensor
    core: Tensor
    num_clusters: int


def cluster_shard(
    team: Team,
    shard: Shard,
    graph: NeighborGraph[Tensor],
    eps: float,
    min_samples: int,
    work: Work = QUIET,
) -> ShardClusters:
    """The labels of the rows of a process, as :meth:`mabm.NeighborGraph.dbscan` gives them.

    Args:
        team: The processes.
        shard: The rows of this process.
        graph: Their rows of the graph; ``indices`` are numbers among all samples.
        eps: Largest distance between neighbors, compared in float32.
        min_samples: Number of neighbors, including itself, that make a sample a core sample.
        work: Reports progress.
    """
    with (
        team.stage("clustering"),
        work.stage("clustering", len(shard)),
        running_ops(f"clustering {len(shard)} samples", "lower max_distance, or k1 and k2 before it"),
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
        clusters = (roots == numbers).cumsum(0, dtype=torch.int64) - 1
        num_clusters = int(clusters[-1]) + 1 if len(clusters) else 0
        # The smallest number among the core neighbors; a core sample is one of its own.
        found = clusters[roots[others.long()].long()]
        labels = torch.full((len(shard),), num_clusters, dtype=torch.int64, device=core.device)
        labels.scatter_reduce_(0, rows, found, "amin")
        labels = labels.where(labels < num_clusters, NOISE)
    return ShardClusters(labels, core, num_clusters)


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
