"""Results of the rows of one process: the types of one process, which know of all samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.arrays import ArrayT, to_tensor
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.distance.graph import NeighborGraph
from mabm.distance.ranking import Ranking


@dataclass(frozen=True, eq=False)
class ShardRanking(Ranking[ArrayT]):
    """The neighbor lists of the n rows of one process, a :class:`mabm.Ranking`.

    Attributes:
        ranks: (n, K) int64, numbers among the samples of all processes; the lists side by side,
            each nearest first, -1 where a list ends early.
        scores: (n, K) float64, largest first; -inf where ``ranks`` is -1.
        widths: Length of each list; they sum to K.
        preset: The choices of the pipeline.
        k1: The requested number of neighbors.
        groups: (n,) int64, the group of each row, or ``None`` without a modality.
        recall: ``None``: no search is approximate on several processes.
        first_row: Number of the first row among the samples of all processes.
        num_samples: Number of samples of all processes, N.

    Example:
        >>> import torch, mabm.distributed
        >>> ranking = mabm.distributed.rank_neighbors(torch.eye(4), k1=2)
        >>> ranking.first_row, ranking.num_samples, ranking.ranks[3].tolist()
        (0, 4, [3, 0])
    """

    first_row: int = 0
    num_samples: int = 0

    def __post_init__(self) -> None:
        """Rejects ranks out of range, and rows that are not among the samples."""
        _check_place(self.first_row, self.num_samples, len(self.ranks), "ranks")
        super().__post_init__()

    @property
    def _num_samples(self) -> int:
        return self.num_samples


@dataclass(frozen=True, eq=False)
class ShardGraph(NeighborGraph[ArrayT]):
    """The n rows of one process of the graph of all samples, a :class:`mabm.NeighborGraph`.

    Cluster it with :func:`mabm.distributed.dbscan`.

    Attributes:
        indptr: (n + 1,) int64.
        indices: (entries,) int32, numbers among the samples of all processes, ascending in a row.
        distances: (entries,) float32.
        max_distance: The distance up to which the graph is complete.
        first_row: Number of the first row among the samples of all processes.
        num_samples: Number of samples of all processes, N.

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.eye(2).repeat_interleave(4, dim=0)
        >>> graph = mabm.distributed.jaccard_graph(features, k1=4, k2=1)
        >>> graph
        ShardGraph(8 of 8 samples, 32 pairs within 0.6)
        >>> mabm.distributed.dbscan(graph, eps=0.5).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """

    first_row: int
    num_samples: int

    def __post_init__(self) -> None:
        """Rejects parts that do not fit together, and rows that are not among the samples."""
        _check_place(self.first_row, self.num_samples, len(self), "indptr")
        super().__post_init__()

    @property
    def _num_columns(self) -> int:
        return self.num_samples

    def _check_symmetry(self) -> None:
        """The other direction of most pairs is in the graphs of other processes."""

    def __repr__(self) -> str:
        return (
            f"ShardGraph({len(self)} of {self.num_samples} samples, {len(self.indices)} pairs "
            f"within {self.max_distance:g})"
        )

    def dbscan(self, eps: Any = None, min_samples: Any = None) -> NoReturn:
        """Refused: clusters need the rows of all processes.

        Args:
            eps: Not used.
            min_samples: Not used.

        Raises:
            ValueError: Always; the message names :func:`mabm.distributed.dbscan`.
        """
        raise ValueError(
            f"graph must have the rows of all {self.num_samples} samples, got the {len(self)} rows "
            "of one process; use mabm.distributed.dbscan(graph, eps=..., min_samples=...)"
        )

    def sweep(self, eps_values: Any, min_samples: Any = None, modality: Any = None) -> NoReturn:
        """Refused, as :meth:`dbscan` is: call :func:`mabm.distributed.dbscan` for each ``eps``.

        Args:
            eps_values: Not used.
            min_samples: Not used.
            modality: Not used.

        Raises:
            ValueError: Always; the message names :func:`mabm.distributed.dbscan`.

        Example:
            >>> import torch, mabm.distributed
            >>> features = torch.eye(2).repeat_interleave(4, dim=0)
            >>> graph = mabm.distributed.jaccard_graph(features, k1=4, k2=1)
            >>> [mabm.distributed.dbscan(graph, eps=eps).max().item() for eps in (0.1, 0.5)]
            [1, 1]
        """
        self.dbscan()


@dataclass(frozen=True, eq=False)
class ShardLabels(PseudoLabels[ArrayT]):
    """Cluster labels of the n rows of one process, a :class:`mabm.PseudoLabels`.

    The numbers of clusters and noise and the summary are those of all N samples, and the same on
    every process.

    Attributes:
        labels: (n,) int64: clusters, which are numbered over all processes; noise is -1.
        modality: (n,) int64, the group of each row, or ``None``.
        modality_names: Names of modality 0, 1, ..., or ``None`` if they have only numbers.
        core: (n,) bool, whether a row is a core sample; ``None`` if unknown.
        first_row: Number of the first row among the samples of all processes.
        num_samples: Number of samples of all processes, N.
        cluster_sizes: (C,) int64, number of samples of all processes in each cluster, by ascending
            label.
        group_sizes: Number of samples of all processes by modality; empty without a modality.
        spanning: Number of clusters with samples of every modality, or ``None`` without a modality.

    Example:
        >>> import torch, mabm.distributed
        >>> features = torch.eye(2).repeat_interleave(4, dim=0)
        >>> found = mabm.distributed.pseudo_labels(features, torch.arange(8) % 2, k1=4, k2=1)
        >>> found, found.cluster_sizes.tolist()
        (ShardLabels(8 of 8 samples: 2 clusters, 2 spanning, 0 noise), [4, 4])
    """

    first_row: int = 0
    num_samples: int = 0
    cluster_sizes: ArrayT | None = None
    group_sizes: dict[int, int] | None = None
    spanning: int | None = None

    def __post_init__(self) -> None:
        """Rejects sizes that do not fit together, and rows that are not among the samples."""
        super().__post_init__()
        _check_place(self.first_row, self.num_samples, len(self.labels), "labels")
        sizes = to_tensor(self.cluster_sizes, "cluster_sizes")
        if sizes.dtype != torch.int64 or sizes.dim() != 1:
            raise ValueError(
                f"cluster_sizes must be (C,) int64, got {tuple(sizes.shape)} {sizes.dtype}"
            )
        if not 0 <= int(sizes.sum()) <= self.num_samples:
            raise ValueError(
                f"cluster_sizes must sum to at most num_samples, {self.num_samples}, got "
                f"{int(sizes.sum())}"
            )

    @cached_property
    def _sizes(self) -> Tensor:
        return to_tensor(self.cluster_sizes, "cluster_sizes")

    @property
    def _num_samples(self) -> int:
        return self.num_samples

    @property
    def _group_sizes(self) -> dict[int, int]:
        return self.group_sizes or {}

    @property
    def num_noise(self) -> int:
        """Number of samples of all processes in no cluster."""
        return self.num_samples - int(self._sizes.sum())

    @property
    def num_spanning(self) -> int | None:
        """Number of clusters with samples of every modality, or ``None`` without a modality."""
        return self.spanning

    def __repr__(self) -> str:
        spanning = "" if self.spanning is None else f", {self.spanning} spanning"
        return (
            f"ShardLabels({len(self.labels)} of {self.num_samples} samples: {self.num_clusters} "
            f"clusters{spanning}, {self.num_noise} noise)"
        )


def _check_place(first_row: object, num_samples: object, count: int, rows: str) -> None:
    """Rejects a place of ``count`` rows that is not within all samples."""
    total = check_integer("num_samples", num_samples, at_least=0)
    first = check_integer("first_row", first_row, at_least=0)
    if first + count > total:
        raise ValueError(
            f"first_row and the {count} rows of {rows} must be within the {total} samples, got "
            f"first_row {first}"
        )
