"""k-reciprocal re-ranking: stands in for the ``re_ranking`` files of many code bases.

And for the ``compute_jaccard_dist`` that lies beside it in MMT, CAP and their kin.
"""

from __future__ import annotations

import logging
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._core.advice import advise
from mabm._core.arguments import check_integer, check_real
from mabm._core.arrays import Array, IntArray, check_floating, to_tensor
from mabm._core.device_memory import check_fits
from mabm.compat._adapters import (
    Distances,
    dense_of_encoding,
    encode_by_distance,
    nearest_columns,
    read_features,
)
from mabm.compat.fastreid import compute_euclidean_distance
from mabm.distance.encoding import expand_queries
from mabm.distance.neighbors import k_reciprocal_neighbors
from mabm.distance.presets import MAX_K, PRESETS
from mabm.distance.ranking import Ranking
from mabm.distance.rows import NeighborSets

__all__ = ["compute_jaccard_dist", "re_ranking"]

_ROWS_AT_ONCE = 256
_INSTEAD = "use mabm.rerank, which holds the (Q, G) part alone"

logger = logging.getLogger(__name__)


def re_ranking(*args: Any, **options: Any) -> Distances:
    """Re-ranks a gallery for every query by k-reciprocal encoding.

    Called with distances, as in torchreid and fast-reid,
    ``re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3)``, or with features,
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, MemorySave=False, Minibatch=2000)`` or
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, local_distmat=None, only_local=False)``,
    whose three numbers are 20, 6 and 0.3 where they are left out. A third argument that is an array
    tells the first from the others.

    ``(1 - lambda) * J + lambda * d``: d is the squared distance, divided for each sample by its
    greatest, and neighbors are weighed by ``softmax(-d)``. A sample counts beside its k1
    neighbors. (:func:`mabm.rerank` is the library's own: by modality, ``k1`` counts the sample,
    weights come from the features, and no (Q + G, Q + G) matrix is held.) Distances within whose
    diagonal is not about zero are named in the log, once a process: they may be similarities.

    Args:
        args: As above, tensors or arrays: distances (Q, G), (Q, Q) and (G, G), not squared, or
            features (Q, D) and (G, D), never normalized here.
        options: As above. ``k1`` is in [1, 1023], ``k2`` in [1, 1024] and may exceed it,
            ``lambda_value`` in [0, 1]. ``local_distmat`` (Q + G, Q + G) is added to the squared
            distance of the features, or taken in its place. ``MemorySave`` and ``Minibatch`` are
            accepted and not needed.
            One more than there: ``use_float16=True`` rounds the weights of the neighbors, their
            averages and sums, and J to float16, as the released forms that take features do and
            those that take distances do not; False, the default, is exact to float32. It holds
            dense (Q + G, Q + G) weights and takes as long as the released code. (The first form
            of features rounds these and the distances too; that leaves ranks to ties in no order,
            which nothing can reproduce.)

    Returns:
        (Q, G) float32 NumPy array.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range, not finite, or shapes that do not fit.
        MemoryError: (Q + G, Q + G) does not fit.

    Source:
        Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.

    Example:
        >>> import torch
        >>> from mabm.compat.reranking import re_ranking
        >>> query, gallery = torch.randn(5, 8), torch.randn(40, 8)
        >>> first = re_ranking(query, gallery, k1=20, k2=6, lambda_value=0.3)
        >>> between, within_query = torch.cdist(query, gallery), torch.cdist(query, query)
        >>> second = re_ranking(between, within_query, torch.cdist(gallery, gallery))
        >>> first.shape, bool(abs(first - second).max() < 1e-4)
        ((5, 40), True)
    """
    third = args[2] if len(args) > 2 else options.get("g_g_dist")
    run = _of_distances if isinstance(third, Tensor | np.ndarray) else _of_features
    try:
        signature(run).bind(*args, **options)
    except TypeError as error:
        raise TypeError(
            f"re_ranking must be called with {', '.join(signature(run).parameters)}: {error}"
        ) from None
    return run(*args, **options)


