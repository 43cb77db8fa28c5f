"""The protocol of an approximate neighbor search: candidates for every row, with scores."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array
from mabm.distance.presets import Metric

# Measures a recall of 0.95 with two lists of 15 to about 0.003: 256 x 30 neighbors are looked for.
DEFAULT_RECALL_ROWS = 256


@runtime_checkable
class NeighborSearch(Protocol):
    """Protocol of a ``precision`` that is an object: any object with this method.

    It may also have an integer ``recall_rows``, the number of rows that are ranked exactly to
    measure the recall (256 by default).

    Example:
        >>> import torch, mabm
        >>> class Halves:
        ...     def find_candidates(self, members, queries, k, metric):
        ...         scores = queries.bfloat16() @ members.bfloat16().T  # on unit rows, any metric
        ...         return scores.topk(k, dim=1)
        >>> features = torch.nn.functional.normalize(torch.randn(100, 16), dim=1)
        >>> ranking = mabm.rank_neighbors(features, torch.arange(100) % 2, precision=Halves())
        >>> ranking.recall.num_rows, ranking.recall.total > 0.9
        (100, True)
    """

    def find_candidates(
        self, members: Tensor, queries: Tensor, k: int, metric: Metric
    ) -> tuple[Array, Array]:
        """Finds the members that are nearest to each query; some may be missed.

        It is called once for each group of samples (once in total if the preset has a single list).

        Args:
            members: (M, D) float32, contiguous: the samples of one group. Not to be changed.
            queries: (Q, D) float32, contiguous, on the same device: all samples. Not to be changed.
            k: Number of members to find for each query, in [1, M]: a few more than a list contains.
            metric: ``"inner_product"``: nearest is the largest inner product. ``"euclidean"``:
                nearest is the smallest Euclidean distance.

        Returns:
            Scores (Q, C), floating point, larger is nearer; and indices (Q, C), integers in [0, M),
            rows of ``members``, or -1 for none. In any order, of any C >= 1, as tensors on any
            device or arrays. Scores decide only which candidates are kept where a list takes
            several groups, or if C exceeds ``k``: all kept candidates get exact scores.
        """


def is_search(value: object) -> bool:
    """Whether this is an object with the method of :class:`NeighborSearch`."""
    return isinstance(value, NeighborSearch) and not isinstance(value, type)


def check_recall_rows(search: object, name: str = "recall_rows") -> int:
    """Returns the number of rows that a search is measured on.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is below 1.
    """
    return check_integer(name, getattr(search, "recall_rows", DEFAULT_RECALL_ROWS), at_least=1)
