"""Approximate neighbor search by NVIDIA cuVS, on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mabm._core.arguments import check_choice, shown
from mabm._core.arrays import Array
from mabm._core.saving import Saved
from mabm.distance.presets import Metric
from mabm.distance.search.protocol import DEFAULT_RECALL_ROWS, check_recall_rows

Method = Literal["cagra", "ivf_flat"]

_LEAST_PER_LIST = 39  # samples per inverted list: enough to train on, as faiss advises
_ITOPK_STEP = 32  # CAGRA keeps a multiple of this many results while it searches


@dataclass(frozen=True)
class CuvsSearch(Saved):
    """Neighbor search by an index of NVIDIA cuVS, for ``precision=`` (extra ``cuvs``).

    Features must be on a GPU. No GPU has run this adapter yet: it follows the documentation of
    cuVS 26.10.

    Attributes:
        method: ``"cagra"``: a graph of neighbors. ``"ivf_flat"``: inverted lists.
        index_options: Options of ``IndexParams`` of this method, such as ``{"graph_degree": 32}``.
            By default those of cuVS, but with ``"ivf_flat"`` as many lists as the square root of
            the number of samples.
        search_options: Options of ``SearchParams`` of this method, such as ``{"itopk_size": 128}``
            or ``{"n_probes": 32}``. By default those of cuVS, but with ``"cagra"`` an
            ``itopk_size`` of at least the number of candidates.
        recall_rows: Number of rows that are ranked exactly to measure the recall.

    Raises:
        TypeError: An attribute has the wrong type.
        ValueError: An attribute is out of range.

    Source:
        Ootomo et al., "CAGRA: Highly Parallel Graph Construction and Approximate Nearest Neighbor
        Search for GPUs", ICDE 2024.

    Example:
        >>> import mabm
        >>> mabm.CuvsSearch("ivf_flat", search_options={"n_probes": 32}).method
        'ivf_flat'
    """

    method: Method = "cagra"
    index_options: Mapping[str, Any] = field(default_factory=dict)
    search_options: Mapping[str, Any] = field(default_factory=dict)
    recall_rows: int = DEFAULT_RECALL_ROWS

    def __post_init__(self) -> None:
        """Rejects attributes of the wrong type, and unknown methods."""
        check_choice("method", self.method, get_args(Method))
        for name in ("index_options", "search_options"):
            options = getattr(self, name)
            if not isinstance(options, Mapping):
                raise TypeError(
                    f"{name} must be a mapping, got {type(options).__name__}: {shown(options)}"
                )
            object.__setattr__(self, name, dict(options))
        check_recall_rows(self)

    def find_candidates(
        self, members: Tensor, queries: Tensor, k: int, metric: Metric
    ) -> tuple[Array, Array]:
        """Builds the index of ``members`` and searches it.

        Args:
            members: (M, D) float32 on a GPU, the samples of one group.
            queries: (Q, D) float32 on the same GPU.
            k: Number of members to find for each query, in [1, M].
            metric: ``"inner_product"`` or ``"euclidean"``.

        Returns:
            Scores (Q, k) float32, larger is nearer, and indices (Q, k) int64, -1 for none.

        Raises:
            ImportError: cuVS is missing; the message names the extra.
            ValueError: The features are not on a GPU.

        Example:
            >>> import mabm, torch
            >>> members = torch.randn(1000, 64, device="cuda")  # doctest: +SKIP
            >>> search = mabm.CuvsSearch()
            >>> found = search.find_candidates(members, members, 15, "euclidean")  # doctest: +SKIP
            >>> found[1].shape  # doctest: +SKIP
            torch.Size([1000, 15])
        """
        module = _require_cuvs(self.method)
        by_product = metric == "inner_product"
        kind = "inner_product" if by_product else "sqeuclidean"
        build, search = self._options(len(members), k)
        with torch.cuda.device_of(members):  # type: ignore[no-untyped-call]  # of PyTorch
            _wait_for_gpu(members)
            index = module.build(module.IndexParams(metric=kind, **build), members)
            found = module.search(module.SearchParams(**search), index, queries, k)
        distances, neighbors = (torch.as_tensor(part, device=members.device) for part in found)
        indices = neighbors.to(torch.int64)
        # Where it finds too few, a number that is no row's stands in their place.
        indices = indices.where((indices >= 0) & (indices < len(members)), -1)
        return (distances if by_product else -distances), indices

    def _options(self, num_members: int, k: int) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.method == "cagra":
            kept = max(64, -(-k // _ITOPK_STEP) * _ITOPK_STEP)
            return dict(self.index_options), {"itopk_size": kept, **self.search_options}
        lists = max(1, min(round(num_members**0.5), num_members // _LEAST_PER_LIST))
        return {"n_lists": lists, **self.index_options}, dict(self.search_options)


def _require_cuvs(method: Method) -> Any:
    try:
        return import_module(f"cuvs.neighbors.{method}")
    except ImportError as error:
        message = 'searching with cuVS needs it: pip install "mabm[cuvs]"'
        raise ImportError(message, name="cuvs") from error


def _wait_for_gpu(members: Tensor) -> None:
    """Waits until the features are written: cuVS has a stream of its own."""
    if not members.is_cuda:
        raise ValueError(f"features must be on a GPU for CuvsSearch, got {members.device}")
    torch.cuda.synchronize(members.device)