def compute_jaccard_dist(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    lambda_value: float = 0,
    source_features: Array | None = None,
    use_gpu: bool = False,
) -> Tensor:
    """Computes the Jaccard distance of all rows, mixed with another where ``lambda_value`` says so.

    Neighbors are ranked and weighed by ``2 |x_j|^2 - 2 x_i . x_j``, divided for each sample by its
    greatest: on unit vectors the squared Euclidean distance, on others what the released code
    computes. A sample counts beside its k1 neighbors. One that is in no list of its own, as long
    vectors may be, is encoded as itself, where the released code leaves its row empty.

    The result is ``(1 - lambda) * J + lambda * d``. With a source domain ``d_ij`` is ``s_i + s_j``,
    as in MMT, where ``s_i`` is ``1 - exp(-distance^2)`` to the nearest row of the source, divided
    by the greatest of all. Without one d is the distance of the ranking, at least 0, as in CAP.

    Args:
        target_features: (N, D) float tensor; never normalized here.
        k1: Neighbors beside the sample, in [1, 1023].
        k2: Rows to average, in [1, 1024]; may exceed ``k1``.
        print_flag: Accepted and not needed: nothing is printed.
        lambda_value: Weight of d, in [0, 1].
        source_features: (M, D) float tensor of the source domain, or ``None``.
        use_gpu: Accepted and not needed.

    Returns:
        (N, N) float32 **tensor** on the CPU, as callers add ``.numpy()``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range.
        MemoryError: N x N does not fit.

    Source:
        Zhong et al., CVPR 2017; Ge et al., ICLR 2020 (MMT); the source as in Song et al., 2018.

    Example:
        >>> import torch
        >>> from mabm.compat.reranking import compute_jaccard_dist
        >>> compute_jaccard_dist(torch.randn(40, 8), use_gpu=False).numpy().shape
        (40, 40)
    """
    features = read_features(target_features, "target_features")
    mix = check_real("lambda_value", lambda_value, 0.0, 1.0)
    source = None if source_features is None else read_features(source_features, "source_features")
    if source is not None and source.shape[1] != features.shape[1]:
        raise ValueError(
            f"source_features must have {features.shape[1]} columns as target_features has, "
            f"got {source.shape[1]}"
        )
    lengths = _check_lengths(k1, k2)
    _check_fits(len(features), "use mabm.jaccard_graph, which needs memory linear in N")
    wide = features.to(torch.float64)
    squares = wide.square().sum(dim=1)
    distance = _relative(torch.addmm(2 * squares, wide, wide.T, alpha=-2).to(torch.float32).cpu())
    ranks, neighbors = _find_neighbors(distance, *lengths)
    jaccard = torch.from_numpy(_jaccard(distance, ranks, neighbors))
    if not mix:
        return jaccard
    other = distance.clamp_(min=0) if source is None else _away_from(source, features)
    return jaccard * (1 - mix) + other * mix


def _away_from(source: Tensor, features: Tensor) -> Tensor:
    """(N, N) float32 sums of how far two rows lie from their nearest in the source."""
    others = source.to(features.device)
    nearest = torch.cat(
        [
            torch.from_numpy(compute_euclidean_distance(rows, others)).amin(dim=1)
            for rows in torch.split(features, _ROWS_AT_ONCE)
        ]
    )
    away = -torch.expm1(-nearest)
    greatest = away.max()
    away = away / greatest.where(greatest > 0, 1.0)
    return away[:, None] + away


def _of_distances(
    q_g_dist: Array,
    q_q_dist: Array,
    g_g_dist: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    use_float16: bool = False,
) -> Distances:
    between = _read_distance("q_g_dist", q_g_dist, None)
    queries, gallery = between.shape
    within_query = _read_distance("q_q_dist", q_q_dist, (queries, queries))
    within_gallery = _read_distance("g_g_dist", g_g_dist, (gallery, gallery))
    _check_fits(queries + gallery, _INSTEAD)
    for name, within in (("q_q_dist", within_query), ("g_g_dist", within_gallery)):
        _advise_on_diagonal(name, within)
    above = torch.cat([within_query, between], dim=1)
    below = torch.cat([between.T, within_gallery], dim=1)
    squared = torch.cat([above, below]).square_().to(torch.float32)
    return _rerank(squared, queries, k1, k2, lambda_value, use_float16)


def _advise_on_diagonal(name: str, within: Tensor) -> None:
    """Says so where samples are not about as near to themselves as distances have it."""
    own, all_pairs = within.diagonal().abs().median(), within.abs().median()
    if 2 * own > all_pairs:
        advise(
            logger,
            "diagonal",
            f"{name} has a median of {float(own):.3g} from a sample to itself, and of "
            f"{float(all_pairs):.3g} over all pairs: it seems to hold similarities; try "
            "numpy.sqrt(2 - 2 * similarity), of all three",
        )


def _of_features(
    probFea: Array,
    galFea: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    MemorySave: object = False,
    Minibatch: object = 2000,
    *,
    local_distmat: Array | None = None,
    only_local: bool = False,
    use_float16: bool = False,
) -> Distances:
    if MemorySave is None or isinstance(MemorySave, Tensor | np.ndarray):  # the last form
        local_distmat, only_local = MemorySave, Minibatch is True
    query, gallery = read_features(probFea, "probFea"), read_features(galFea, "galFea")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"galFea must have {query.shape[1]} columns as probFea has, got {gallery.shape[1]}"
        )
    total = len(query) + len(gallery)
    _check_fits(total, _INSTEAD)
    local = None
    if local_distmat is not None:
        local = _read_distance("local_distmat", local_distmat, (total, total))
    if only_local:
        if local is None:
            raise ValueError("local_distmat must be given with only_local=True, got None")
        distance = local
    else:
        distance = torch.from_numpy(compute_euclidean_distance(torch.cat([query, gallery])))
        distance = distance if local is None else distance + local
    return _rerank(distance.to(torch.float32), len(query), k1, k2, lambda_value, use_float16)


