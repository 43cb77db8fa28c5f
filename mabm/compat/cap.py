"""CAP and its descendants: stands in for their ``reid.utils.faiss_rerank``."""

from __future__ import annotations

from mabm._core.arrays import Array
from mabm.compat._adapters import Distances
from mabm.compat.clustercontrast import compute_jaccard_distance

__all__ = ["faiss_compute_jaccard_dist"]


def faiss_compute_jaccard_dist(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 3,
    use_float16: bool = False,
) -> Distances:
    """Computes the k-reciprocal Jaccard distance between all rows, preset ``"spcl"``.

    Arguments, results and errors are those of
    :func:`mabm.compat.clustercontrast.compute_jaccard_distance`; no faiss is needed.

    Source:
        Wang et al., AAAI 2021 (CAP).

    Example:
        >>> import torch
        >>> from mabm.compat.cap import faiss_compute_jaccard_dist
        >>> faiss_compute_jaccard_dist(torch.randn(50, 16), k1=30, k2=6).shape
        (50, 50)
    """
    return compute_jaccard_distance(target_features, k1, k2, print_flag, search_option, use_float16)
