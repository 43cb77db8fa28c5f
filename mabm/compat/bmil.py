"""BMIL: replaces ``clustercontrast.utils.faiss_rerank_xmodal``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array
from mabm.compat._adapters.distances import (
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
    """Computes the Jaccard distance that ``search_option`` selects, as the released code does.

    Options 4 and 5 are the modality-aware distance, preset ``"bmil"``. Options 0 to 3 selected a
    faiss index and are the classic distance: preset ``"modal_invariant"``, which averages evenly
    over modalities, if there are file names, otherwise preset ``"spcl"``.

    Args:
        target_features: (N, D) float tensor; not normalized.
        k1: Length of the neighbor lists, in [1, 1024], including the sample itself; with options 4
            and 5 half of it in each modality. A list with too few samples contains all of them.
            (The released code fails with options 4 and 5, and otherwise reads the padding of faiss
            as the last row.)
        k2: Rows to average for query expansion, at least 1, in each modality with options 4 and 5
            and in total otherwise; values above ``k1`` mean ``k1``.
        print_flag: Ignored; nothing is printed.
        search_option: An integer in [0, 5], see above.
        use_float16: Whether to round the result from float32 to float16. (The released code also
            sums in float16, which is less accurate.)
        all_file_name: (N,) file names that contain ``rgb_modify`` or ``ir_modify``.
        rgbNum: With options 4 and 5 the number of visible rows, which come first; file names are
            then not read. With 0 the file names determine the modality, in any row order.

    Returns:
        (N, N) NumPy array of values in [0, 1]: float32, or float16 with ``use_float16``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or a file name contains neither word.
        MemoryError: The (N, N) result does not fit in memory.

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
