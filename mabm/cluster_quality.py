"""How well clusters agree with identities, and how well they bridge modalities.

Labels come from DBSCAN: -1 is noise. A noise sample is counted as a cluster of its own throughout:
it is paired with nothing, which is how a training loop treats it. scikit-learn is loaded by the two
measures that are its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairQuality:
    """Counts of unordered pairs of samples that cross modalities, and their two rates.

    Attributes:
        num_true: Pairs of one identity.
        num_found: Pairs put into one cluster.
        num_right: Pairs that are both.
    """

    num_true: int
    num_found: int
    num_right: int

    @property
    def precision(self) -> float:
        """Share of the found pairs that are right; NaN if none was found."""
        return self.num_right / self.num_found if self.num_found else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true pairs that were found; NaN if there are none."""
        return self.num_right / self.num_true if self.num_true else float("nan")


def cross_modality_pairs(labels: IntArray, identity: IntArray, modality: IntArray) -> PairQuality:
    """Compares clusters with identities over the pairs of samples of different modality.

    Args:
        labels: (N,) int64 cluster of each sample, -1 for noise.
        identity: (N,) int64.
        modality: (N,) int64.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(labels=labels, identity=identity, modality=modality)
    clusters = _noise_as_singletons(labels)
    _, both = np.unique(np.stack([clusters, identity]), axis=1, return_inverse=True)
    return PairQuality(
        num_true=_pairs(identity) - _pairs(identity, modality),
        num_found=_pairs(clusters) - _pairs(clusters, modality),
        num_right=_pairs(both) - _pairs(both, modality),
    )


def adjusted_rand_index(labels: IntArray, identity: IntArray) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985) of (N,) labels against (N,) identities.

    One for equal partitions, about zero for independent ones.

    Raises:
        ValueError: If the shapes differ.
    """
    from sklearn.metrics import adjusted_rand_score  # loads slowly

    _check_shapes(labels=labels, identity=identity)
    return float(adjusted_rand_score(identity, _noise_as_singletons(labels)))


def normalised_mutual_information(labels: IntArray, identity: IntArray) -> float:
    """Mutual information over the mean of the two entropies, in [0, 1].

    Raises:
        ValueError: If the shapes differ.
    """
    from sklearn.metrics import normalized_mutual_info_score  # loads slowly

    _check_shapes(labels=labels, identity=identity)
    return float(normalized_mutual_info_score(identity, _noise_as_singletons(labels)))


def evenly_chosen_clusters(
    labels: IntArray,
    modality: IntArray,
    identity: IntArray | None = None,
    *,
    count: int = 10,
    spanning: bool = True,
) -> IntArray:
    """Chooses which clusters a contact sheet shows, so that nothing is picked by hand.

    Clusters are put in order and the first, the last and evenly spaced ones between are taken. The
    order is by purity, the share of a cluster's members that belong to its commonest identity,
    purest first; without identities it is by size, largest first. Ties: the larger first, then the
    lower number.

    Args:
        labels: (N,) int64 cluster of each sample, -1 for noise.
        modality: (N,) int64.
        identity: (N,) int64, negative where unknown: such members do not count for purity, and a
            cluster of such members alone comes last. ``None`` where none is known.
        count: How many to take at most, >= 1.
        spanning: Choose among the clusters with members of at least two modalities alone.

    Returns:
        (R,) int64 cluster numbers, in order.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(labels=labels, modality=modality)
    if identity is not None:
        _check_shapes(labels=labels, identity=identity)
    ordered = []
    for cluster in range(int(labels.max(initial=-1)) + 1):
        members = np.flatnonzero(labels == cluster)
        if not members.size or (spanning and len(np.unique(modality[members])) < 2):
            continue
        purity = 0.0
        if identity is not None:
            known = identity[members][identity[members] >= 0]
            purity = np.bincount(known).max() / known.size if known.size else -1.0
        ordered.append((-purity, -members.size, cluster))
    ordered.sort()
    places = np.round(np.linspace(0, len(ordered) - 1, min(count, len(ordered))))
    return np.array([ordered[place][2] for place in places.astype(np.int64)], dtype=np.int64)


def _noise_as_singletons(labels: IntArray) -> IntArray:
    noise = labels < 0
    clusters = labels.copy()
    clusters[noise] = labels.max(initial=-1) + 1 + np.arange(noise.sum())
    return clusters


def _pairs(*columns: IntArray) -> int:
    """Unordered pairs of samples that agree in every column."""
    counts = np.unique(np.stack(columns), axis=1, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _check_shapes(**arrays: IntArray) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"{', '.join(arrays)} must all have one shape (N,), got {shapes}")
