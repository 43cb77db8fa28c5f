"""Labels of new samples: assigns them to the clusters of an earlier clustering."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mabm._core.arrays import Array, ArrayT, check_features, like, to_tensor
from mabm._core.columns import (
    Column,
    Labels,
    check_labels,
    check_modality,
    labels_of,
    read_categories,
)
from mabm._core.work import QUIET, Work
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.distance.graph import DEFAULT_EPS, NeighborGraph, check_max_distance
from mabm.distance.jaccard import encode_features, prune, resolve_options
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset


def predict_labels(
    new_features: ArrayT,
    new_modality: Column | None,
    features: Array,
    found: Labels,
    *,
    eps: float = DEFAULT_EPS,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    max_memory: int | str | None = None,
) -> ArrayT:
    """Returns the cluster of each new sample's nearest core sample, by the same distance.

    New and clustered samples are ranked and encoded together. A new sample whose nearest core
    sample is farther than ``eps`` is noise. Memory is linear in the number of samples, and the
    labels of the clustered samples do not change.

    The Jaccard distance compares neighborhoods, and the new samples of a call are in each other's
    neighborhoods. So a label depends slightly on the other new samples of its call, more so if they
    are many or resemble each other. To avoid this, pass one new sample at a time, although each
    call ranks all samples again. If there are about as many new samples as clustered ones, cluster
    all samples again instead.

    Args:
        new_features: (M, D) tensor or array of float16, bfloat16, float32 or float64, from the
            encoder that computed ``features``; compared as float32, not normalized here.
        new_modality: (M,) integers >= 0, the group of each new sample, numbered as for the
            clustered samples, or names if ``found`` has them; ``None`` if the clustered samples
            have no modality. Not every group needs to occur.
        features: (N, D) features of the clustered samples, in the order of their labels, on the
            same device.
        found: The result of :func:`mabm.pseudo_labels` for ``features``: labels, modality, and core
            samples. If ``found.core`` is ``None``, as in labels made by hand, every clustered
            sample counts as a core sample. For samples without a modality, also (N,) integer
            labels, -1 for noise; with one, pass ``PseudoLabels(labels, modality)``.
        eps: Largest distance from a core sample, in [0, 1). Use the value of the clustering.
        k1: Number of neighbors per sample, split evenly between the groups; at least one per group,
            at most 1024. Use the value of the clustering.
        k2: Number of neighbors averaged by local query expansion, in [1, k1]: per group with
            ``"bmil"``, otherwise in total. Use the value of the clustering.
        preset: Name of a published distance or a :class:`mabm.Preset`; by default ``"bmil"`` with a
            modality, ``"spcl"`` without. Use the value of the clustering.
        precision: Precision of the ranking: ``"exact"``, ``"fast"``, or an approximate search as in
            :func:`mabm.rank_neighbors`. Use the value of the clustering.
        max_memory: Most memory to allocate beyond the features in float32 and the result, on their
            device: a number of bytes, or words such as ``"4GB"`` or ``"512MiB"``; ``None`` for no
            limit. The ranking works in smaller parts to keep it; results are the same, but for the
            samples that ``"fast"`` misses. What an approximate search allocates is not limited.

    Returns:
        (M,) int64 labels of the same kind as ``new_features``, on the same device: clusters of
        ``found``, -1 for noise. Among core samples at equal distance, the one with the lower index
        decides. The same on every device by design, and for any number of threads.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the features differ in their number of columns or
            device, ``found`` does not have one label per sample, or only one of the two has a
            modality.
        MemoryError: ``max_memory`` is too small; the message names the bytes.

    Source:
        DBSCAN's rule for samples near a core sample: Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm
        >>> person = torch.arange(8).repeat_interleave(10)
        >>> features, modality = torch.eye(8)[person], torch.arange(80) % 2
        >>> found = mabm.pseudo_labels(features, modality, k1=10, k2=2)
        >>> new_features, new_modality = torch.eye(8)[[6, 2]], torch.tensor([1, 0])
        >>> mabm.predict_labels(new_features, new_modality, features, found, k1=10, k2=2)
        tensor([6, 2])
    """
    work = Work.of(max_memory)
    eps = check_max_distance("eps", eps)
    new, x = check_features(new_features, "new_features"), check_features(features)
    if new.shape[1] != x.shape[1]:
        raise ValueError(
            f"new_features must have {x.shape[1]} columns, as in features, got {new.shape[1]}"
        )
    if new.device != x.device:
        raise ValueError(f"new_features must be on {x.device}, as features, got {new.device}")
    given: Any = found
    clustering: PseudoLabels[Any] = (
        given if isinstance(given, PseudoLabels) else PseudoLabels(labels_of(given))
    )
    options = {"k1": k1, "k2": k2, "preset": preset, "precision": precision}
    return like(assign(new, new_modality, x, clustering, eps, work, **options), new_features)


def assign(
    new: Tensor,
    new_modality: Column | None,
    x: Tensor,
    clustering: PseudoLabels[Any],
    eps: float,
    work: Work = QUIET,
    **options: Any,
) -> Tensor:
    """:func:`predict_labels` for checked tensors, with its other ``options``."""
    labels, core = _check_clusters(clustering, len(x), x.device)
    groups = _joined_modality(new, new_modality, x, clustering)
    resolved = resolve_options(groups, **options)
    num_bytes = 4 * (len(x) + len(new)) * x.shape[1]
    beside = work.less(num_bytes, "joining new and clustered samples", "label fewer at a time")
    together = torch.cat([x, new])
    encoding = encode_features(together, groups, resolved, whole_groups=False, work=beside)
    graph = prune(encoding, eps, beside)
    return _nearest(graph, labels, core)


def _check_clusters(
    found: PseudoLabels[Any], count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Labels of the clustered samples, and a mask of the core samples."""
    labels = check_labels(found, count, "found", "one label per row of features").to(device)
    if count and (least := int(labels.min())) < -1:
        raise ValueError(f"found must contain clusters >= 0 or -1 for noise, got {least}")
    core = labels >= 0
    if found.core is not None:
        core &= to_tensor(found.core, "core").to(device)
    return labels, core


