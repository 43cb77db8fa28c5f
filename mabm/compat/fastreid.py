"""fast-reid and OpenUnReID: replaces their ``utils.compute_dist``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mabm._core.arguments import check_choice
from mabm._core.arrays import Array
from mabm.compat._adapters.distances import (
    Distances,
    check_lengths,
    check_search_option,
    dense_of_encoding,
    encode_by_distance,
    read_features,
    squared_euclidean,
)
from mabm.distance.encoding import expand_queries
from mabm.distance.neighbors import k_reciprocal_neighbors
from mabm.distance.ranking import rank_neighbors
from mabm.distance.rows import Encoding
from mabm.distance.whole_products import WholeRows

__all__ = [
    "build_dist",
    "compute_cosine_distance",
    "compute_euclidean_distance",
    "compute_jaccard_distance",
]

_METRICS = ("euclidean", "cosine", "jaccard")
# PyTorch's, to which `normalize` raises shorter lengths.
_LEAST_LENGTH = 1e-12


def build_dist(*args: Any, **options: Any) -> Distances:
    """Computes the distance from each row of one set of features to each row of another.

    Called as in fast-reid, ``build_dist(feat_1, feat_2, metric="euclidean", **options)``, or as in
    OpenUnReID, ``build_dist(cfg, feat_1, feat_2=None, dist_m=None, verbose=False)``, where ``cfg``
    has the attributes ``dist_metric`` and, for the Jaccard distance, ``k1`` and ``k2``.

    Args:
        args: Positional arguments of either call. Features are (M, D) and (K, D) float tensors;
            only the cosine normalizes them.
        options: Keyword arguments of either call: ``metric`` (``"euclidean"``, squared here,
            ``"cosine"`` or ``"jaccard"``), and ``k1`` and ``k2`` (20 and 6) for the Jaccard
            distance. Others are ignored.

    Returns:
        (M, K) float32 NumPy array. The neighbors of the Jaccard distance come from all M + K rows;
        only the (M, K) part is computed.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
        MemoryError: The (M, K) result does not fit in memory.

    Example:
        >>> import torch
        >>> from mabm.compat.fastreid import build_dist
        >>> build_dist(torch.randn(5, 8), torch.randn(30, 8), metric="jaccard", k1=10, k2=3).shape
        (5, 30)
    """
    if "cfg" in options or hasattr(next(iter(args), None), "dist_metric"):
        return _build_configured(*args, **options)
    return _build(*args, **options)


def _build(
    feat_1: Array,
    feat_2: Array | None = None,
    metric: str = "euclidean",
    *,
    k1: int = 20,
    k2: int = 6,
    **_: object,
) -> Distances:
    check_choice("metric", metric, _METRICS)
    if metric == "euclidean":
        return compute_euclidean_distance(feat_1, feat_2)
    if metric == "cosine":
        return compute_cosine_distance(feat_1, feat_2)
    one, other = _read_pair(feat_1, feat_2, "feat_1", "feat_2")
    if feat_2 is None:
        return dense_of_encoding(_encode(one, k1, k2))
    split = len(one)
    encoding = _encode(torch.cat([one, other]), k1, k2)
    return dense_of_encoding(encoding, slice(0, split), slice(split, None))


def _build_configured(
    cfg: Any,
    feat_1: Array,
    feat_2: Array | None = None,
    dist_m: str | None = None,
    verbose: bool = False,
) -> Distances:
    metric = cfg.dist_metric if dist_m is None else dist_m
    lists = {"k1": cfg.k1, "k2": cfg.k2} if metric == "jaccard" else {}
    return _build(feat_1, feat_2, metric, **lists)


def compute_jaccard_distance(
    features: Array,
    k1: int = 20,
    k2: int = 6,
    search_option: int = 0,
    fp16: bool = False,
    verbose: bool = True,
) -> Distances:
    """Computes the classic Jaccard distance of all pairs of rows.

    This is preset ``"spcl"``, except that neighbors are weighed by their squared Euclidean distance
    instead of ``2 - 2 x . y``. Both are equal on unit vectors.

    Args:
        features: (N, D) float tensor; not normalized.
        k1: Length of the neighbor lists, in [1, 1024], including the sample itself. With fewer
            samples the lists contain all of them; faiss pads them with -1, which the released code
            reads as the last row.
        k2: Rows to average for query expansion, at least 1; values above ``k1`` mean ``k1``.
        search_option: An integer in [0, 5], without effect; it selected a faiss index.
        fp16: Whether to round the result from float32 to float16. (The released code also sums in
            float16, which is less accurate.)
        verbose: Ignored; nothing is printed.

    Returns:
        (N, N) NumPy array of values in [0, 1]: float32, or float16 with ``fp16``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
        MemoryError: The (N, N) result does not fit in memory.

    Example:
        >>> import torch
        >>> from mabm.compat.fastreid import compute_jaccard_distance
        >>> compute_jaccard_distance(torch.randn(40, 8), k1=10, k2=3).shape
        (40, 40)
    """
    check_search_option(search_option)
    encoding = _encode(read_features(features, "features"), k1, k2)
    return dense_of_encoding(encoding, use_float16=fp16)


def compute_euclidean_distance(
    features: Array, others: Array | None = None, cuda: bool = False
) -> Distances:
    """Computes the squared Euclidean distances between two sets of rows, or within one.

    Args:
        features: (M, D) float tensor; not normalized.
        others: (K, D) float tensor; ``None`` is ``features`` again.
        cuda: Ignored.

    Returns:
        (M, K) float32 NumPy array, at least 0: exact distances of rows rounded to about 2^-26 of
        their length.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is not finite or not (N, D), or the numbers of columns differ.
    """
    one, other = map(WholeRows, _read_pair(features, others, "features", "others"))
    return _to_numpy(one.squared_distances(other))


def compute_cosine_distance(
    features: Array, others: Array | None = None, cuda: bool = False
) -> Distances:
    """Computes one minus the cosine similarity between two sets of rows, or within one.

    Args:
        features: (M, D) float tensor.
        others: (K, D) float tensor; ``None`` is ``features`` again.
        cuda: Ignored.

    Returns:
        (M, K) float32 NumPy array.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is not finite or not (N, D), or the numbers of columns differ.
    """
    one, other = map(WholeRows, _read_pair(features, others, "features", "others"))
    cosine = one.multiply(other)
    for lengths in (one.squares[:, None].sqrt(), other.squares.sqrt()):
        cosine /= lengths.clamp_(min=_LEAST_LENGTH)
    return _to_numpy(1 - cosine)


def _read_pair(
    one: Array, other: Array | None, first_name: str, second_name: str
) -> tuple[Tensor, Tensor]:
    first = read_features(one, first_name)
    second = first if other is None else read_features(other, second_name)
    if second.shape[1] != first.shape[1]:
        raise ValueError(
            f"{second_name} must have {first.shape[1]} columns as {first_name} has, "
            f"got {second.shape[1]}"
        )
    return first, second.to(first.device)


def _encode(features: Tensor, k1: object, k2: object) -> Encoding[Tensor]:
    length, rows = check_lengths(k1, k2)
    ranking = rank_neighbors(features, k1=length, preset="spcl")
    neighbors = k_reciprocal_neighbors(ranking)
    encoding = encode_by_distance(neighbors, partial(squared_euclidean, features))
    return expand_queries(encoding, ranking, k2=rows)


def _to_numpy(distance: Tensor) -> Distances:
    found: Distances = distance.to(torch.float32).cpu().numpy()
    return found
