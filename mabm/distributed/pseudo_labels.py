"""Pseudo-labels on several processes: from features to cluster labels and their statistics."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from mabm._core.advice import is_wanted
from mabm._core.arrays import ArrayT, to_tensor
from mabm._core.columns import Column
from mabm._core.work import QUIET, Report, Work
from mabm.cluster.dbscan import DBSCAN, Clusterer, choose_clusterer
from mabm.cluster.pseudo_labels import advise_on_sizes, check_clusterer_distance
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.distributed.calls import Call, open_call
from mabm.distributed.clustering import cluster_shard
from mabm.distributed.pipeline import graph_of_call
from mabm.distributed.records import ShardLabels

logger = logging.getLogger(__name__)


def pseudo_labels(
    features: ArrayT,
    modality: Column | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    eps: float | None = None,
    min_samples: int | None = None,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    clusterer: Clusterer | None = None,
    timeout: float | timedelta | None = None,
    progress: bool | Report = False,
) -> ShardLabels[ArrayT]:
    """Returns pseudo-labels of this process's rows, clustered with the rows of all processes.

    Each process of the group calls this with its own rows: any number, also none. Samples are
    numbered in the order of ranks, and by row within a process. No process has the features of all:
    memory is that of the own rows, of those of one other process, and of integers for the samples
    near the own rows.

    Args:
        features: (n, D) float16, bfloat16, float32 or float64, compared as float32; not normalized
            here. The same type, D and kind of device on every process.
        modality: (n,) integers >= 0, bool or words, the group of each row, or ``None``; words are
            numbered over all processes.
        group: The processes; ``None`` for the default group of ``torch.distributed``, or for this
            process alone if there is none.
        eps: DBSCAN's largest distance between neighbors, in [0, 1); ``None`` is 0.6.
        min_samples: Number of neighbors within ``eps``, including itself, that make a sample a core
            sample of DBSCAN; ``None`` is 4.
        k1: Number of neighbors per sample, as in :func:`mabm.pseudo_labels`.
        k2: Number of neighbors averaged by local query expansion, in [1, k1].
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: ``"exact"``, or ``"fast"``, which may miss a neighbor; which one depends on how
            the rows are split, too.
        clusterer: Instead of ``eps`` and ``min_samples``: a :class:`mabm.DBSCAN`, or any other
            :class:`mabm.Clusterer`. Another one gets the graph of all samples on the first process,
            which needs memory for it; that of the first process is used.
        timeout: Seconds to wait for another process at a time, or a ``timedelta``; ``None`` for the
            timeout of the group.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends. It counts the rows of this process.

    Returns:
        The labels of this process's rows, equal to those that :func:`mabm.pseudo_labels` gives for
        the rows of all processes, for any number of processes and any split. Clusters are numbered
        over all processes; ``num_clusters``, ``summary()`` and the other statistics are those of
        all samples.

    Raises:
        TypeError: An argument has the wrong type, here or on another process.
        ValueError: An argument is out of range, here or on another process, or differs between
            processes. The message names it and the process.
        ProcessError: A process did not call this, or was lost on the way. The message names it.

    Source:
        Wang et al., AAAI 2026 (BMIL); Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.eye(2).repeat_interleave(4, dim=0)
        >>> mabm.distributed.pseudo_labels(features, k1=4, k2=1)  # one process
        ShardLabels(8 of 8 samples: 2 clusters, 0 noise)
    """

    def check() -> tuple[tuple[Clusterer, Work], dict[str, object]]:
        chosen = choose_clusterer(clusterer, eps, min_samples)
        agreed: dict[str, object] = {
            "clusterer": chosen if isinstance(chosen, DBSCAN) else type(chosen).__name__,
            "clusterer.max_distance": check_clusterer_distance(chosen),
        }
        return (chosen, Work.of(progress=progress)), agreed

    with open_call(
        "pseudo_labels",
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
        chosen, work = call.own
        labels = cluster_call(call, chosen, work)
    found: ShardLabels[ArrayT] = labels.in_kind_of(features)
    if call.team.rank == 0 and isinstance(chosen, DBSCAN) and is_wanted(logger, "large cluster"):
        advise_on_sizes(to_tensor(labels.cluster_sizes, "cluster_sizes"), labels.num_samples)
    return found


def cluster_call(call: Call[Any], clusterer: Clusterer, work: Work = QUIET) -> ShardLabels[Tensor]:
    """:func:`pseudo_labels` for a call of all processes, without advice on large clusters."""
    team, shard = call.team, call.shard
    graph = graph_of_call(call, check_clusterer_distance(clusterer), work)
    clusters = cluster_shard(team, shard, graph, clusterer, work)
    return ShardLabels.unchecked(
        clusters.labels,
        shard.groups,
        call.group_names,
        clusters.core,
        shard.first,
        shard.total,
        clusters.sizes,
        {} if shard.groups is None else shard.group_sizes,
        clusters.spanning,
    )
