"""Cluster-Contrast and its descendants: stands in for their ``faiss_rerank`` and ``models.cm``.

The memory is documented in :mod:`mabm.compat.cluster_memory`; import it from here.
"""

from __future__ import annotations

from mabm._core.arrays import Array
from mabm.compat._adapters import (
    Distances,
    check_search_option,
    dense_distance,
    read_features,
)
from mabm.compat.cluster_memory import ClusterMemory, cm, cm_hard, cm_hybrid

__all__ = ["ClusterMemory", "cm", "cm_hard", "cm_hybrid", "compute_jaccard_distance"]


def compute_jaccard_distance(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 0,
    use_float16: bool = False,
) -> Distances:
    """Computes the k-reciprocal Jaccard distance between all rows, preset ``"spcl"``.

    Args:
        target_features: (N, D) float tensor; never normalized here.
        k1: Length of the lists, a sample counted among its own; with fewer samples they hold all of
            them, where faiss fills up with -1 and the released code reads that as the last row.
        k2: Rows to average, in all; a list has ``k1``, so more than ``k1`` mean ``k1``.
        print_flag: Accepted and not needed: nothing is printed.
        search_option: 0 to 5; it chose a route through faiss, and chooses nothing here.
        use_float16: Whether the result is float16, rounded from float32; the released code sums in
            float16 too, and is less exact.

    Returns:
        (N, N) NumPy array, not negative: float32, or float16 with ``use_float16``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range.
        MemoryError: N x N does not fit.

    Source:
        Ge et al., NeurIPS 2020 (SpCL); Dai et al., ACCV 2022 (Cluster-Contrast).

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import compute_jaccard_distance
        >>> compute_jaccard_distance(torch.randn(50, 16), k1=30, k2=6).shape
        (50, 50)
    """
    features = read_features(target_features, "target_features")
    check_search_option(search_option)
    return dense_distance(features, None, k1=k1, k2=k2, preset="spcl", use_float16=use_float16)
