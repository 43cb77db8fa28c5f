"""Diagnostics of one clustering: what it found, and how right it is where identities are known.

Identities are read here and nowhere else in training: nothing computed from them may reach the
model, the clustering or the choice of an epoch.
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

NUM_NEIGHBORS: Final = 20  # of a sample, in the neighbor mix: about the images of one identity


@dataclass(frozen=True, eq=False)
class ClusterDiagnostics:
    """What one clustering of N samples found. A value that has no meaning is ``None``.

    Attributes:
        num_samples: N.
        num_clusters: Clusters found.
        num_noise: Samples in no cluster.
        num_spanning: Clusters with samples of every modality; ``None`` with one modality.
        share_spanning: Their share of all clusters; ``None`` also without a cluster.
        num_known: Samples whose identity is known; the five attributes below are over these alone,
            and ``None`` without one.
        ari: Adjusted Rand index of clusters and identities; a noise sample is a cluster of its own.
        nmi: Normalized mutual information, likewise.
        pair_precision: Of the pairs of samples in one cluster and of different modality, the share
            of one identity; ``None`` without such a pair.
        pair_recall: Of the pairs of samples of one identity and of different modality, the share in
            one cluster; ``None`` without such a pair.
        modalities: The G modalities that occur, ascending: rows and columns of ``neighbor_mix``.
        neighbor_mix: (G, G) float64 of :func:`neighbor_mix`, or ``None`` where it was not asked
            for.
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
        """All attributes as what JSON has; a row of the mix without neighbors is ``None``."""
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
    """Describes one clustering, in memory linear in N.

    Args:
        labels: (N,) integers: clusters 0..C-1, noise -1. Or the :class:`mabm.PseudoLabels`, which
            bring their modality where none is given.
        modality: (N,) integers >= 0, bool or words.
        identity: (N,) integers, negative where unknown, or words; ``None`` where none is known.
        ranks: (N, K) integers, nearest samples of each sample whatever their modality, as
            :func:`nearest_samples` gives; ``None`` to leave out the neighbor mix.
        num_neighbors: As :func:`neighbor_mix`.

    Returns:
        The diagnostics, in plain numbers; the same for every device.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: The shapes differ, or a number lies out of its range.

    Example:
        >>> import numpy as np
        >>> from mabm.train.diagnostics import diagnose
        >>> labels, modality = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 1, 1, 0, 0, 1])
        >>> found = diagnose(labels, modality, identity=np.array([5, 5, 6, 6, 6, 6]))
        >>> found.num_clusters, found.num_noise, found.num_spanning, found.share_spanning
        (2, 1, 1, 0.5)
        >>> found.pair_precision, found.pair_recall  # 1 of 2 pairs found, 1 of 5 there are
        (0.5, 0.2)
    """
    groups, _ = modality_of(labels, modality)
    clusters: IntArray = check_labels(labels, None, "labels", "one a sample").cpu().numpy()
    groups = _column(groups, len(clusters), "modality", "one a sample")
    if len(groups) and groups.min() < 0:
        raise ValueError(f"modality must not be negative, got {groups.min()}")
    modalities = np.unique(groups)
    found = PseudoLabels(clusters, groups)
    spanning = found.num_spanning if len(modalities) > 1 else None
    share = None if spanning is None or not found.num_clusters else spanning / found.num_clusters
    if identity is None:
        known = np.zeros(len(clusters), dtype=bool)
        names = clusters
    else:
        names = _column(identity, len(clusters), "identity", "one a sample")
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
        num_clusters=found.num_clusters,
        num_noise=found.num_noise,
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
    """Everything to tell of the clusterings of one epoch, as its entry in the history holds it.

    Args:
        features: (N, D), what was clustered; ranked once more, for the neighbor mix.
        modality: (N,) integers >= 0, by default 0 visible and 1 infrared, or these two words.
        alone: (N,) labels, or :class:`mabm.PseudoLabels`, of each modality alone, counted from 0 in
            each, noise -1.
        together: (N,) likewise, labels across modalities, noise -1; ``None`` where there are none
            yet.
        identity: As :func:`diagnose`.
        chosen: (N,) bool, the samples that were clustered alone; the rest counts for nothing, where
            it would count as noise. All by default.
        others: (N,) bool, those that were clustered together, likewise.
        names: What each modality is called; its number where it has no name.
        num_neighbors: As :func:`neighbor_mix`.

    Returns:
        A dict of :class:`ClusterDiagnostics` for each modality, by its name, and for ``"all"``
        samples: the clusters across modalities, or where there are none those of each modality
        side by side, which join no modalities. The neighbor mix is in ``"all"``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: The shapes differ, or a number lies out of its range.

    Example:
        >>> import torch
        >>> from mabm.train.diagnostics import diagnose_epoch
        >>> labels, modality = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])
        >>> facts = diagnose_epoch(torch.eye(4), modality, alone=labels)
        >>> {name: fact["num_clusters"] for name, fact in facts.items()}
        {'visible': 1, 'infrared': 1, 'all': 2}
    """
    each = "one a sample"
    apart: IntArray = check_labels(alone, None, "alone", each).cpu().numpy()
    groups: IntArray = check_visible_infrared(modality, len(apart), "modality", each).cpu().numpy()
    people = None
    if identity is not None:
        people = _column(identity, len(apart), "identity", "one a sample")
    facts = {}
    beside, num_clusters = np.full_like(apart, -1), 0
    for number in np.unique(groups).tolist():
        members = (groups == number) & _mask(chosen, len(apart), "chosen")
        labels = apart[members]
        beside[members] = np.where(labels < 0, -1, labels + num_clusters)
        num_clusters += int(labels.max(initial=-1)) + 1
        facts[names.get(number, f"modality {number}")] = diagnose(
            labels, groups[members], identity=None if people is None else people[members]
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
        identity=None if people is None else people[rows],
        ranks=ranks,
        num_neighbors=num_neighbors,
    ).to_dict()
    return facts


