"""k-reciprocal re-ranking: replaces the ``re_ranking`` files of many code bases.

Also for ``compute_jaccard_dist``, which is in the same file in MMT, CAP and related code bases.
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
from mabm.compat._adapters.distances import (
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
from mabm.distance.whole_products import WholeRows

__all__ = ["compute_jaccard_dist", "re_ranking"]

_ROWS_AT_ONCE = 256
_INSTEAD = "use mabm.rerank, which computes only the (Q, G) part"

logger = logging.getLogger(__name__)


def re_ranking(*args: Any, **options: Any) -> Distances:
    """Re-ranks a gallery for each query by k-reciprocal encoding.

    There are three forms of the call. With distances, as in torchreid and fast-reid:
    ``re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3)``. With features:
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, MemorySave=False, Minibatch=2000)`` or
    ``re_ranking(probFea, galFea, k1, k2, lambda_value, local_distmat=None, only_local=False)``;
    the three numbers default to 20, 6 and 0.3. The form with distances is recognized by an array
    as its third argument.

    The result is ``(1 - lambda) * J + lambda * d``. Here d is the squared distance, divided in each
    row by its maximum, and neighbors are weighed by ``softmax(-d)``. A list has the sample and its
    k1 neighbors. (In :func:`mabm.rerank` lists are by modality, ``k1`` includes the sample, weights
    come from the features, and no (Q + G, Q + G) matrix is needed.) If the diagonal of ``q_q_dist``
    or ``g_g_dist`` is far from zero, a warning is logged once per process: the values may be
    similarities. Distances of features are exact, of features rounded to about 2^-26 of their
    length.

    Args:
        args: Positional arguments of one of the forms, tensors or arrays: distances (Q, G), (Q, Q)
            and (G, G), not squared, or features (Q, D) and (G, D), not normalized.
        options: Keyword arguments of one of the forms. ``k1`` is in [1, 1023], ``k2`` in [1, 1024]
            and may exceed ``k1``, ``lambda_value`` is in [0, 1]. ``local_distmat`` (Q + G, Q + G)
            is added to the squared distance of the features, or replaces it with ``only_local``.
            ``MemorySave`` and ``Minibatch`` are ignored.
            There is one new option. ``use_float16=True`` rounds the weights of the neighbors, their
            averages and sums, and J to float16, as the released functions of features do; those
            of distances do not. It needs dense (Q + G, Q + G) weights and as much time as the
            released code. False, the default, is exact to float32. (The released form with
            ``MemorySave`` also rounds the distances. Its ranks then depend on the order of ties,
            which cannot be reproduced.)

    Returns:
        (Q, G) float32 NumPy array.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range or not finite, or shapes differ.
        MemoryError: (Q + G, Q + G) matrices do not fit in memory.

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
    """Computes the Jaccard distance of all pairs of rows, mixed with another by ``lambda_value``.

    Neighbors are ranked and weighed by ``2 |x_j|^2 - 2 x_i . x_j``, divided in each row by its
    maximum. This is the squared Euclidean distance on unit vectors, and what the released code
    computes on others. Lists contain the sample and its k1 neighbors. A sample that is missing from
    its own list, as long vectors may be, is encoded as itself; the released code leaves its row
    empty. Products are exact, of features rounded to about 2^-26 of their length.

    The result is ``(1 - lambda) * J + lambda * d``. With a source domain, as in MMT, ``d_ij`` is
    ``s_i + s_j``, where ``s_i`` is ``1 - exp(-distance^2)`` to the nearest row of the source,
    divided by its maximum. Without one, as in CAP, d is the distance of the ranking, at least 0.

    Args:
        target_features: (N, D) float tensor; not normalized.
        k1: Number of neighbors besides the sample itself, in [1, 1023].
        k2: Rows to average for query expansion, in [1, 1024]; may exceed ``k1``.
        print_flag: Ignored; nothing is printed.
        lambda_value: Weight of d, in [0, 1].
        source_features: (M, D) float tensor of the source domain, or ``None``.
        use_gpu: Ignored.

    Returns:
        (N, N) float32 **tensor** on the CPU; callers convert it by ``.numpy()``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
        MemoryError: The (N, N) result does not fit in memory.

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
    whole = WholeRows(features)
    doubled = (whole.squares - whole.multiply(whole)).mul_(2)
    distance = _relative(doubled.to(torch.float32).cpu())
    ranks, neighbors = _find_neighbors(distance, *lengths)
    jaccard = torch.from_numpy(_jaccard(distance, ranks, neighbors))
    if not mix:
        return jaccard
    other = distance.clamp_(min=0) if source is None else _away_from(source, features)
    return jaccard * (1 - mix) + other * mix


def _away_from(source: Tensor, features: Tensor) -> Tensor:
    """Returns (N, N) float32 sums of the distances of two rows from the source domain."""
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
    """Logs a warning if the distances of samples to themselves are not small."""
    to_itself, all_pairs = within.diagonal().abs().median(), within.abs().median()
    if 2 * to_itself > all_pairs:
        advise(
            logger,
            "diagonal",
            f"{name} has a median of {float(to_itself):.3g} from a sample to itself, and of "
            f"{float(all_pairs):.3g} over all pairs: these seem to be similarities; try "
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
    if MemorySave is None or isinstance(
        MemorySave, Tensor | np.ndarray
    ):  # the form with local_distmat
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
    """Re-ranks by (N, N) squared distances; the first ``split`` rows are the queries."""
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
    """Divides each row by its maximum."""
    furthest = distance.amax(dim=1, keepdim=True)
    if not bool(furthest.isfinite().all()):
        raise ValueError("distances must have squares that are finite in float32, got Inf")
    return distance / furthest.where(furthest > 0, 1.0)


def _find_neighbors(distance: Tensor, k1: int, k2: int) -> tuple[Tensor, NeighborSets[Tensor]]:
    """Returns (N, k2) nearest rows, and neighbor sets from lists of the sample and k1 others."""
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
    """Returns J of the given rows and columns; ``ranks`` (N, k2) are the rows to average."""
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
    """Returns (Q, G) J, with weights, averages and all partial sums rounded to float16.

    Sums run over ascending columns, since the order affects the last bit.
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
