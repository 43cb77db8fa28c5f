"""MMM, PCLHD and RPNR: replaces their ``clustercontrast.utils.faiss_rerank``.

Like the old file, it also has the classic ``compute_jaccard_distance``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mabm._core.arrays import Array
from mabm.compat._adapters.distances import (
    Distances,
    check_search_option,
    dense_distance,
    modality_of_names,
    read_features,
)
from mabm.compat.clustercontrast import compute_jaccard_distance

__all__ = ["compute_jaccard_distance", "compute_modal_invariant_jaccard_distance"]


def compute_modal_invariant_jaccard_distance(
    target_features: Array,
    file: Sequence[Any],
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 0,
    use_float16: bool = False,
) -> Distances:
    """Computes the classic Jaccard distance, averaged evenly over the modalities.

    Args:
        target_features: (N, D) float tensor; not normalized.
        file: (N,) tuples (file name, id, camera). The file name contains ``rgb_modify`` or
            ``ir_modify``; the id and camera are not read.
        k1: Length of the neighbor lists, in [1, 1024], including the sample itself. With fewer
            samples the lists contain all of them; faiss pads them with -1, which the released code
            reads as the last row.
        k2: Rows to average for query expansion, at least 1; values above ``k1`` mean ``k1``.
        print_flag: Ignored; nothing is printed.
        search_option: An integer in [0, 5], without effect; it selected a faiss index.
        use_float16: Whether to round the result from float32 to float16. (The released code also
            sums in float16, which is less accurate.)

    Returns:
        (N, N) NumPy array of values in [0, 1], preset ``"modal_invariant"``: float32, or float16
        with ``use_float16``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or a file name contains neither word.
        MemoryError: The (N, N) result does not fit in memory.

    Source:
        Shi et al. (MMM, PCLHD), Yin et al. (RPNR).

    Example:
        >>> import torch
        >>> from mabm.compat.modal_invariant import compute_modal_invariant_jaccard_distance
        >>> files = [(f"{name}_modify/{n}.jpg", 0, 0) for n in range(20) for name in ("rgb", "ir")]
        >>> compute_modal_invariant_jaccard_distance(torch.randn(40, 8), files).shape
        (40, 40)
    """
    features = read_features(target_features, "target_features")
    check_search_option(search_option)
    modality = modality_of_names("file", file, len(features))
    return dense_distance(
        features, modality, k1=k1, k2=k2, preset="modal_invariant", use_float16=use_float16
    )
