"""Agreement of clusters with identities, within and across modalities.

Labels come from DBSCAN: -1 is noise. Each noise sample counts as its own cluster: it is paired with
nothing, which is how a training loop treats it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mabm._core.arrays import IntArray
from mabm._core.columns import Column, Labels, check_categories, check_labels, modality_of


@dataclass(frozen=True)
class PairQuality:
    """Counts of unordered pairs of samples across modalities, with precision and recall.

    Attributes:
        num_true: Number of pairs with the same identity.
        num_found: Number of pairs in the same cluster.
        num_right: Number of pairs that are both.
    """

    num_true: int
    num_found: int
    num_right: int

    @property
    def precision(self) -> float:
        """Share of the found pairs that are correct; NaN if none was found."""
        return self.num_right / self.num_found if self.num_found else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true pairs that were found; NaN if there are none."""
        return self.num_right / self.num_true if self.num_true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where there are no pairs at all."""
        pairs = self.num_true + self.num_found
        return 2 * self.num_right / pairs if pairs else float("nan")


def cross_modality_pairs(
    labels: Labels, identity: Column, modality: Column | None = None
) -> PairQuality:
    """Compares clusters with identities over the cross-modality pairs of samples.

    Args:
        labels: (N,) integers, the cluster of each sample, -1 for noise. Or
            :class:`mabm.PseudoLabels`, whose modality is the default of ``modality``.
        identity: (N,) integers or words.
        modality: (N,) integers, bool or words.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or there is no modality.
    """
    groups = _groups(labels, modality)
    labels, people, groups = _read(labels=labels, identity=identity, modality=groups)
    clusters = _noise_as_singletons(labels)
    return PairQuality(
        num_true=_pairs(people) - _pairs(people, groups),
        num_found=_pairs(clusters) - _pairs(clusters, groups),
        num_right=_pairs(clusters, people) - _pairs(clusters, people, groups),
    )


def adjusted_rand_index(labels: Labels, identity: Column) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985) of (N,) labels against (N,) identities.

    One for equal partitions, about zero for independent ones. Labels may be
    :class:`mabm.PseudoLabels`; identities are integers or words.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ.
    """
    labels, people = _read(labels=labels, identity=identity)
    clusters = _noise_as_singletons(labels)
    # Pairs that are together in both partitions, in only one of them, and in neither.
    both = _pairs(clusters, people)
    clusters_only, identity_only = _pairs(clusters) - both, _pairs(people) - both
    neither = math.comb(len(labels), 2) - both - clusters_only - identity_only
    if clusters_only == identity_only == 0:
        return 1.0
    ways = (both + identity_only) * (identity_only + neither)
    ways += (both + clusters_only) * (clusters_only + neither)
    return 2 * (both * neither - clusters_only * identity_only) / ways


def normalized_mutual_information(labels: Labels, identity: Column) -> float:
    """Mutual information divided by the mean of the two entropies, in [0, 1].

    Labels may be :class:`mabm.PseudoLabels`; identities are integers or words.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ.
    """
    labels, people = _read(labels=labels, identity=identity)
    # Not scikit-learn's, which warns if there are many classes, as with noise.
    cluster_of, cluster_counts = _numbered(_noise_as_singletons(labels))
    name_of, name_counts = _numbered(people)
    if len(cluster_counts) == len(name_counts) <= 1:
        return 1.0
    if min(len(cluster_counts), len(name_counts)) == 1:
        return 0.0
    cells, counts = np.unique(cluster_of * len(name_counts) + name_of, return_counts=True)
    expected = cluster_counts[cells // len(name_counts)] * name_counts[cells % len(name_counts)]
    total = len(labels)
    terms = counts / total * (np.log(counts) - np.log(expected) + np.log(total))
    entropies = _entropy(cluster_counts) + _entropy(name_counts)
    return float(max(terms.sum(), 0.0) / (entropies / 2))


def evenly_chosen_clusters(
    labels: Labels,
    modality: Column | None = None,
    identity: Column | None = None,
    *,
    count: int = 10,
    spanning: bool = True,
) -> IntArray:
    """Chooses evenly spaced clusters for a contact sheet, so that none is picked by hand.

    Clusters are sorted, and the first, the last and evenly spaced ones between are chosen. They are
    sorted by purity, the share of a cluster's members with its most common identity, purest first;
    without identities by size, largest first. Ties: the larger cluster first, then the lower
    number.

    Args:
        labels: (N,) integers, the cluster of each sample, -1 for noise. Or
            :class:`mabm.PseudoLabels`, whose modality is the default of ``modality``.
        modality: (N,) integers, bool or words.
        identity: (N,) integers or words, negative if unknown: such members do not count for purity,
            and clusters with only such members come last. ``None`` if no identity is known.
        count: Maximum number of clusters to choose, >= 1.
        spanning: Whether to choose only clusters with members of at least two modalities.

    Returns:
        (R,) int64 cluster numbers, in sorted order.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ, or there is no modality.
    """
    groups = _groups(labels, modality)
    people = None
    if identity is not None:
        _, people = _read(labels=labels, identity=identity)
    labels, groups = _read(labels=labels, modality=groups)
    ordered = []
    for cluster in np.unique(labels[labels >= 0]).tolist():
        members = np.flatnonzero(labels == cluster)
        if spanning and len(np.unique(groups[members])) < 2:
            continue
        purity = 0.0
        if people is not None:
            known = people[members][people[members] >= 0]
            purity = _numbered(known)[1].max() / known.size if known.size else -1.0
        ordered.append((-purity, -members.size, cluster))
    ordered.sort()
    places = np.round(np.linspace(0, len(ordered) - 1, min(count, len(ordered))))
    return np.array([ordered[place][2] for place in places.astype(np.int64)], dtype=np.int64)


def _noise_as_singletons(labels: IntArray) -> IntArray:
    clusters, counts = _numbered(labels)  # renumbered, as the largest label plus one may overflow
    noise = labels < 0
    clusters[noise] = len(counts) + np.arange(noise.sum())
    return clusters


def _numbered(values: IntArray) -> tuple[IntArray, IntArray]:
    """The index of each value among the M distinct ones, and the (M,) counts of these."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return places, counts


def _entropy(counts: IntArray) -> float:
    """Entropy, in nats, of a partition into parts of these sizes."""
    total = counts.sum()
    return float(-(counts / total * (np.log(counts) - np.log(total))).sum())


def _pairs(*columns: IntArray) -> int:
    """Number of unordered pairs of samples that agree in every column."""
    cells = columns[0]
    for column in columns[1:]:  # each pair of values as one number below N * N
        values, places = np.unique(column, return_inverse=True)
        cells = np.unique(cells, return_inverse=True)[1] * len(values) + places
    counts = np.unique(cells, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _groups(labels: object, modality: object) -> object:
    groups, _ = modality_of(labels, modality)
    if groups is None:
        raise ValueError("modality must be given unless labels are PseudoLabels with one, got None")
    return groups


def _read(**columns: object) -> list[IntArray]:
    """Checks columns of one length, and returns them as int64 arrays.

    The columns named ``labels`` are clusters; all others are categories.
    """
    read = []
    for name, value in columns.items():
        if name == "labels":
            column = check_labels(value, None, name, "one per sample")
        else:
            found = check_categories(
                value, None, name, "one per sample", takes_bool=name == "modality"
            )
            column = found.columns[0]
        read.append(column.cpu().numpy())
    if len({len(column) for column in read}) > 1:
        shapes = {name: array.shape for name, array in zip(columns, read, strict=True)}
        raise ValueError(f"{', '.join(columns)} must all have one shape (N,), got {shapes}")
    return read