def nearest_samples(
    features: ArrayT, *, num_neighbors: int = NUM_NEIGHBORS, precision: Precision = "fast"
) -> ArrayT:
    """The nearest samples of every sample whatever their modality, by Euclidean distance.

    Args:
        features: (N, D), as :func:`mabm.rank_neighbors`; never normalized here.
        num_neighbors: Neighbors of a sample, itself left out of the count, >= 1.
        precision: As :func:`mabm.rank_neighbors`; a diagnostic needs no proof of exactness.

    Returns:
        (N, K) int64 of the same kind and on the same device as ``features``, nearest first, the
        sample itself among them; -1 where there are no more samples.

    Raises:
        TypeError: As :func:`mabm.rank_neighbors`.
        ValueError: As :func:`mabm.rank_neighbors`.
    """
    check_integer("num_neighbors", num_neighbors, at_least=1, at_most=MAX_K - 1)
    return rank_neighbors(features, k1=num_neighbors + 1, precision=precision).ranks


def neighbor_mix(
    ranks: Array, modality: Column, *, num_neighbors: int = NUM_NEIGHBORS
) -> npt.NDArray[np.float64]:
    """In which modality the nearest samples of each modality's samples lie.

    With features blind to modality each row is near the shares of the modalities among all samples;
    with a gap between modalities the diagonal is near one.

    Args:
        ranks: (N, K) integers, samples in order of nearness, -1 where a list ends early. The sample
            itself is left out wherever it stands.
        modality: (N,) integers >= 0; G different ones.
        num_neighbors: Of each list, how many count, >= 1; a shorter list counts as it is.

    Returns:
        (G, G) float64, rows and columns in ascending order of modality: entry (a, b) is the share,
        among the neighbors of all samples of ``a``, of samples of ``b``. A row sums to one, and is
        NaN where the samples of ``a`` have no neighbor.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: The shapes differ, or a rank lies outside [-1, N).

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
    found = check_categories(value, count, name, each, takes_bool=name == "modality")
    column: IntArray = found.columns[0].cpu().numpy()
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
