"""The Jaccard distance from features or from an encoding: dense, or pruned to a graph."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from mabm._core.advice import advise
from mabm._core.arguments import check_instance, shown
from mabm._core.arrays import ArrayT, like
from mabm._core.columns import Column, check_samples
from mabm._core.device_memory import check_fits, running_ops
from mabm._core.work import QUIET, Report, Work
from mabm.distance.encoding import encode, expand
from mabm.distance.graph import DEFAULT_EPS, NeighborGraph, check_max_distance
from mabm.distance.memory import graph_bytes, list_bytes, list_width, neighbor_bytes
from mabm.distance.neighbors import find_neighbors
from mabm.distance.options import DistanceOptions, Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.distance.ranking import group_sizes, rank
from mabm.distance.rows import Encoding

logger = logging.getLogger(__name__)

_LOWER = "lower max_distance, or k1 and k2 before it"
_RAISE = "raise max_memory or lower k1"


def modality_jaccard(
    features: ArrayT,
    modality: Column | None = None,
    *,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> ArrayT:
    """Computes the modality-aware Jaccard distance between all samples, as a dense matrix.

    For clustering, use :func:`jaccard_graph` or :func:`pseudo_labels`, which need memory linear in
    N; this function is for code that needs the full matrix.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64, compared as
            float32. Not normalized here: training features are means of two unit vectors.
        modality: (N,) integers >= 0, bool or words, the group of each sample: any number of groups
            in any order. ``None`` for a single group, ranked by Euclidean distance.
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared); at least one per group, at most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]; 1 disables it. Per
            group with ``"bmil"`` (6 per group are 12 for two groups), in total with ``"spcl"`` and
            ``"modal_invariant"``. ``"ca_jaccard"`` has its own.
        preset: ``"bmil"`` (default with a modality), ``"spcl"`` (default without),
            ``"modal_invariant"``, ``"ca_jaccard"`` (the group is the camera; its four list lengths
            are fields of the preset), or a :class:`Preset` of your own.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        (N, N) float32 of the same kind as ``features``: symmetric, in [0, 1], zero on the diagonal.
        Bit-for-bit the same on every device by design, and for any number of threads. No gradient.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the message names it, the range and the value.
        MemoryError: N x N does not fit, or ``max_memory`` is too small; the message names the
            bytes.

    Source:
        Wang et al., AAAI 2026 (BMIL).

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(100, 16), dim=1)
        >>> modality = torch.arange(100) % 2
        >>> mabm.modality_jaccard(features, modality).shape
        torch.Size([100, 100])
    """
    work = Work.of(max_memory, progress)
    x, groups, _ = check_samples(features, modality)
    count = len(x)
    check_fits(
        count * count * 4,
        f"the dense ({count}, {count}) distance",
        "use mabm.jaccard_graph, which needs memory linear in N",
        x.device,
    )
    options = resolve_options(groups, k1, k2, preset, precision)
    encoding = encode_features(x, groups, options, work=work)
    return like(dense_distance(encoding, work=work), features)


def jaccard_graph(
    features: ArrayT,
    modality: Column | None = None,
    *,
    max_distance: float = DEFAULT_EPS,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> NeighborGraph[ArrayT]:
    """Computes the sparse graph of all pairs of samples within ``max_distance`` of each other.

    Its entries are those of :func:`modality_jaccard` up to ``max_distance``; no N x N matrix is
    computed. The same graph can be clustered by DBSCAN at any ``eps`` up to ``max_distance``.

    Args:
        features: (N, D) floating point tensor or array, compared as float32; not normalized here.
        modality: (N,) integers >= 0, bool or words, the group of each sample, or ``None``.
        max_distance: Largest distance kept, in [0, 1).
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared); at least one per group, at most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        The graph, with arrays of the same kind as ``features``. Bit-for-bit the same on every
        device by design, and for any number of threads. No gradient.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the message names it, the range and the value.
        MemoryError: ``max_memory`` is too small; the message names the bytes.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(100, 16), dim=1)
        >>> modality = torch.arange(100) % 2
        >>> graph = mabm.jaccard_graph(features, modality, max_distance=0.7)
        >>> labels = graph.dbscan(eps=0.6, min_samples=4)
    """
    max_distance = check_max_distance("max_distance", max_distance)
    work = Work.of(max_memory, progress)
    x, groups, _ = check_samples(features, modality)
    options = resolve_options(groups, k1, k2, preset, precision)
    pruned = prune(encode_features(x, groups, options, work=work), max_distance, work)
    graph: NeighborGraph[ArrayT] = pruned.in_kind_of(features)
    return graph


def encode_samples(
    features: ArrayT,
    modality: Column | None = None,
    *,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
    progress: bool | Report = False,
) -> Encoding[ArrayT]:
    """Runs ranking, reciprocity, encoding and query expansion in one call (steps 1 to 5).

    Args:
        features: (N, D) floating point tensor or array, compared as float32; not normalized here.
        modality: (N,) integers >= 0, bool or words, the group of each sample, or ``None``.
        k1: Number of neighbors per sample, split evenly between the groups (30: 15 visible and 15
            infrared); at least one per group, at most 1024.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.
        progress: Whether to show progress bars on standard error (they need tqdm), or a function
            that is called with a :class:`mabm.Progress` as each stage begins, about ten times a
            second, and as it ends.

    Returns:
        The rows V' of all samples, for :func:`jaccard_distance` and :func:`prune_distances`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the message names it, the range and the value.
        MemoryError: ``max_memory`` is too small; the message names the bytes.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(100, 16), dim=1)
        >>> encoding = mabm.encode_samples(features, torch.arange(100) % 2)
        >>> mabm.prune_distances(encoding, max_distance=0.7)  # doctest: +ELLIPSIS
        NeighborGraph(100 samples, ... pairs within 0.7)
    """
    work = Work.of(max_memory, progress)
    x, groups, _ = check_samples(features, modality)
    options = resolve_options(groups, k1, k2, preset, precision)
    encoded = encode_features(x, groups, options, work=work)
    encoding: Encoding[ArrayT] = encoded.in_kind_of(features)
    return encoding


def resolve_options(
    groups: Tensor | None,
    k1: int,
    k2: int,
    preset: str | Preset | None,
    precision: Precision,
) -> DistanceOptions:
    """Resolves the public keywords to options for samples of these groups (N,).

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range for the groups that occur.
    """
    num_groups = None if groups is None else len(group_sizes(groups, len(groups)))
    return DistanceOptions.resolve(k1, k2, preset, precision, num_groups=num_groups)


def encode_features(
    x: Tensor,
    groups: Tensor | None,
    options: DistanceOptions,
    *,
    whole_groups: bool = True,
    work: Work = QUIET,
) -> Encoding[Tensor]:
    """:func:`encode_samples` for checked tensors.

    Args:
        x: (N, D) float32.
        groups: (N,) int64 on the same device, or ``None``.
        options: Options of the distance.
        whole_groups: Whether to warn about each group that is small compared with its share of
            ``k1``, or only about too few samples in total: there may be a single query to re-rank.
        work: Memory limit and progress.
    """
    sizes = group_sizes(groups if whole_groups else None, len(x))
    advise_on_k1(options.preset, options.k1, sizes)
    count, width = len(x), list_width(options.preset, options.k1)
    beside = work.less(list_bytes(count, width), f"ranking {count} samples", _RAISE)
    # Known before the ranking, the longest stage: the least that the next one allocates.
    beside.less(
        neighbor_bytes(count, width, count), f"finding the neighbors of {count} samples", _RAISE
    )
    ranking = rank(x, groups, options.preset, options.k1, options.precision, beside)
    neighbors = find_neighbors(ranking, beside)
    return expand(encode(x, neighbors, ranking, beside), ranking, options.k2, beside)


def advise_on_k1(preset: Preset, k1: int, sizes: dict[int, int]) -> None:
    """Warns if a list contains more than half of the samples that it is drawn from.

    Any two samples are then more likely neighbors than not, whatever their features: neighbor sets
    are nearly the same for all samples, and everything becomes one cluster.
    """
    if preset.lists == "intra_inter":
        return  # short lists by definition
    shared = preset.lists == "per_group"
    group, size = min(sizes.items(), key=lambda item: item[1])
    size, length = (size, k1 // len(sizes)) if shared else (sum(sizes.values()), k1)
    if not size or 2 * length <= size:
        return
    of, most = "samples", size // 2
    if shared and len(sizes) > 1:
        of, most = f"samples of modality {group}", size // 2 * len(sizes)
    what = f"k1 = {k1}" if length == k1 else f"k1 = {k1}, {length} for each modality,"
    tip = f"try k1 = {most} or less, about as many as one person has images"
    if most < len(sizes):
        tip = "leave that modality out"
    advise(
        logger,
        "k1",
        f"{what} is more than half of the {size} {of}: lists this long are nearly the same for "
        f"every sample, and clusters merge; {tip}",
    )


def jaccard_distance(
    encoding: Encoding[ArrayT], rows: slice | None = None, columns: slice | None = None
) -> ArrayT:
    """Computes the Jaccard distance between rows of an encoding, as a dense matrix (step 6).

    ``s_ij = sum_l min(V_il, V_jl)`` and ``J_ij = 1 - s_ij / (2 - s_ij)``.

    Args:
        encoding: The rows V of N samples.
        rows: Samples in the rows of the result, a slice of step 1; all by default.
        columns: Samples in the columns of the result, a slice of step 1; all by default.

    Returns:
        (R, C) float32 in [0, 1], of the same kind as the encoding.

    Raises:
        TypeError: An argument is not a slice.
        ValueError: A slice has a step other than 1.

    Source:
        Wang et al., AAAI 2026 (BMIL), after Zhong et al., CVPR 2017, equation 10.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> encoding = mabm.encode_samples(features, k1=10, k2=3)
        >>> mabm.jaccard_distance(encoding, rows=slice(0, 5)).shape
        torch.Size([5, 60])
    """
    check_instance("encoding", encoding, Encoding)
    return like(dense_distance(encoding.in_tensors(), rows, columns), encoding.indices)


def dense_distance(
    encoding: Encoding[Tensor],
    rows: slice | None = None,
    columns: slice | None = None,
    work: Work = QUIET,
) -> Tensor:
    """:func:`jaccard_distance` for checked tensors."""
    parts = encoding.indptr, encoding.indices, encoding.weights
    chosen = _slice_rows(parts, rows, "rows"), _slice_rows(parts, columns, "columns")
    shape = tuple(len(indptr) - 1 for indptr, *_ in chosen)
    with (
        work.stage("dense distance", shape[0]),
        running_ops(
            f"the dense {shape} distance", "compute fewer rows at a time, or use prune_distances"
        ),
    ):
        distance: Tensor = torch.ops.mabm.jaccard_distance(*chosen[0], *chosen[1], len(encoding))
    return distance


def prune_distances(
    encoding: Encoding[ArrayT], *, max_distance: float = DEFAULT_EPS
) -> NeighborGraph[ArrayT]:
    """Computes the graph of all pairs within ``max_distance``, using memory linear in the pairs.

    Args:
        encoding: The rows V of N samples.
        max_distance: Largest Jaccard distance kept, in [0, 1).

    Returns:
        The graph, with arrays of the same kind as the encoding.

    Raises:
        TypeError: ``max_distance`` is not a number.
        ValueError: ``max_distance`` is outside [0, 1).

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> encoding = mabm.encode_samples(features, k1=10, k2=3)
        >>> mabm.prune_distances(encoding, max_distance=0.5).max_distance
        0.5
    """
    check_instance("encoding", encoding, Encoding)
    bound = check_max_distance("max_distance", max_distance)
    graph: NeighborGraph[ArrayT] = prune(encoding.in_tensors(), bound).in_kind_of(encoding.indices)
    return graph


def prune(
    encoding: Encoding[Tensor], max_distance: float, work: Work = QUIET
) -> NeighborGraph[Tensor]:
    """:func:`prune_distances` for checked tensors."""
    what = f"the graph of {len(encoding)} samples"
    num_bytes = graph_bytes(len(encoding), len(encoding.indices), num_pairs=len(encoding))
    work.less(num_bytes, what, _LOWER)
    with (
        work.stage("graph", len(encoding)),
        running_ops(what, _LOWER),
    ):
        parts = torch.ops.mabm.jaccard_graph(
            encoding.indptr, encoding.indices, encoding.weights, max_distance
        )
    return NeighborGraph.unchecked(*parts, max_distance)


def _slice_rows(parts: tuple[Tensor, ...], chosen: slice | None, name: str) -> tuple[Tensor, ...]:
    if chosen is None:
        return parts
    if not isinstance(chosen, slice):
        raise TypeError(
            f"{name} must be a slice or None, got {type(chosen).__name__}: {shown(chosen)}"
        )
    indptr, indices, weights = parts
    start, stop, step = chosen.indices(len(indptr) - 1)
    if step != 1:
        raise ValueError(f"{name} must be a slice of step 1, got {chosen}")
    stop = max(start, stop)
    first, last = int(indptr[start]), int(indptr[stop])
    return indptr[start : stop + 1] - first, indices[first:last], weights[first:last]
