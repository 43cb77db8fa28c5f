"""Diagnostics of one clustering: its clusters, and their agreement with known identities.

Training reads identities only here: nothing computed from them may affect the model, the clustering
or the choice of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array, ArrayT, IntArray, to_tensor
from mabm._core.columns import (
    Column,
    Labels,
    check_categories,
    check_labels,
    check_modality,
    check_visible_infrared,
    modality_of,
)
from mabm._core.modalities import MODALITY_NAMES
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.cluster.quality import (
    adjusted_rand_index,
    cross_modality_pairs,
    normalized_mutual_information,
)
from mabm.distance.options import Precision
from mabm.distance.presets import MAX_K
from mabm.distance.ranking import rank_neighbors

NUM_NEIGHBORS: Final = 20  # per sample, in the neighbor mix: about the images of one identity


@dataclass(frozen=True, eq=False)
class ClusterDiagnostics:
    """Diagnostics of one clustering of N samples. A value that is undefined is ``None``.

    Attributes:
        num_samples: N.
        num_clusters: Number of clusters.
        num_noise: Number of samples in no cluster.
        num_spanning: Number of clusters with samples of every modality; ``None`` with one modality.
        share_spanning: Share of clusters with samples of every modality; ``None`` with one modality
            or without clusters.
        num_known: Number of samples whose identity is known. The next four attributes are computed
            over these samples only, and are ``None`` if there are none.
        ari: Adjusted Rand index of clusters and identities; each noise sample counts as a cluster.
        nmi: Normalized mutual information of clusters and identities; each noise sample counts as a
            cluster.
        pair_precision: Among cross-modality pairs in the same cluster, the share with the same
            identity; ``None`` without such a pair.
        pair_recall: Among cross-modality pairs with the same identity, the share in the same
            cluster; ``None`` without such a pair.
        modalities: The G modalities that occur, ascending: rows and columns of ``neighbor_mix``.
        neighbor_mix: (G, G) float64, where entry (a, b) is the share of samples of modality ``b``
            among the neighbors of samples of ``a``; ``None`` if it was not requested.
    """

    num_samples: int
    num_clusters: int
    num_noise: int
    num_spanning: int | None
    share_spanning: float | None
    num_known: int
    ari: float | None
    nmi: float | None
    pair_precision: float | None
    pair_recall: float | None
    modalities: tuple[int, ...]
    neighbor_mix: npt.NDArray[np.float64] | None

    def to_dict(self) -> dict[str, Any]:
        """All attributes as JSON values; in the mix, a row without neighbors is ``None``."""
        values: dict[str, Any] = dict(vars(self))
        values["modalities"] = list(self.modalities)
        if self.neighbor_mix is not None:
            values["neighbor_mix"] = [
                None if any(map(math.isnan, row)) else row for row in self.neighbor_mix.tolist()
            ]
        return values


def diagnose(
    labels: Labels,
    modality: Column | None = None,
    *,
    identity: Column | None = None,
    ranks: Array | None = None,
    num_neighbors: int = NUM_NEIGHBORS,
) -> ClusterDiagnostics:
    """Computes the diagnostics of one clustering, using memory linear in N.

    Args:
        labels: (N,) integers: clusters 0..C-1, noise -1. Or :class:`mabm.PseudoLabels`, whose
            modality is the default of ``modality``.
        modality: (N,) integers >= 0, bool or words.
        identity: (N,) integers, negative if unknown, or words; ``None`` if no identity is known.
        ranks: (N, K) integers, the nearest samples of each sample over all modalities, nearest
            first, -1 where a list ends early; ``None`` to skip the neighbor mix.
        num_neighbors: Number of samples of each list that count in the neighbor mix, >= 1; the
            sample itself does not count.

    Returns:
        The diagnostics as Python numbers; the same on every device by design.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> from mabm.train.diagnostics import diagnose
        >>> labels, modality = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 1, 1, 0, 0, 1])
        >>> facts = diagnose(labels, modality, identity=np.array([5, 5, 6, 6, 6, 6]))
        >>> facts.num_clusters, facts.num_noise, facts.num_spanning, facts.share_spanning
        (2, 1, 1, 0.5)
        >>> facts.pair_precision, facts.pair_recall  # 1 of 2 pairs is right, of 5 that exist
        (0.5, 0.2)
    """
    groups, _ = modality_of(labels, modality)
    clusters: IntArray = check_labels(labels, None, "labels", "one per sample").cpu().numpy()
    groups = _column(groups, len(clusters), "modality", "one per sample")
    if len(groups) and groups.min() < 0:
        raise ValueError(f"modality must not be negative, got {groups.min()}")
    modalities = np.unique(groups)
    pseudo = PseudoLabels(clusters, groups)
    spanning = pseudo.num_spanning if len(modalities) > 1 else None
    share = None if spanning is None or not pseudo.num_clusters else spanning / pseudo.num_clusters
    if identity is None:
        known = np.zeros(len(clusters), dtype=bool)
        names = clusters
    else:
        names = _column(identity, len(clusters), "identity", "one per sample")
        known = names >= 0
    ari = nmi = precision = recall = None
    if known.any():
        parts = clusters[known], names[known]
        ari, nmi = adjusted_rand_index(*parts), normalized_mutual_information(*parts)
        pairs = cross_modality_pairs(*parts, groups[known])
        precision, recall = _number(pairs.precision), _number(pairs.recall)
    mix = None
    if ranks is not None:
        mix = neighbor_mix(ranks, groups, num_neighbors=num_neighbors)
    return ClusterDiagnostics(
        num_samples=len(clusters),
        num_clusters=pseudo.num_clusters,
        num_noise=pseudo.num_noise,
        num_spanning=spanning,
        share_spanning=share,
        num_known=int(known.sum()),
        ari=ari,
        nmi=nmi,
        pair_precision=precision,
        pair_recall=recall,
        modalities=tuple(modalities.tolist()),
        neighbor_mix=mix,
    )


def diagnose_epoch(
    features: Array,
    modality: Column,
    *,
    alone: Labels,
    together: Labels | None = None,
    identity: Column | None = None,
    chosen: Array | None = None,
    others: Array | None = None,
    names: Mapping[int, str] = MODALITY_NAMES,
    num_neighbors: int = NUM_NEIGHBORS,
) -> dict[str, dict[str, Any]]:
    """Computes the diagnostics of one epoch's clusterings, for its entry in the history.

    Args:
        features: (N, D) features that were clustered; ranked once more for the neighbor mix.
        modality: (N,) integers >= 0, by default 0 visible and 1 infrared, or these two words.
        alone: (N,) labels, or :class:`mabm.PseudoLabels`, within each modality, numbered from 0 in
            each, noise -1.
        together: (N,) labels, or :class:`mabm.PseudoLabels`, across modalities, noise -1; ``None``
            in stage 1, which has none.
        identity: (N,) integers, negative if unknown, or words; ``None`` if no identity is known.
        chosen: (N,) bool, the samples that were clustered within their modality; all others are
            ignored. All by default.
        others: (N,) bool, the samples that were clustered across modalities; all others are
            ignored. All by default.
        names: Name of each modality; a modality without a name is called by its number.
        num_neighbors: Number of neighbors per sample that count in the neighbor mix, >= 1.

    Returns:
        The attributes of :class:`ClusterDiagnostics` for each modality, by its name, and for
        ``"all"`` samples: of the clusters across modalities or, if there are none, of the clusters
        within each modality together. The neighbor mix is in ``"all"``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or a number is out of range.

    Example:
        >>> import torch
        >>> from mabm.train.diagnostics import diagnose_epoch
        >>> labels, modality = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])
        >>> facts = diagnose_epoch(torch.eye(4), modality, alone=labels)
        >>> {name: fact["num_clusters"] for name, fact in facts.items()}
        {'visible': 1, 'infrared': 1, 'all': 2}
    """
    each = "one per sample"
    apart: IntArray = check_labels(alone, None, "alone", each).cpu().numpy()
    groups: IntArray = check_visible_infrared(modality, len(apart), "modality", each).cpu().numpy()
    identities = None
    if identity is not None:
        identities = _column(identity, len(apart), "identity", "one per sample")
    facts = {}
    beside, num_clusters = np.full_like(apart, -1), 0
    for number in np.unique(groups).tolist():
        members = (groups == number) & _mask(chosen, len(apart), "chosen")
        labels = apart[members]
        beside[members] = np.where(labels < 0, -1, labels + num_clusters)
        num_clusters += int(labels.max(initial=-1)) + 1
        facts[names.get(number, f"modality {number}")] = diagnose(
            labels, groups[members], identity=None if identities is None else identities[members]
        ).to_dict()
    if together is None:
        shared, clustered = beside, _mask(chosen, len(apart), "chosen")
    else:
        shared = check_labels(together, len(apart), "together", each).cpu().numpy()
        clustered = _mask(others, len(apart), "others")
    rows = np.flatnonzero(clustered)
    ranks = nearest_samples(to_tensor(features, "features")[rows], num_neighbors=num_neighbors)
    facts["all"] = diagnose(
        shared[rows],
        groups[rows],
        identity=None if identities is None else identities[rows],
        ranks=ranks,
        num_neighbors=num_neighbors,
    ).to_dict()
    return facts


def nearest_samples(
    features: ArrayT, *, num_neighbors: int = NUM_NEIGHBORS, precision: Precision = "fast"
) -> ArrayT:
    """Returns the nearest samples of every sample over all modalities, by Euclidean distance.

    Args:
        features: (N, D) floating point tensor or array; used as they are, not normalized.
        num_neighbors: Number of neighbors per sample, >= 1; the sample itself does not count.
        precision: ``"exact"`` proves that each list is correct; ``"fast"`` may swap samples whose
            distances differ by a rounding error, which is sufficient for diagnostics.

    Returns:
        (N, K) int64 of the same kind and on the same device as ``features``, nearest first,
        including the sample itself; -1 where there are no more samples.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape is wrong, a number is not finite, or ``num_neighbors`` is out of range.
    """
    check_integer("num_neighbors", num_neighbors, at_least=1, at_most=MAX_K - 1)
    return rank_neighbors(features, k1=num_neighbors + 1, precision=precision).ranks


def neighbor_mix(
    ranks: Array, modality: Column, *, num_neighbors: int = NUM_NEIGHBORS
) -> npt.NDArray[np.float64]:
    """Returns the share of each modality among the neighbors of each modality's samples.

    If features do not separate the modalities, each row is close to the shares of the modalities
    among all samples. With a modality gap, the diagonal is close to one.

    Args:
        ranks: (N, K) integers, samples from nearest to farthest, -1 where a list ends early. The
            sample itself is ignored wherever it occurs.
        modality: (N,) integers >= 0 with G different values.
        num_neighbors: Number of samples of each list that count, >= 1; all of a shorter list.

    Returns:
        (G, G) float64, rows and columns in ascending order of modality: entry (a, b) is the share
        of samples of ``b`` among the neighbors of all samples of ``a``. A row sums to one, and is
        NaN if the samples of ``a`` have no neighbors.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or a rank is outside [-1, N).

    Example:
        >>> import numpy as np
        >>> from mabm.train.diagnostics import neighbor_mix
        >>> ranks = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1]])
        >>> neighbor_mix(ranks, np.array([0, 0, 1, 1])).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    check_integer("num_neighbors", num_neighbors, at_least=1)
    lists = to_tensor(ranks, "ranks")
    if lists.is_floating_point() or lists.dim() != 2:
        raise ValueError(f"ranks must be (N, K) integers, got {tuple(lists.shape)} {lists.dtype}")
    count = len(lists)
    groups = check_modality(modality, count, lists.device, "modality")
    near = lists.cpu().numpy().astype(np.int64, copy=False)
    if near.size and not -1 <= near.min() <= near.max() < count:
        raise ValueError(f"ranks must be in [-1, {count}), got {near.min()} to {near.max()}")
    modalities, group_of = np.unique(groups.cpu().numpy(), return_inverse=True)
    others = (near >= 0) & (near != np.arange(count)[:, None])
    others &= others.cumsum(axis=1) <= num_neighbors
    rows, _ = np.nonzero(others)
    cells = group_of[rows] * len(modalities) + group_of[near[others]]
    shape = (len(modalities), len(modalities))
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    totals = counts.sum(axis=1, keepdims=True)
    mix = np.full(shape, np.nan)
    np.divide(counts, totals, out=mix, where=totals > 0)
    return mix


def _column(value: object, count: int, name: str, each: str) -> IntArray:
    checked = check_categories(value, count, name, each, takes_bool=name == "modality")
    column: IntArray = checked.columns[0].cpu().numpy()
    return column


def _mask(value: Array | None, count: int, name: str) -> npt.NDArray[np.bool_]:
    if value is None:
        return np.ones(count, dtype=bool)
    mask = to_tensor(value, name)
    if mask.dtype != torch.bool or mask.shape != (count,):
        raise ValueError(f"{name} must be ({count},) bool, got {mask.dtype} {tuple(mask.shape)}")
    return mask.cpu().numpy()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
