"""Neighbor search by certex, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mabm._core.arrays import Array
from mabm._core.saving import Saved
from mabm.distance.presets import Metric
from mabm.distance.search.protocol import DEFAULT_RECALL_ROWS, check_recall_rows


@dataclass(frozen=True)
class CertexSearch(Saved):
    """Neighbor search by certex, for ``precision=`` (extra ``certex``).

    certex says of itself that it finds the exact neighbors; here its recall is measured like that
    of every other search. It needs an NVIDIA GPU and CUDA 12, and copies features there from
    memory of the CPU. No GPU has run this adapter yet: it follows the documentation of certex 0.1.

    Attributes:
        recall_rows: Number of rows that are ranked exactly to measure the recall.

    Raises:
        TypeError: ``recall_rows`` is not an integer.
        ValueError: It is below 1.

    Source:
        Zhao, certex (https://pypi.org/project/certex).

    Example:
        >>> import mabm
        >>> mabm.CertexSearch(recall_rows=1000)
        CertexSearch(recall_rows=1000)
    """

    recall_rows: int = DEFAULT_RECALL_ROWS

    def __post_init__(self) -> None:
        """Rejects a number of rows that cannot be measured on."""
        check_recall_rows(self)

    def find_candidates(
        self, members: Tensor, queries: Tensor, k: int, metric: Metric
    ) -> tuple[Array, Array]:
        """Builds the index of ``members`` and searches it.

        Args:
            members: (M, D) float32, the samples of one group.
            queries: (Q, D) float32 on the same device.
            k: Number of members to find for each query, in [1, M].
            metric: ``"inner_product"`` or ``"euclidean"``.

        Returns:
            Scores (Q, k) float32, larger is nearer, and indices (Q, k) int64, on the GPU.

        Raises:
            ImportError: certex is missing; the message names the extra.

        Example:
            >>> import mabm, torch
            >>> members = torch.randn(1000, 64)
            >>> search = mabm.CertexSearch()
            >>> found = search.find_candidates(members, members, 15, "euclidean")  # doctest: +SKIP
            >>> found[1].shape  # doctest: +SKIP
            torch.Size([1000, 15])
        """
        certex = _require_certex()
        by_product = metric == "inner_product"
        with torch.cuda.device_of(members):  # type: ignore[no-untyped-call]  # of PyTorch
            found, indices = certex.search(
                members, queries, k=k, metric="ip" if by_product else "l2"
            )
        return (found if by_product else -found), indices


def _require_certex() -> Any:
    try:
        import certex
    except ImportError as error:
        message = 'searching with certex needs it: pip install "mabm[certex]"'
        raise ImportError(message, name="certex") from error
    return certex
