"""The pruned graph of distances, and DBSCAN on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_integer, check_real, shown
from mabm._core.arrays import ArrayT, like, to_tensor
from mabm._core.columns import Column, check_modality
from mabm._core.device_memory import running_ops
from mabm._core.partition import cluster_sizes, count_spanning
from mabm.distance.rows import NeighborSets

DEFAULT_EPS: Final = 0.6  # published for SYSU-MM01
DEFAULT_MIN_SAMPLES: Final = 4
# Entries that are sorted at a time: PyTorch sorts fewer than 2^31 numbers on a GPU, and less memory
# is taken.
_SORTED_AT_ONCE = 1 << 28


class SweepEntry(NamedTuple):
    """The clusters that DBSCAN finds among N samples at one ``eps``, in numbers.

    Attributes:
        eps: The radius.
        num_clusters: Number of clusters.
        num_noise: Number of samples in no cluster.
        largest_cluster: Number of samples in the largest cluster, 0 without clusters.
        num_spanning: Number of clusters with samples of every modality, or ``None`` without a
            modality.
        largest_share: Share of all N samples in the largest cluster, in [0, 1].

    Example:
        >>> import torch, mabm
        >>> graph = mabm.jaccard_graph(torch.eye(3).repeat_interleave(4, dim=0), k1=4, k2=1)
        >>> graph.sweep([0.3])[0].num_clusters
        3
    """

    eps: float
    num_clusters: int
    num_noise: int
    largest_cluster: int
    num_spanning: int | None
    largest_share: float


torch.serialization.add_safe_globals([SweepEntry])  # as mabm._core.saving does for dataclasses


@dataclass(frozen=True, eq=False)
class NeighborGraph(NeighborSets[ArrayT]):
    """All pairs of samples within a distance of ``max_distance``.

    CSR rows over N samples, both triangles with equal distances, columns ascending. The diagonal
    and zero distances are stored: a sample is its own neighbor, and duplicates are neighbors.
    Distances are compared in float32, as scikit-learn does with a float32 matrix.

    Attributes:
        indptr: (N + 1,) int64.
        indices: (entries,) int32.
        distances: (entries,) float32.
        max_distance: The distance up to which the graph is complete.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        >>> graph = mabm.jaccard_graph(features, max_distance=0.7)
        >>> strict, loose = graph.dbscan(eps=0.3), graph.dbscan(eps=0.7)
    """

    distances: ArrayT
    max_distance: float

    def __post_init__(self) -> None:
        """Rejects distances that are not one float32 per index or not symmetric, or a bad bound."""
        super().__post_init__()
        distances = to_tensor(self.distances, "distances")
        if distances.dtype != torch.float32 or len(distances) != len(self.indices):
            raise ValueError(
                f"distances must be ({len(self.indices)},) float32, got "
                f"{tuple(distances.shape)} {distances.dtype}"
            )
        if not bool((distances >= 0).all()):
            raise ValueError("distances must be at least 0, got NaN or less")
        self._check_symmetry()
        bound = check_max_distance("max_distance", self.max_distance)
        object.__setattr__(self, "max_distance", bound)

    def _check_symmetry(self) -> None:
        if not _is_symmetric(*self.tensors()):
            raise ValueError(
                "indices and distances must be symmetric, got a pair that is stored in one "
                "direction only, or with two distances"
            )

    def __repr__(self) -> str:
        return (
            f"NeighborGraph({len(self)} samples, {len(self.indices)} pairs "
            f"within {self.max_distance:g})"
        )

    def _values(self) -> Tensor:
        return self.tensors()[2]

    def dbscan(self, eps: float = DEFAULT_EPS, min_samples: int = DEFAULT_MIN_SAMPLES) -> ArrayT:
        """Clusters the samples with DBSCAN; returns the labels of scikit-learn on the dense matrix.

        Args:
            eps: Largest distance between neighbors, in [0, ``max_distance``]; compared in float32,
                as scikit-learn compares a Python float with float32 distances.
            min_samples: Number of neighbors, including itself, that make a sample a core sample.

        Returns:
            (N,) int64 labels: clusters 0..C-1, numbered by their first core sample; a border
            sample gets the smallest cluster number among its core neighbors; noise is -1.

        Raises:
            TypeError: ``eps`` is not a number, or ``min_samples`` is not an integer.
            ValueError: ``eps`` is outside [0, ``max_distance``], or ``min_samples`` is below 1.
        """
        eps, min_samples = check_radius(eps, self.max_distance), check_min_samples(min_samples)
        return like(_dbscan(self.in_tensors(), eps, min_samples), self.indices)

    def sweep(
        self,
        eps_values: Iterable[float],
        min_samples: int = DEFAULT_MIN_SAMPLES,
        modality: Column | None = None,
    ) -> list[SweepEntry]:
        """Clusters once for each ``eps``, in the given order, and counts the clusters.

        Args:
            eps_values: Sequence of radii in [0, ``max_distance``], compared in float32.
            min_samples: Number of neighbors, including itself, that make a sample a core sample.
            modality: (N,) integers >= 0, bool or words, the modality of each sample, to count the
                clusters that span all modalities; ``None`` skips this count.

        Returns:
            One entry for each ``eps``.

        Raises:
            TypeError: ``eps_values`` is not a sequence of numbers, ``min_samples`` is not an
                integer, or ``modality`` is not a column.
            ValueError: A radius is outside [0, ``max_distance``], ``min_samples`` is below 1, or
                ``modality`` is not (N,); raised before anything is clustered.

        Example:
            >>> import torch, mabm
            >>> features = torch.eye(6).repeat_interleave(10, dim=0)
            >>> modality = ["visible", "infrared"] * 30
            >>> graph = mabm.jaccard_graph(features, modality, max_distance=0.5, k1=10, k2=2)
            >>> for entry in graph.sweep([0.1, 0.5], modality=modality):
            ...     print(entry.eps, entry.num_clusters, entry.num_spanning, entry.largest_share)
            0.1 6 6 0.16666666666666666
            0.5 6 6 0.16666666666666666
        """
        if not isinstance(eps_values, Iterable) or getattr(eps_values, "shape", None) == ():
            raise TypeError(
                f"eps_values must be a sequence of numbers, got {type(eps_values).__name__}: "
                f"{shown(eps_values)}"
            )
        eps_checked = [check_radius(eps, self.max_distance) for eps in eps_values]
        min_samples = check_min_samples(min_samples)
        graph = self.in_tensors()
        groups = None
        if modality is not None:
            groups = check_modality(modality, len(self), graph.indices.device, "modality")
        entries = []
        for eps in eps_checked:
            labels = _dbscan(graph, eps, min_samples)
            sizes = cluster_sizes(labels)
            largest = int(sizes.max()) if len(sizes) else 0
            spanning = None if groups is None else count_spanning(labels, groups)
            entries.append(
                SweepEntry(
                    eps,
                    len(sizes),
                    int((labels < 0).sum()),
                    largest,
                    spanning,
                    largest / max(len(self), 1),
                )
            )
        return entries


def _is_symmetric(indptr: Tensor, columns: Tensor, distances: Tensor) -> bool:
    """Whether each pair is stored in both directions, with one distance.

    Entries in some of the rows, sorted by column, are then those of the same columns as they are
    stored. All rows are compared at once, unless their entries are too many.
    """
    rows = torch.repeat_interleave(indptr.diff()).to(torch.int32)
    start, count = 0, len(indptr) - 1
    while start < count:
        most = int(indptr[start]) + _SORTED_AT_ONCE
        stop = max(start + 1, int(torch.searchsorted(indptr, most, right=True)) - 1)
        own = slice(int(indptr[start]), int(indptr[stop]))
        order = columns[own].sort(stable=True).indices  # rows ascend within a column
        mirrored: slice | Tensor = slice(None)
        if stop - start < count:
            mirrored = (columns >= start) & (columns < stop)
        for part, other in ((columns, rows), (rows, columns), (distances, distances)):
            if not torch.equal(part[own][order], other[mirrored]):
                return False
        start = stop
    return True


def _dbscan(graph: NeighborGraph[Tensor], eps: float, min_samples: int) -> Tensor:
    """(N,) int64 labels of a graph of tensors."""
    with running_ops(
        f"clustering {len(graph)} samples", "lower max_distance, or k1 and k2 before it"
    ):
        labels: Tensor = torch.ops.mabm.dbscan(
            graph.indptr, graph.indices, graph.distances, eps, min_samples
        )
    return labels


def check_max_distance(name: str, value: object) -> float:
    """Returns a distance in [0, 1); at 1 every pair is within it and the graph is the matrix."""
    distance = check_real(name, value, 0.0, 1.0, below=True)
    if np.float32(distance) == 1:  # distances are compared in float32
        raise ValueError(f"{name} must be in [0, 1) in float32, got {value}")
    return distance


def check_radius(eps: object, max_distance: float) -> float:
    """Returns a radius of DBSCAN in [0, ``max_distance``] of the graph, compared in float32."""
    with np.errstate(over="ignore"):
        is_bound = isinstance(eps, float | np.floating) and np.float32(eps) == np.float32(
            max_distance
        )
    if is_bound:
        return max_distance
    reason = ", which ends at the graph's max_distance"
    return check_real("eps", eps, 0.0, max_distance, reason=reason)


def check_min_samples(value: object) -> int:
    """Returns ``min_samples`` as an int of at least 1."""
    return check_integer("min_samples", value, at_least=1)
