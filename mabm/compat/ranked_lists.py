"""SDCL, HIL, GUR, PPLR and DMDL: replaces the ranked lists of their ``utils.faiss_rerank``.

Like some of these files, it also has the classic ``compute_jaccard_distance``.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array, IntArray
from mabm.compat._adapters.distances import check_search_option, nearest_columns, read_features
from mabm.compat.clustercontrast import compute_jaccard_distance
from mabm.distance.presets import MAX_K, PRESETS
from mabm.distance.ranking import rank_neighbors
from mabm.distance.whole_products import WholeRows

__all__ = ["compute_jaccard_distance", "compute_ranked_list", "compute_ranked_list_cm"]

_FIRST_INNER_PRODUCT = 2  # options below this one selected Euclidean faiss indexes

# Scores held at once, in float64.
_SCORES_AT_ONCE = 2**24


def compute_ranked_list(
    features: Array,
    k: int = 20,
    search_option: int = 3,
    fp16: bool = False,
    verbose: bool = True,
) -> IntArray:
    """Ranks the nearest other rows of each row.

    The first entry of each list is dropped, as in the released code: the row itself, or a duplicate
    with a lower index. If rows are not unit vectors, the first by inner product may be another row.

    Args:
        features: (N, D) float tensor; not normalized.
        k: Length of the lists, in [1, 1023].
        search_option: 0 and 1 rank by Euclidean distance, as in PPLR and GUR (their default is 0);
            2 to 5 rank by inner product, as in SDCL, HIL and DMDL. Both agree on unit vectors.
        fp16: Ignored.
        verbose: Ignored; nothing is printed.

    Returns:
        (N, min(k, N - 1)) int64 NumPy array, nearest first, ties by lower row.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Source:
        Cho et al., CVPR 2022 (PPLR); Yang et al., CVPR 2024 (SDCL).

    Example:
        >>> import torch
        >>> from mabm.compat.ranked_lists import compute_ranked_list
        >>> compute_ranked_list(torch.tensor([[0.0], [1.0], [3.0]]), k=2, search_option=0).tolist()
        [[1, 2], [0, 2], [1, 0]]
    """
    euclidean = check_search_option(search_option) < _FIRST_INNER_PRODUCT
    width = _check_k(k) + 1
    preset = replace(PRESETS["spcl"], metric="euclidean" if euclidean else "inner_product")
    ranking = rank_neighbors(read_features(features, "features"), k1=width, preset=preset)
    found: IntArray = ranking.ranks[:, 1:].cpu().numpy()
    return found


def compute_ranked_list_cm(
    features_g: Array,
    features_p: Array,
    k: int = 20,
    search_option: int = 3,
    fp16: bool = False,
    verbose: bool = True,
) -> IntArray:
    """Ranks the rows of another set by inner product for each row, **without the first**.

    The released code also drops the first entry of lists across modalities, although that is the
    nearest row of the other modality and not the row itself. This function does the same.

    Args:
        features_g: (M, D) float tensor; not normalized.
        features_p: (K, D) float tensor of the rows to rank.
        k: Length of the lists, in [1, 1023].
        search_option: An integer in [0, 5], without effect; it selected a faiss index.
        fp16: Ignored.
        verbose: Ignored; nothing is printed.

    Returns:
        (M, min(k, K - 1)) int64 NumPy array, the second nearest first, ties by lower row. Products
        are exact, of features rounded to about 2^-26 of their length, and compared as float32.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or the numbers of columns differ.

    Source:
        Yang et al., CVPR 2024 (SDCL).

    Example:
        >>> import torch
        >>> from mabm.compat.ranked_lists import compute_ranked_list_cm
        >>> other = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> compute_ranked_list_cm(torch.tensor([[1.0, 0.0]]), other, k=2).tolist()
        [[1, 2]]
    """
    check_search_option(search_option)
    width = _check_k(k) + 1
    given, others = (
        read_features(value, name)
        for value, name in ((features_g, "features_g"), (features_p, "features_p"))
    )
    if others.shape[1] != given.shape[1]:
        raise ValueError(
            f"features_p must have {given.shape[1]} columns as features_g has, "
            f"got {others.shape[1]}"
        )
    columns = WholeRows(others.to(given.device))
    step = max(_SCORES_AT_ONCE // max(len(others), 1), 1)
    parts = [
        nearest_columns(-WholeRows(rows).multiply(columns).to(torch.float32), width)
        for rows in torch.split(given, step)
    ]
    found: IntArray = torch.cat(parts)[:, 1:].cpu().numpy()
    return found


def _check_k(value: object) -> int:
    return check_integer("k", value, at_least=1, at_most=MAX_K - 1)
