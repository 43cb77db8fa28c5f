"""SDCL, HIL, GUR, PPLR and DMDL: stands in for the ranked lists of their ``utils.faiss_rerank``.

Where that file holds the classic ``compute_jaccard_distance`` as well, so does this one.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array, IntArray
from mabm.compat._adapters import check_search_option, nearest_columns, read_features
from mabm.compat.clustercontrast import compute_jaccard_distance
from mabm.distance.presets import MAX_K, PRESETS
from mabm.distance.ranking import rank_neighbors

__all__ = ["compute_jaccard_distance", "compute_ranked_list", "compute_ranked_list_cm"]

_FIRST_INNER_PRODUCT = 2  # the search options below it asked faiss for Euclidean neighbors

# Scores held at once, in float64.
_SCORES_AT_ONCE = 2**24


def compute_ranked_list(
    features: Array,
    k: int = 20,
    search_option: int = 3,
    fp16: bool = False,
    verbose: bool = True,
) -> IntArray:
    """Ranks the nearest other rows of every row.

    The first of each list is dropped, as the released code does: the row itself, or a duplicate of
    it with a lower number. By inner product of rows that are no unit vectors, it may be another.

    Args:
        features: (N, D) float tensor; never normalized here.
        k: Length of the lists, in [1, 1023].
        search_option: 0 and 1 rank by Euclidean distance, as PPLR and GUR do, whose default is 0;
            2 to 5 by inner product, as SDCL, HIL and DMDL do. On unit vectors the two agree.
        fp16: Accepted and not needed.
        verbose: Accepted and not needed: nothing is printed.

    Returns:
        (N, min(k, N - 1)) int64 NumPy array, nearest first, ties by lower row.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range.

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
    """Ranks, for every row of one set, rows of another by inner product, **without the first**.

    The released code drops the first of each list across modalities too, where it is the nearest
    row of the other modality and not the row itself. This function does the same.

    Args:
        features_g: (M, D) float tensor; never normalized here.
        features_p: (K, D) float tensor of the rows to rank.
        k: Length of the lists, in [1, 1023].
        search_option: 0 to 5; it chooses nothing.
        fp16: Accepted and not needed.
        verbose: Accepted and not needed: nothing is printed.

    Returns:
        (M, min(k, K - 1)) int64 NumPy array, the second nearest first, ties by lower row. Products
        are float64, compared as float32.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, or of another number of columns.

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
    columns = others.to(given.device, torch.float64).T
    step = max(_SCORES_AT_ONCE // max(len(others), 1), 1)
    parts = [
        nearest_columns(-(rows.to(torch.float64) @ columns).to(torch.float32), width)
        for rows in torch.split(given, step)
    ]
    found: IntArray = torch.cat(parts)[:, 1:].cpu().numpy()
    return found


def _check_k(value: object) -> int:
    return check_integer("k", value, at_least=1, at_most=MAX_K - 1)
