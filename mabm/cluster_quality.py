"""How well clusters agree with identities, and how well they bridge modalities.

Labels come from DBSCAN: -1 is noise. A noise sample is counted as a cluster of its own throughout:
it is paired with nothing, which is how a training loop treats it.
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
