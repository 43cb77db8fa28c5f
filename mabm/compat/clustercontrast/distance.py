"""The Jaccard distance of Cluster-Contrast's ``utils.faiss_rerank``."""

from __future__ import annotations

from mabm._core.arrays import Array
from mabm.compat._adapters.distances import (
    Distances,
    check_search_option,
    dense_distance,
    read_features,
)

__all__ = ["compute_jaccard_distance"]


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
        target_features: (N, D) float tensor; not normalized.
        k1: Length of the neighbor lists, in [1, 1024], including the sample itself. With fewer
            samples the lists contain all of them; faiss pads them with -1, which the released code
            reads as the last row.
        k2: Rows to average for query expansion, at least 1; values above ``k1`` mean ``k1``.
        print_flag: Ignored; nothing is printed.
        search_option: An integer in [0, 5], without effect; it selected a faiss index.
        use_float16: Whether to round the result from float32 to float16. (The released code also
            sums in float16, which is less accurate.)

    Returns:
        (N, N) NumPy array of values in [0, 1]: float32, or float16 with ``use_float16``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
        MemoryError: The (N, N) result does not fit in memory.

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
