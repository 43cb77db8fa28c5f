"""Approximate neighbor search by faiss, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.arrays import Array
from mabm._core.saving import Saved
from mabm.distance.presets import Metric
from mabm.distance.search.protocol import DEFAULT_RECALL_ROWS, check_recall_rows

# The number of samples per inverted list below which faiss warns that it is too small to train on.
_LEAST_PER_LIST = 39


@dataclass(frozen=True)
class FaissSearch(Saved):
    """Neighbor search by an index of faiss, for ``precision=`` (extra ``faiss``).

    The index is built and searched in the memory of the CPU; features on a GPU are copied there.
    faiss uses as many threads as ``faiss.omp_set_num_threads`` says, all cores by default.

    Attributes:
        factory: What ``faiss.index_factory`` takes, such as ``"HNSW32"`` or ``"IVF256,PQ64"``.
            ``None``: inverted lists, about the square root of the number of samples, of which each
            query scans 16.
        parameters: What ``faiss.ParameterSpace`` sets before the index is trained, such as
            ``"efSearch=64"`` or ``"nprobe=32"``; empty for the defaults.
        recall_rows: Number of rows that are ranked exactly to measure the recall.

    Raises:
        TypeError: An attribute has the wrong type.
        ValueError: ``recall_rows`` is below 1.

    Source:
        Johnson, Douze and Jegou, "Billion-scale similarity search with GPUs", IEEE Transactions on
        Big Data 2021.

    Example:
        >>> import mabm
        >>> search = mabm.FaissSearch("HNSW32", "efSearch=64")
        >>> search.recall_rows
        256
    """

    factory: str | None = None
    parameters: str = ""
    recall_rows: int = DEFAULT_RECALL_ROWS

    def __post_init__(self) -> None:
        """Rejects attributes of the wrong type."""
        if not (self.factory is None or isinstance(self.factory, str)):
            raise TypeError(
                f"factory must be a str or None, got {type(self.factory).__name__}: "
                f"{shown(self.factory)}"
            )
        if not isinstance(self.parameters, str):
            raise TypeError(
                f"parameters must be a str, got {type(self.parameters).__name__}: "
                f"{shown(self.parameters)}"
            )
        check_recall_rows(self)

    def find_candidates(
        self, members: Tensor, queries: Tensor, k: int, metric: Metric
    ) -> tuple[Array, Array]:
        """Builds the index of ``members`` and searches it.

        Args:
            members: (M, D) float32, the samples of one group.
            queries: (Q, D) float32.
            k: Number of members to find for each query, in [1, M].
            metric: ``"inner_product"`` or ``"euclidean"``.

        Returns:
            Scores (Q, k) float32, larger is nearer, and indices (Q, k) int64, -1 for none.

        Raises:
            ImportError: faiss is missing; the message names the extra.
            ValueError: faiss cannot make or train an index as ``factory`` and ``parameters`` say.

        Example:
            >>> import mabm, torch
            >>> members = torch.eye(3)
            >>> search = mabm.FaissSearch("Flat")
            >>> scores, indices = search.find_candidates(members, members, 1, "euclidean")
            >>> indices.tolist()
            [[0], [1], [2]]
        """
        faiss = _require_faiss()
        rows, wanted = members.cpu().numpy(), queries.cpu().numpy()
        by_product = metric == "inner_product"
        measure = faiss.METRIC_INNER_PRODUCT if by_product else faiss.METRIC_L2
        factory, parameters = self.factory, self.parameters
        if factory is None:
            lists = min(round(len(rows) ** 0.5), len(rows) // _LEAST_PER_LIST)
            factory = f"IVF{max(1, lists)},Flat"
            parameters = f"nprobe=16,{parameters}".rstrip(",")
        try:
            index = faiss.index_factory(rows.shape[1], factory, measure)
            if parameters:
                faiss.ParameterSpace().set_index_parameters(index, parameters)
            index.train(rows)
        except RuntimeError as error:
            raise ValueError(
                f"factory and parameters must be of an index that faiss can train on {len(rows)} "
                f"samples, got {factory!r} and {parameters!r}: {error}"
            ) from error
        index.add(rows)
        found, indices = index.search(wanted, k)
        return (found if by_product else -found), indices


def _require_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        message = 'searching with faiss needs it: pip install "mabm[faiss]"'
        raise ImportError(message, name="faiss") from error
    return faiss
