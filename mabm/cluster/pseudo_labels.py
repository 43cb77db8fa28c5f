"""Pseudo-labels: from features to cluster labels and their statistics in one call."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor

from mabm._core.advice import advise, is_wanted
from mabm._core.arguments import shown
from mabm._core.array_records import ArrayRecord
from mabm._core.arrays import Array, ArrayT, like, to_tensor
from mabm._core.columns import (
    Column,
    Samples,
    check_categories,
    check_column,
    check_samples,
    holds_integers,
    name_of_group,
)
from mabm._core.partition import NOISE, cluster_sizes, count_spanning
from mabm._core.saving import Saved
from mabm._core.work import QUIET, Report, Work
from mabm.cluster.dbscan import DBSCAN, Clusterer, choose_clusterer
from mabm.distance.graph import NeighborGraph, check_max_distance
from mabm.distance.jaccard import encode_features, prune, resolve_options
from mabm.distance.options import DistanceOptions, Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset

logger = logging.getLogger(__name__)

# A cluster is suspiciously large if it has this many samples, this share of all samples, and this
# multiple of the median size of the others (without others, half of all samples). SYSU-MM01 and
# RegDB have about 60 and 20 samples per identity, 0.3 and 0.5 % of all; a few clusters of equal
# size do not count.
_LARGE = 50
_LARGE_SHARE = 0.05
_LARGE_MULTIPLE = 10


@dataclass(frozen=True)
class ClusterSummary(Saved):
    """Statistics of a clustering of N samples; ``str`` formats them in a few lines.

    Attributes:
        num_samples: Number of samples, N.
        num_clusters: Number of clusters.
        num_spanning: Number of clusters with samples of every modality, or ``None`` without a
            modality.
        num_noise: Number of samples in no cluster.
        samples: Number of samples per modality, by its name, or by its number if it has no name;
            empty without a modality.
        smallest_cluster: Size of the smallest cluster, 0 without clusters.
        median_cluster: Median size of the clusters, 0 without clusters.
        largest_cluster: Size of the largest cluster, 0 without clusters.
        largest_share: Share of all N samples in the largest cluster, in [0, 1].

    Example:
        >>> import mabm
        >>> mabm.PseudoLabels([0, 0, 1, 1, 1, -1]).summary().largest_share
        0.5
    """

    num_samples: int
    num_clusters: int
    num_spanning: int | None
    num_noise: int
    samples: dict[str, int]
    smallest_cluster: int
    median_cluster: float
    largest_cluster: int
    largest_share: float

    def __str__(self) -> str:
        spanning = ""
        if self.num_spanning is not None:
            spanning = f", {self.num_spanning} of them spanning every modality"
        noise = 100 * self.num_noise / max(self.num_samples, 1)
        groups = ", ".join(
            f"{count} of modality {name}" if name.isdecimal() else f"{count} {name}"
            for name, count in self.samples.items()
        )
        lines = [
            f"{self.num_samples} samples{f' ({groups})' if groups else ''}, "
            f"{self.num_noise} in no cluster ({noise:.1f} %)",
            f"{self.num_clusters} clusters{spanning}",
        ]
        if self.num_clusters:
            lines.append(
                f"sizes {self.smallest_cluster} to {self.largest_cluster}, median "
                f"{self.median_cluster:g}; the largest has {100 * self.largest_share:.1f} % of all "
                "samples"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PseudoLabels(ArrayRecord, Generic[ArrayT]):
    """Cluster labels of N samples, with statistics that are computed when they are first read.

    In labels made by hand, clusters may have any numbers >= 0; numbers without samples do not
    count. Functions that take labels also accept ``PseudoLabels``: :func:`mabm.split_prototypes`,
    :class:`mabm.IdentityBatchSampler`, :func:`mabm.associate_clusters` and others.

    Attributes:
        labels: (N,) int64: clusters 0..C-1 without gaps, noise -1.
        modality: (N,) int64, the group of each sample, or ``None``. If made by hand, it may also be
            bool or words, which are numbered as in :func:`pseudo_labels`.
        modality_names: Names of modality 0, 1, ..., or ``None`` if they have only numbers.
        core: (N,) bool, whether a sample is a core sample: it has ``min_samples`` neighbors within
            ``eps``, including itself. ``None`` if unknown, as in labels made by hand.

    Raises:
        TypeError: Labels or modality made by hand have the wrong type.
        ValueError: They are not (N,), or a value is missing. A label below -1 is reported only when
            a statistic is read, since checking labels waits for their device.

    Example:
        >>> import numpy as np, mabm
        >>> labels = np.array([0, 0, 1, 1, 1, -1])
        >>> found = mabm.PseudoLabels(labels, ["visible", "infrared", "visible"] * 2)
        >>> found.modality, found.modality_names
        (array([1, 0, 1, 1, 0, 1]), ('infrared', 'visible'))
        >>> print(found.summary())
        6 samples (2 infrared, 4 visible), 1 in no cluster (16.7 %)
        2 clusters, 2 of them spanning every modality
        sizes 2 to 3, median 2.5; the largest has 50.0 % of all samples
    """

    labels: ArrayT
    modality: Array | None = None
    modality_names: tuple[str, ...] | None = None
    core: ArrayT | None = None

    _warns: ClassVar[bool] = False  # whether to warn about a large cluster, if eps may be too high

    def __post_init__(self) -> None:
        """Converts lists, Series and words; does not wait for a device."""
        labels: Any = self.labels
        is_int64 = holds_integers(labels) and str(labels.dtype).removeprefix("torch.") == "int64"
        if not (is_int64 and labels.ndim == 1):
            column = check_column(labels, None, "labels", "one per sample")
            labels = column if isinstance(labels, Tensor) else column.numpy()
            object.__setattr__(self, "labels", labels)
        if self.modality is not None:
            each = "one group per row of labels"
            found = check_categories(self.modality, len(labels), "modality", each, takes_bool=True)
            if not holds_integers(self.modality):
                object.__setattr__(self, "modality", like(found.columns[0], labels))
                object.__setattr__(self, "modality_names", found.names)
        names: Any = self.modality_names
        is_named = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not (names is None or is_named):
            raise TypeError(f"modality_names must be a tuple of words or None, got {shown(names)}")
        if self.core is not None:
            _check_core(self.core, len(labels), "core")

    @cached_property
    def _labels(self) -> Tensor:
        labels = to_tensor(self.labels, "labels")
        _check_least(labels, "labels")
        return labels

    @cached_property
    def _sizes(self) -> Tensor:
        sizes = cluster_sizes(self._labels)
        if self._warns:
            advise_on_sizes(sizes, len(self._labels))
        return sizes

    @property
    def _num_samples(self) -> int:
        return len(self.labels)

    @cached_property
    def _group_sizes(self) -> dict[int, int]:
        """Number of samples by modality, ascending; empty without a modality."""
        if self.modality is None:
            return {}
        groups, counts = torch.unique(to_tensor(self.modality, "modality"), return_counts=True)
        return dict(zip(groups.tolist(), counts.tolist(), strict=True))

    @property
    def num_clusters(self) -> int:
        """Number of clusters, C."""
        return len(self._sizes)

    @cached_property
    def num_noise(self) -> int:
        """Number of samples in no cluster."""
        return int((self._labels < 0).sum())

    @cached_property
    def num_spanning(self) -> int | None:
        """Number of clusters with samples of every modality, or ``None`` without a modality."""
        if self.modality is None:
            return None
        return count_spanning(self._labels, to_tensor(self.modality, "modality"))

    @cached_property
    def size_histogram(self) -> dict[int, int]:
        """Number of clusters of each size, by ascending size."""
        return dict(sorted(Counter(self._sizes.tolist()).items()))

    def summary(self) -> ClusterSummary:
        """Statistics of the labels, with names of modalities; synchronizes with a GPU."""
        sizes = self._sizes.sort().values
        middle = len(sizes) // 2, (len(sizes) - 1) // 2
        total = self._num_samples
        largest = int(sizes[-1]) if len(sizes) else 0
        return ClusterSummary(
            num_samples=total,
            num_clusters=len(sizes),
            num_spanning=self.num_spanning,
            num_noise=self.num_noise,
            samples={
                name_of_group(group, self.modality_names): count
                for group, count in self._group_sizes.items()
            },
            smallest_cluster=int(sizes[0]) if len(sizes) else 0,
            median_cluster=sum(sizes[list(middle)].tolist()) / 2 if len(sizes) else 0.0,
            largest_cluster=largest,
            largest_share=largest / max(total, 1),
        )

    def __repr__(self) -> str:
        spanning = "" if self.modality is None else f", {self.num_spanning} spanning"
        return (
            f"PseudoLabels({len(self.labels)} samples: {self.num_clusters} clusters{spanning}, "
            f"{self.num_noise} noise)"
        )


def pseudo_labels(
    features: ArrayT,
    modality: Column | None = None,
    *,
    eps: float | None = None,
    min_samples: int | None = None,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    clusterer: Clusterer | None = None,
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> PseudoLabels[ArrayT]:
    """Returns pseudo-labels: clusters by DBSCAN, or another clusterer, on the Jaccard distance.

    Memory is linear in N. Three likely mistakes are logged as warnings with advice, once per
    process: ``k1`` larger than half of a group, features of widely different lengths ranked by
    inner product, and a single cluster with a suspiciously large share of the samples (on a GPU,
    when the statistics of the result are first read).

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, compared as
            float32; not normalized here.
        modality: (N,) integers >= 0, bool or words, the group of each sample, or ``None``: a
            tensor, an array, a list or a pandas Series. Words are numbered from 0 in sorted order;
            the result keeps them as ``modality_names``.
        eps: DBSCAN's largest distance between neighbors, in [0, 1); ``None`` uses the default of
            :class:`mabm.DBSCAN`, 0.6. Published: 0.6 on SYSU-MM01, 0.3 on RegDB.
        min_samples: Number of neighbors within ``eps``, including itself, that make a sample a core
            sample of DBSCAN; ``None`` uses the default of :class:`mabm.DBSCAN`, 4.
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared); at least one per group, at most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without. With ``"spcl"``, the modality is used for statistics only.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        clusterer: Computes the labels from the graph, instead of ``eps`` and ``min_samples``: a
            :class:`mabm.DBSCAN` or any other :class:`mabm.Clusterer`.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        Labels of the same kind as ``features``, on the same device, with their statistics, numbered
        by the clusterer. DBSCAN numbers clusters by their first core sample; a border sample gets
        the smallest cluster number among its core neighbors, and noise is -1. Its labels equal
        those of scikit-learn's DBSCAN on the dense distance, on every device by design, and for any
        number of threads.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or ``clusterer`` is given together with ``eps`` or
            ``min_samples``; the message names it, the range and the value. Labels returned by
            ``clusterer`` must be (N,) integers >= -1; messages call them ``clusterer(graph)``.
        MemoryError: ``max_memory`` is too small; the message names the bytes.

    Source:
        Wang et al., AAAI 2026 (BMIL); Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm
        >>> centers = torch.eye(8).repeat_interleave(10, dim=0)
        >>> features = centers + 0.01 * torch.randn(80, 8)
        >>> mabm.pseudo_labels(features, torch.arange(80) % 2, k1=10, k2=2)
        PseudoLabels(80 samples: 8 clusters, 8 spanning, 0 noise)
    """
    chosen = choose_clusterer(clusterer, eps, min_samples)
    work = Work.of(max_memory, progress)
    samples = check_samples(features, modality)
    options = resolve_options(samples.groups, k1, k2, preset, precision)
    clustered = cluster_samples(samples, options, chosen, work)
    found: PseudoLabels[ArrayT] = clustered.in_kind_of(features)
    watch_sizes(found, chosen)
    return found


def cluster_samples(
    samples: Samples, options: DistanceOptions, clusterer: Clusterer, work: Work = QUIET
) -> PseudoLabels[Tensor]:
    """:func:`pseudo_labels` for checked tensors."""
    x, groups, names = samples
    bound = check_clusterer_distance(clusterer)
    graph = prune(encode_features(x, groups, options, work=work), bound, work)
    labels, core = label_graph(graph, clusterer, work)
    return PseudoLabels(labels, groups, names, core)


def check_clusterer_distance(clusterer: Clusterer) -> float:
    """Returns the distance up to which a clusterer needs the graph, in [0, 1)."""
    return check_max_distance("clusterer.max_distance", clusterer.max_distance)


def label_graph(
    graph: NeighborGraph[Tensor], clusterer: Clusterer, work: Work = QUIET
) -> tuple[Tensor, Tensor | None]:
    """(N,) int64 labels by a clusterer, and (N,) bool core samples if it tells them; checked.

    Raises:
        TypeError: The clusterer did not return what it must.
        ValueError: The same.
    """
    count, device = len(graph), graph.indices.device
    with work.stage("clustering", count):
        clustered = clusterer(graph)
    labels = check_column(clustered, count, "clusterer(graph)", "one per sample")
    if not isinstance(clusterer, DBSCAN):  # its labels are valid, and may be on a busy GPU
        _check_least(labels, "clusterer(graph)")
    find_core = getattr(clusterer, "core_samples", None)
    core = None
    if find_core is not None:
        name = "clusterer.core_samples(graph)"
        core = _check_core(find_core(graph), count, name).to(device)
    return labels.to(device), core


def _check_least(labels: Tensor, name: str) -> None:
    if len(labels) and (least := int(labels.min())) < NOISE:
        raise ValueError(f"{name} must be clusters >= 0 or -1 for noise, got {least}")


def _check_core(value: object, count: int, name: str) -> Tensor:
    core = to_tensor(value, name)
    if core.dtype != torch.bool or core.shape != (count,):
        raise ValueError(
            f"{name} must be ({count},) bool, one per sample, got {tuple(core.shape)} {core.dtype}"
        )
    return core


def watch_sizes(found: PseudoLabels[Any], clusterer: Clusterer) -> None:
    """Lets labels by DBSCAN warn about a suspiciously large cluster when sizes are computed.

    On the CPU, sizes are computed now; on a GPU, when they are first read, to avoid waiting.
    """
    if not isinstance(clusterer, DBSCAN):
        return
    object.__setattr__(found, "_warns", True)
    if getattr(found.labels, "is_cpu", True) and is_wanted(logger, "large cluster"):
        found.num_clusters  # noqa: B018  # counts, and warns


def advise_on_sizes(sizes: Tensor, total: int) -> None:
    """Warns if one cluster has a suspiciously large share of the samples."""
    if not len(sizes):
        return
    ordered = sizes.sort().values
    largest = int(ordered[-1])
    others = ordered[:-1]
    median = int(others[len(others) // 2]) if len(others) else 0
    share = _LARGE_SHARE if len(others) else 0.5
    if largest >= max(_LARGE, share * total, _LARGE_MULTIPLE * median):
        than = f", while half of the others have at most {median}" if len(others) else ""
        advise(
            logger,
            "large cluster",
            f"one of {len(sizes)} clusters has {largest} of {total} samples "
            f"({100 * largest / total:.0f} %){than}: it may contain several people; try a "
            "lower eps (NeighborGraph.sweep compares some, or mabm cluster --sweep)",
        )