def _rerank(
    distance: Tensor, split: int, k1: object, k2: object, lambda_value: object, use_float16: object
) -> Distances:
    """Re-ranks by (N, N) squared distances, of which the first ``split`` rows are the queries."""
    lengths = _check_lengths(k1, k2)
    mix = check_real("lambda_value", lambda_value, 0.0, 1.0)
    distance = _relative(distance)
    ranks, neighbors = _find_neighbors(distance, *lengths)
    original: NDArray[np.float32] = distance[:split, split:].numpy()
    if use_float16:
        rounded = _rounded_jaccard(distance.numpy(), ranks.numpy(), neighbors, split)
        return np.asarray(rounded * (1 - mix) + original * mix)
    jaccard = _jaccard(distance, ranks, neighbors, slice(0, split), slice(split, None))
    return np.asarray(jaccard * (1 - mix) + original * mix)


def _check_lengths(k1: object, k2: object) -> tuple[int, int]:
    return (
        check_integer("k1", k1, at_least=1, at_most=MAX_K - 1),
        check_integer("k2", k2, at_least=1, at_most=MAX_K),
    )


def _relative(distance: Tensor) -> Tensor:
    """Each row divided by its greatest."""
    furthest = distance.amax(dim=1, keepdim=True)
    if not bool(furthest.isfinite().all()):
        raise ValueError("distances must have squares that are finite in float32, got Inf")
    return distance / furthest.where(furthest > 0, 1.0)


def _find_neighbors(distance: Tensor, k1: int, k2: int) -> tuple[Tensor, NeighborSets[Tensor]]:
    """(N, k2) nearest rows, and the sets of lists of k1 + 1: a sample beside its neighbors."""
    blocks = torch.split(distance, _ROWS_AT_ONCE)
    ranks = torch.cat([nearest_columns(rows, max(k1 + 1, k2)) for rows in blocks])
    neighbors = k_reciprocal_neighbors(_as_ranking(distance, ranks[:, : k1 + 1], k1))
    return ranks[:, :k2], neighbors


def _as_ranking(distance: Tensor, ranks: Tensor, k1: int) -> Ranking[Tensor]:
    scores = -distance.gather(1, ranks).to(torch.float64)
    return Ranking(ranks, scores, (ranks.shape[1],), PRESETS["spcl"], k1=k1)


def _jaccard(
    distance: Tensor,
    ranks: Tensor,
    neighbors: NeighborSets[Tensor],
    rows: slice | None = None,
    columns: slice | None = None,
) -> Distances:
    """J of the chosen samples, with the rows averaged that ``ranks`` (N, k2) holds."""
    encoding = encode_by_distance(neighbors, lambda one, other: distance[one, other])
    averaged = ranks.shape[1]
    encoding = expand_queries(encoding, _as_ranking(distance, ranks, averaged), k2=averaged)
    return dense_of_encoding(encoding, rows, columns)


def _rounded_jaccard(
    distance: NDArray[np.float32],
    ranks: IntArray,
    neighbors: NeighborSets[Tensor],
    split: int,
) -> NDArray[np.float16]:
    """(Q, G) J, with weights, averages and every partial sum rounded to float16.

    Sums run over ascending columns: their order tells the last bit.
    """
    weights = np.zeros(distance.shape, dtype=np.float16)
    for i, row in enumerate(distance):
        columns = neighbors.row(i).numpy()
        exponentials = np.exp(-row[columns])
        weights[i, columns] = exponentials / np.sum(exponentials)
    if ranks.shape[1] > 1:
        averaged = np.empty_like(weights)
        for i, rows in enumerate(ranks):
            averaged[i] = np.mean(weights[rows], axis=0)  # summed in float32, then rounded
        weights = averaged
    by_column = np.ascontiguousarray(weights.T)
    shared = np.zeros((split, len(weights) - split), dtype=np.float16)
    for i, row in enumerate(weights[:split]):
        for column in np.flatnonzero(row):
            shared[i] += np.minimum(row[column], by_column[column, split:])
    return np.asarray(1 - shared / (2 - shared))


def _read_distance(name: str, value: object, shape: tuple[int, int] | None) -> Tensor:
    distance = to_tensor(value, name).cpu()
    check_floating(distance, name)
    if distance.dim() != 2 or 0 in distance.shape:
        raise ValueError(
            f"{name} must be (Q, G) with at least one of each, got shape {tuple(distance.shape)}"
        )
    if shape is not None and distance.shape != shape:
        raise ValueError(f"{name} must be {shape}, got shape {tuple(distance.shape)}")
    bad = torch.nonzero(~distance.isfinite().all(dim=1)).flatten()
    if len(bad):
        raise ValueError(f"{name} must be finite, got NaN or Inf in row {int(bad[0])}")
    return distance


def _check_fits(total: int, instead: str) -> None:
    check_fits(
        3 * 4 * total * total,
        f"re-ranking by the dense ({total}, {total}) distance",
        instead,
        torch.device("cpu"),
    )
