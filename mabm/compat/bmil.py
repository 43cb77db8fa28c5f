"""BMIL: stands in for ``clustercontrast.utils.faiss_rerank_xmodal``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array
from mabm.compat._adapters import (
    Distances,
    check_search_option,
    dense_distance,
    modality_of_names,
    read_features,
)

__all__ = ["compute_jaccard_distance_xmodal"]


def compute_jaccard_distance_xmodal(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 0,
    use_float16: bool = False,
    all_file_name: Sequence[Any] | None = None,
    rgbNum: int = 0,
) -> Distances:
    """Computes a Jaccard distance as the released training loop calls for it.

    ``search_option`` 4 and 5 are the modality-aware distance, preset ``"bmil"``. Below, the option
    chose a route through faiss and the distance is the classic one: averaged evenly over
    modalities where file names tell them (preset ``"modal_invariant"``), else ``"spcl"``.

    Args:
        target_features: (N, D) float tensor; never normalized here.
        k1: As :func:`mabm.modality_jaccard`; a modality with fewer samples than its share, or fewer
            samples than ``k1`` in the classic distance, give all they have (the released code fails
            in the first case, and reads faiss's filling as the last row in the second).
        k2: Rows to average, of each modality with option 4 and 5, else in all; a list that is
            shorter gives all it has.
        print_flag: Accepted and not needed: nothing is printed.
        search_option: 0 to 5, see above.
        use_float16: Whether the result is float16, rounded from float32; the released code sums in
            float16 too, and is less exact.
        all_file_name: File name of each row, ``rgb_modify`` or ``ir_modify`` in it.
        rgbNum: With option 4 and 5: the number of visible rows, which come first; file names are
            then not read. Where it is 0, they tell the modality, in any row order.

    Returns:
        (N, N) NumPy array, not negative: float32, or float16 with ``use_float16``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, or a file name that tells no modality.
        MemoryError: N x N does not fit.

    Source:
        Wang et al., AAAI 2026 (BMIL).

    Example:
        >>> import torch
        >>> from mabm.compat.bmil import compute_jaccard_distance_xmodal
        >>> visible, infrared = torch.randn(60, 16), torch.randn(40, 16)
        >>> compute_jaccard_distance_xmodal(
        ...     torch.cat([visible, infrared]), k1=30, k2=6, search_option=4, rgbNum=60
        ... ).shape
        (100, 100)
    """
    features = read_features(target_features, "target_features")
    aware = check_search_option(search_option) >= 4
    rows = check_integer("rgbNum", rgbNum, at_least=0)
    modality = None
    if aware and (rows or all_file_name is None):
        reason = f", the visible rows, which come first, with search_option={search_option}"
        last = len(features) - 1
        rows = check_integer("rgbNum", rows, at_least=1, at_most=last, reason=reason)
        modality = (np.arange(len(features)) >= rows).astype(np.int64)
    elif all_file_name is not None:
        modality = modality_of_names("all_file_name", all_file_name, len(features))
    classic = "spcl" if modality is None else "modal_invariant"
    preset = "bmil" if aware else classic
    return dense_distance(features, modality, k1=k1, k2=k2, preset=preset, use_float16=use_float16)
