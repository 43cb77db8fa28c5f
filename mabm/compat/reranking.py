"""k-reciprocal re-ranking: stands in for the ``re_ranking`` files of many code bases."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._advice import advise
from mabm._arrays import Array, check_floating, check_real, to_tensor
from mabm._device_memory import check_fits
from mabm.compat._adapters import (
    Distances,
    dense_of_encoding,
    encode_by_distance,
    read_features,
)
from mabm.compat.fastreid import compute_euclidean_distance
from mabm.encoding import expand_queries
from mabm.neighbors import k_reciprocal_neighbors
from mabm.presets import MAX_K, PRESETS, check_integer
from mabm.ranking import Ranking

__all__ = ["re_ranking"]

_ROWS_AT_ONCE = 256

logger = logging.getLogger(__name__)


def re_ranking(*args: Any, **options: Any) -> Distances:
    """Re-ranks a gallery for every query by k-reciprocal encoding.

    Called with distances, as in torchreid and fast-reid,
    ``re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3)``, or with features,
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, MemorySave=False, Minibatch=2000)`` or
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, local_distmat=None, only_local=False)``. A
    third argument that is an array tells the first from the others.

    ``(1 - lambda) * J + lambda * d``: d is the squared distance, divided for each sample by its
    greatest, and neighbours are weighed by ``softmax(-d)``. A sample counts beside its k1
    neighbours. (:func:`mabm.rerank` is the library's own: by modality, ``k1`` counts the sample,
    weights come from the features, and no (Q + G, Q + G) matrix is held.) Distances within whose
    diagonal is not about zero are named in the log, once a process: they may be similarities.

    Args:
        args: As above, tensors or arrays: distances (Q, G), (Q, Q) and (G, G), not squared, or
            features (Q, D) and (G, D), never normalised here.
        options: As above. ``k1`` is in [1, 1023], ``k2`` in [1, k1], ``lambda_value`` in [0, 1].
            ``local_distmat`` (Q + G, Q + G) is added to the squared distance of the features, or
            taken in its place. ``MemorySave`` and ``Minibatch`` are accepted and not needed.

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
    if isinstance(third, Tensor | np.ndarray):
        return _of_distances(*args, **options)
    return _of_features(*args, **options)


def _of_distances(
    q_g_dist: Array,
    q_q_dist: Array,
    g_g_dist: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Distances:
    between = _read_distance("q_g_dist", q_g_dist, None)
    queries, gallery = between.shape
    within_query = _read_distance("q_q_dist", q_q_dist, (queries, queries))
    within_gallery = _read_distance("g_g_dist", g_g_dist, (gallery, gallery))
    _check_fits(queries + gallery)
    for name, within in (("q_q_dist", within_query), ("g_g_dist", within_gallery)):
        _advise_on_diagonal(name, within)
    above = torch.cat([within_query, between], dim=1)
    below = torch.cat([between.T, within_gallery], dim=1)
    squared = torch.cat([above, below]).square_().to(torch.float32)
    return _rerank(squared, queries, k1, k2, lambda_value)


def _advise_on_diagonal(name: str, within: Tensor) -> None:
    """Says so where samples are not about as near to themselves as distances have it."""
    own, all_pairs = within.diagonal().abs().median(), within.abs().median()
    if 2 * own > all_pairs:
        advise(
            logger,
            "diagonal",
            f"{name} is {float(own):.3g} from a sample to itself, in the middle, and "
            f"{float(all_pairs):.3g} between all: it seems to hold similarities; try "
            "numpy.sqrt(2 - 2 * similarity), of all three",
        )


def _of_features(
    probFea: Array,
    galFea: Array,
    k1: int,
    k2: int,
    lambda_value: float,
    MemorySave: object = False,
    Minibatch: object = 2000,
    *,
    local_distmat: Array | None = None,
    only_local: bool = False,
) -> Distances:
    if MemorySave is None or isinstance(MemorySave, Tensor | np.ndarray):  # the last form
        local_distmat, only_local = MemorySave, Minibatch is True
    query, gallery = read_features(probFea, "probFea"), read_features(galFea, "galFea")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"galFea must have {query.shape[1]} columns as probFea has, got {gallery.shape[1]}"
        )
    total = len(query) + len(gallery)
    _check_fits(total)
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
    return _rerank(distance.to(torch.float32), len(query), k1, k2, lambda_value)


def _rerank(distance: Tensor, split: int, k1: object, k2: int, lambda_value: object) -> Distances:
    """Re-ranks by (N, N) squared distances, of which the first ``split`` rows are the queries."""
    length = check_integer("k1", k1, at_least=1, at_most=MAX_K - 1)
    mix = check_real("lambda_value", lambda_value, 0.0, 1.0)
    furthest = distance.amax(dim=1, keepdim=True)
    if not bool(furthest.isfinite().all()):
        raise ValueError("distances must have squares that are finite in float32, got Inf")
    distance = distance / furthest.where(furthest > 0, 1.0)
    ranking = _rank(distance, length)
    neighbors = k_reciprocal_neighbors(ranking)
    encoding = encode_by_distance(neighbors, lambda rows, columns: distance[rows, columns])
    encoding = expand_queries(encoding, ranking, k2=k2)
    jaccard = dense_of_encoding(encoding, slice(0, split), slice(split, None))
    original: NDArray[np.float32] = distance[:split, split:].numpy()
    mixed: Distances = (1 - mix) * jaccard + mix * original
    return mixed


def _rank(distance: Tensor, k1: int) -> Ranking[Tensor]:
    """Lists of ``k1 + 1`` by distance, a sample beside its neighbours, ties by lower index."""
    width = min(k1 + 1, len(distance))
    parts = []
    for rows in torch.split(distance, _ROWS_AT_ONCE):
        nearest, ranks = rows.topk(width, dim=1, largest=False)
        ranks = ranks.sort(dim=1).values
        order = rows.gather(1, ranks).sort(dim=1, stable=True).indices
        ranks = ranks.gather(1, order)
        tied = (rows <= nearest[:, -1:]).sum(dim=1) > width  # at the end, where topk chose freely
        ranks[tied] = rows[tied].argsort(dim=1, stable=True)[:, :width]
        parts.append(ranks)
    ranks = torch.cat(parts)
    scores = -distance.gather(1, ranks).to(torch.float64)
    return Ranking(ranks, scores, (width,), PRESETS["spcl"], k1=k1)


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


def _check_fits(total: int) -> None:
    check_fits(
        3 * 4 * total * total,
        f"re-ranking by the dense ({total}, {total}) distance",
        "use mabm.rerank, which holds the (Q, G) part alone",
        torch.device("cpu"),
    )