def _joined_modality(
    new: Tensor, new_modality: Column | None, x: Tensor, found: PseudoLabels[Any]
) -> Tensor | None:
    if found.modality is None and new_modality is None:
        return None
    if new_modality is None:
        raise ValueError("new_modality must be given, as found has a modality; got None")
    if found.modality is None:
        raise ValueError(
            "new_modality must be None, as found has no modality; pass "
            "PseudoLabels(labels, modality) as found, with the modality of the clustered samples"
        )
    each = "one group per row"
    (groups,), names = read_categories(
        (new_modality,), ("new_modality",), each, words=found.modality_names
    )
    if names not in (None, found.modality_names):
        kind = "words" if found.modality_names else "integers"
        raise TypeError(
            f"new_modality must contain {kind} as found.modality does, got values of {names}"
        )
    return torch.cat(
        [
            check_modality(found.modality, len(x), x.device, "found.modality"),
            check_modality(groups, len(new), new.device, "new_modality"),
        ]
    )


def _nearest(graph: NeighborGraph[Tensor], labels: Tensor, core: Tensor) -> Tensor:
    """The label of the nearest core sample for each row of the graph after the labeled ones."""
    indptr, indices, distances = graph.indptr, graph.indices, graph.distances
    count, num_new = len(labels), len(graph) - len(labels)
    first = int(indptr[count])
    starts, columns, near = indptr[count:], indices[first:].long(), distances[first:]
    rows = torch.repeat_interleave(starts.diff(), output_size=len(columns))
    is_core = torch.cat([core, core.new_zeros(num_new)])[columns]
    rows, columns, near = rows[is_core], columns[is_core], near[is_core]
    least = near.new_full((num_new,), torch.inf).scatter_reduce_(0, rows, near, "amin")
    ties = near == least[rows]
    # Without a core sample in reach, the index stays one past the last row, which means noise.
    nearest = rows.new_full((num_new,), count)
    nearest.scatter_reduce_(0, rows[ties], columns[ties], "amin")
    return torch.cat([labels, labels.new_full((1,), -1)])[nearest]
