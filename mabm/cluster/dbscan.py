"""Clusterers: objects that turn a graph of distances into labels, such as DBSCAN or your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_instance, shown
from mabm._core.arrays import Array, ArrayT, like
from mabm._core.saving import Saved
from mabm.distance.graph import (
    DEFAULT_EPS,
    DEFAULT_MIN_SAMPLES,
    NeighborGraph,
    check_max_distance,
    check_min_samples,
    check_radius,
)


@runtime_checkable
class Clusterer(Protocol):
    """Protocol of the ``clusterer`` of :func:`mabm.pseudo_labels`: any object with these members.

    It may also have a method ``core_samples(graph)`` that returns a (N,) bool mask of the core
    samples: :func:`mabm.predict_labels` puts new samples into the cluster of their nearest core
    sample. Without this method, every clustered sample counts as a core sample.

    Example:
        >>> import torch, mabm
        >>> from scipy.sparse.csgraph import connected_components
        >>> class Components:
        ...     max_distance = 0.5
        ...
        ...     def __call__(self, graph):
        ...         return connected_components(graph.to_scipy())[1]
        >>> features = torch.eye(3).repeat_interleave(4, dim=0)
        >>> mabm.pseudo_labels(features, k1=4, k2=1, clusterer=Components()).labels.tolist()
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    """

    @property
    def max_distance(self) -> float:
        """The distance in [0, 1) up to which the clusterer needs the graph."""

    def __call__(self, graph: NeighborGraph[Tensor], /) -> Array:
        """Clusters the samples of a graph.

        Args:
            graph: All pairs of N samples within ``max_distance``, as tensors on the device of the
                features; :meth:`mabm.NeighborGraph.to_scipy` converts it for code on the CPU.

        Returns:
            (N,) integer labels, clusters 0..C-1 and -1 for noise, as a tensor on any device or an
            array.
        """


@dataclass(frozen=True)
class DBSCAN(Saved):
    """Density-based clustering of a graph: samples with enough neighbors form clusters with them.

    Returns the same labels as scikit-learn's DBSCAN on the dense distance.

    Attributes:
        eps: Largest distance between neighbors, in [0, 1), compared in float32. Published: 0.6 on
            SYSU-MM01, 0.3 on RegDB.
        min_samples: Number of neighbors within ``eps``, including itself, that make a sample a core
            sample.

    Raises:
        TypeError: ``eps`` is not a number, or ``min_samples`` is not an integer.
        ValueError: ``eps`` is outside [0, 1), or ``min_samples`` is below 1.

    Source:
        Ester et al., KDD 1996.

    Example:
        >>> import torch, mabm
        >>> features = torch.eye(3).repeat_interleave(4, dim=0)
        >>> clusterer = mabm.DBSCAN(eps=0.3, min_samples=2)
        >>> mabm.pseudo_labels(features, k1=4, k2=1, clusterer=clusterer)
        PseudoLabels(12 samples: 3 clusters, 0 noise)
        >>> clusterer(mabm.jaccard_graph(features, k1=4, k2=1)).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    """

    eps: float = DEFAULT_EPS
    min_samples: int = DEFAULT_MIN_SAMPLES

    def __post_init__(self) -> None:
        """Rejects values that are invalid for any graph."""
        object.__setattr__(self, "eps", check_max_distance("eps", self.eps))
        object.__setattr__(self, "min_samples", check_min_samples(self.min_samples))

    @property
    def max_distance(self) -> float:
        """The distance up to which DBSCAN needs the graph: ``eps``."""
        return self.eps

    def __call__(self, graph: NeighborGraph[ArrayT], /) -> ArrayT:
        """Clusters a graph with :meth:`mabm.NeighborGraph.dbscan`."""
        check_instance("graph", graph, NeighborGraph)
        return graph.dbscan(self.eps, self.min_samples)

    def core_samples(self, graph: NeighborGraph[ArrayT]) -> ArrayT:
        """Returns a mask of the samples with ``min_samples`` neighbors, including themselves.

        Args:
            graph: All pairs of N samples within ``eps`` or more.

        Returns:
            (N,) bool, of the same kind as the graph.

        Raises:
            TypeError: ``graph`` is not a :class:`mabm.NeighborGraph`.
            ValueError: Its ``max_distance`` is below ``eps``.

        Example:
            >>> import torch, mabm
            >>> graph = mabm.jaccard_graph(torch.eye(3).repeat_interleave(4, dim=0), k1=4, k2=1)
            >>> int(mabm.DBSCAN(min_samples=4).core_samples(graph).sum())
            12
        """
        check_instance("graph", graph, NeighborGraph)
        eps = check_radius(self.eps, graph.max_distance)
        indptr, _, distances = graph.tensors()
        near = (distances <= float(np.float32(eps))).cumsum(0)
        counts = torch.cat([near.new_zeros(1), near])[indptr].diff()
        return like(counts >= self.min_samples, graph.indices)


def choose_clusterer(clusterer: object, eps: Any, min_samples: Any) -> Clusterer:
    """The given clusterer, or DBSCAN with the two parameters, where ``None`` means the default.

    Raises:
        TypeError: The clusterer is not a :class:`Clusterer`, or a parameter has the wrong type.
        ValueError: Both are given, or a parameter is out of range.
    """
    given = {
        name: value
        for name, value in (("eps", eps), ("min_samples", min_samples))
        if value is not None
    }
    if clusterer is None:
        return DBSCAN(**given)
    if given:
        raise ValueError(
            f"clusterer must be given without {' and '.join(given)}, as it has its own parameters; "
            f"got {', '.join(f'{name}={shown(value)}' for name, value in given.items())} "
            f"and {shown(clusterer)}"
        )
    if isinstance(clusterer, type):
        raise TypeError(
            f"clusterer must be an object, got the class {clusterer.__name__}; use "
            f"{clusterer.__name__}(...)"
        )
    if not isinstance(clusterer, Clusterer):
        raise TypeError(
            "clusterer must have max_distance and be callable with a graph, like mabm.DBSCAN, got "
            f"{type(clusterer).__name__}: {shown(clusterer)}"
        )
    find_core = getattr(clusterer, "core_samples", None)
    if find_core is not None and not callable(find_core):
        raise TypeError(
            f"clusterer.core_samples must be a method, got {type(find_core).__name__}: "
            f"{shown(find_core)}"
        )
    return clusterer
