"""Neighbors, the graph and DBSCAN on several processes, each with its own rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mabm._core.arguments import check_instance
from mabm._core.arrays import ArrayT, like
from mabm._core.columns import Column
from mabm._core.work import Report, Work
from mabm.distance.graph import (
    DEFAULT_EPS,
    DEFAULT_MIN_SAMPLES,
    NeighborGraph,
    check_max_distance,
    check_min_samples,
    check_radius,
)
from mabm.distance.jaccard import advise_on_k1
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.distributed.agreement import Ready
from mabm.distributed.calls import Call, open_call
from mabm.distributed.clustering import label_shard
from mabm.distributed.encoding import encode_shard, expand_shard
from mabm.distributed.graph import prune_shard
from mabm.distributed.meeting import meet
from mabm.distributed.neighbors import find_neighbors_of_shard
from mabm.distributed.ranking import rank_shards
from mabm.distributed.records import ShardGraph, ShardRanking
from mabm.distributed.shards import Shard


def rank_neighbors(
    features: ArrayT,
    modality: Column | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    k1: int = DEFAULT_K1,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    timeout: float | timedelta | None = None,
    progress: bool | Report = False,
) -> ShardRanking[ArrayT]:
    """Computes the nearest neighbors of this process's rows among the samples of all processes.

    Each process of the group calls this with its own rows: any number, also none. Samples are
    numbered in the order of ranks, and by row within a process.

    Args:
        features: (n, D) float16, bfloat16, float32 or float64, compared as float32; not normalized
            here. The same type, D and kind of device on every process.
        modality: (n,) integers >= 0, bool or words, the group of each row, or ``None``; words are
            numbered over all processes.
        group: The processes; ``None`` for the default group of ``torch.distributed``, or for this
            process alone if there is none.
        k1: Total length of the lists, as in :func:`mabm.rank_neighbors`.
        preset: Defines the lists and the metric, as in :func:`mabm.rank_neighbors`.
        precision: ``"exact"``, or ``"fast"``, which may miss a neighbor; which one depends on how
            the rows are split, too.
        timeout: Seconds to wait for another process at a time, or a ``timedelta``; ``None`` for the
            timeout of the group.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends. It counts the rows of this process.

    Returns:
        The lists of this process's rows, bit for bit those that :func:`mabm.rank_neighbors` gives
        for the rows of all processes, for any number of processes and any split.

    Raises:
        TypeError: An argument has the wrong type, here or on another process.
        ValueError: An argument is out of range, here or on another process, or differs between
            processes. The message names it and the process.
        ProcessError: A process did not call this, or was lost on the way. The message names it.

    Source:
        Wang et al., AAAI 2026 (BMIL); with ``preset="spcl"`` Zhong et al., CVPR 2017.

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        >>> mabm.distributed.rank_neighbors(features, k1=2).ranks.tolist()  # one process
        [[0, 1], [1, 0], [2, 1], [3, 2]]
    """

    def check() -> tuple[Work, dict[str, object]]:
        return Work.of(progress=progress), {}

    with open_call(
        "rank_neighbors",
        features,
        modality,
        group,
        timeout,
        k1=k1,
        k2=None,
        preset=preset,
        precision=precision,
        check_more=check,
    ) as call:
        ranking = rank_shards(call.team, call.shard, call.options, call.own)
    values = [getattr(ranking, name) for name in ("ranks", "scores", "widths", "preset", "k1")]
    place = call.shard.first, call.shard.total
    ranked: ShardRanking[ArrayT] = ShardRanking.unchecked(
        *values, ranking.groups, None, *place
    ).in_kind_of(features)
    return ranked


def jaccard_graph(
    features: ArrayT,
    modality: Column | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    max_distance: float = DEFAULT_EPS,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    timeout: float | timedelta | None = None,
    progress: bool | Report = False,
) -> ShardGraph[ArrayT]:
    """Computes the pairs of this process's rows with all samples within ``max_distance``.

    Args:
        features: (n, D) of this process, as in :func:`mabm.distributed.rank_neighbors`.
        modality: (n,) integers >= 0, bool or words, the group of each row, or ``None``.
        group: The processes; ``None`` for the default group, or for this process alone.
        max_distance: Largest distance kept, in [0, 1).
        k1: Number of neighbors per sample, as in :func:`mabm.jaccard_graph`.
        k2: Number of neighbors averaged by local query expansion, in [1, k1].
        preset: Name of a published distance or a :class:`mabm.Preset`.
        precision: ``"exact"``, or ``"fast"``, which may miss a neighbor.
        timeout: Seconds to wait for another process at a time, or a ``timedelta``; ``None`` for the
            timeout of the group.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends. It counts the rows of this process.

    Returns:
        The rows of this process of the graph that :func:`mabm.jaccard_graph` gives for the rows of
        all processes, bit for bit. Cluster it with :func:`mabm.distributed.dbscan`, at any ``eps``
        up to ``max_distance``.

    Raises:
        TypeError: An argument has the wrong type, here or on another process.
        ValueError: An argument is out of range, here or on another process, or differs between
            processes. The message names it and the process.
        ProcessError: A process did not call this, or was lost on the way. The message names it.

    Source:
        Wang et al., AAAI 2026 (BMIL).

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.eye(2).repeat_interleave(4, dim=0)
        >>> mabm.distributed.jaccard_graph(features, k1=4, k2=1)  # one process
        ShardGraph(8 of 8 samples, 32 pairs within 0.6)
    """

    def check() -> tuple[tuple[Work, float], dict[str, object]]:
        bound = check_max_distance("max_distance", max_distance)
        return (Work.of(progress=progress), bound), {"max_distance": bound}

    with open_call(
        "jaccard_graph",
        features,
        modality,
        group,
        timeout,
        k1=k1,
        k2=k2,
        preset=preset,
        precision=precision,
        check_more=check,
    ) as call:
        work, bound = call.own
        pruned = graph_of_call(call, bound, work)
    graph: ShardGraph[ArrayT] = ShardGraph.unchecked(
        *pruned.tensors(), bound, call.shard.first, call.shard.total
    ).in_kind_of(features)
    return graph


def graph_of_call(call: Call[Any], max_distance: float, work: Work) -> NeighborGraph[Tensor]:
    """The rows of the graph of this process, from features."""
    team, shard, options = call.team, call.shard, call.options
    if team.rank == 0:
        advise_on_k1(options.preset, options.k1, shard.group_sizes or {0: 0})
    ranking = rank_shards(team, shard, options, work)
    neighbors = find_neighbors_of_shard(team, shard, ranking, work)
    encoding = encode_shard(team, shard, neighbors, ranking, work)
    del neighbors
    encoding = expand_shard(team, shard, encoding, ranking, options.k2, work)
    del ranking  # the graph needs the memory
    return prune_shard(team, shard, encoding, max_distance, work)


def dbscan(
    graph: ShardGraph[ArrayT],
    group: dist.ProcessGroup | None = None,
    *,
    eps: float = DEFAULT_EPS,
    min_samples: int = DEFAULT_MIN_SAMPLES,
    timeout: float | timedelta | None = None,
) -> ArrayT:
    """Clusters the samples of all processes with DBSCAN, from the graph that they share.

    Args:
        graph: The rows of this process, from :func:`mabm.distributed.jaccard_graph` in the same
            group.
        group: The processes; ``None`` for the default group, or for this process alone.
        eps: Largest distance between neighbors, in [0, ``graph.max_distance``]; compared in
            float32.
        min_samples: Number of neighbors, including itself, that make a sample a core sample.
        timeout: Seconds to wait for another process at a time, or a ``timedelta``; ``None`` for the
            timeout of the group.

    Returns:
        (n,) int64 labels of this process's rows, those of :meth:`mabm.NeighborGraph.dbscan` on the
        graph of all samples: clusters are numbered 0..C-1 over all processes, noise is -1.

    Raises:
        TypeError: An argument has the wrong type, here or on another process.
        ValueError: An argument is out of range, here or on another process, or differs between
            processes; or the graphs are not those of one call. The message names the process.
        ProcessError: A process did not call this, or was lost on the way. The message names it.

    Source:
        Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.eye(2).repeat_interleave(4, dim=0)
        >>> graph = mabm.distributed.jaccard_graph(features, k1=4, k2=1)
        >>> mabm.distributed.dbscan(graph, eps=0.3).tolist()  # one process
        [0, 0, 0, 0, 1, 1, 1, 1]
    """

    def prepare() -> Ready[tuple[NeighborGraph[Tensor], float, int]]:
        check_instance("graph", graph, ShardGraph)
        own = graph.in_tensors()
        agreed = {
            "eps": check_radius(eps, graph.max_distance),
            "min_samples": check_min_samples(min_samples),
            "graph.max_distance": graph.max_distance,
            "graph.num_samples": graph.num_samples,
        }
        facts = {"count": len(graph), "first": graph.first_row}
        arguments = own, agreed["eps"], int(agreed["min_samples"])
        return Ready(agreed, facts, own.indices.device, arguments)

    def check(facts: list[dict[str, int]]) -> None:
        total = 0
        for rank, each in enumerate(facts):
            if each["first"] != total:
                raise ValueError(
                    "graph must be what jaccard_graph gave to each process of the group, got rows "
                    f"from {each['first']} on instead of {total} on process {rank}"
                )
            total += each["count"]
        if total != graph.num_samples:
            raise ValueError(
                f"graph must be what jaccard_graph gave to each process of the group, got {total} "
                f"rows in all for {graph.num_samples} samples"
            )

    with meet("dbscan", group, timeout, prepare, check) as meeting:
        own, radius, least = meeting.own
        counts = tuple(each["count"] for each in meeting.facts)
        nothing = torch.empty((len(graph), 0), dtype=torch.float32, device=own.indices.device)
        shard = Shard(nothing, None, meeting.team.rank, counts, {0: graph.num_samples})
        labels = label_shard(meeting.team, shard, own, radius, least)[0]
    return like(labels, graph.indices)
