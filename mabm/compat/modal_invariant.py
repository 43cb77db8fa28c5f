"""MMM, PCLHD and RPNR: stands in for their ``clustercontrast.utils.faiss_rerank``.

That file of theirs holds the classic ``compute_jaccard_distance`` as well, and so does this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mabm._core.arrays import Array
from mabm.compat._adapters import (
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
        target_features: (N, D) float tensor; never normalized here.
        file: (file name, id, camera) of each row; the name tells the modality by ``rgb_modify`` or
            ``ir_modify``. The ids and cameras are not read.
        k1: As :func:`mabm.compat.clustercontrast.compute_jaccard_distance`, with fewer samples too.
        k2: Rows to average, in all; more than ``k1`` mean ``k1``.
        print_flag: Accepted and not needed: nothing is printed.
        search_option: 0 to 5: a route through faiss, here without effect.
        use_float16: Whether the result is float16, rounded from float32; the released code sums in
            float16 too, and is less exact.

    Returns:
        (N, N) NumPy array, not negative, of preset ``"modal_invariant"``: float32, or float16 with
        ``use_float16``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, or a file name that tells no modality.
        MemoryError: N x N does not fit.

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
