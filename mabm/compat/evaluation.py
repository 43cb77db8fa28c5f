"""Evaluation of visible-infrared re-identification: replaces the ``eval_metrics`` files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.arrays import IntArray, check_numbers, to_tensor
from mabm.evaluation import evaluate_retrieval

__all__ = ["eval_llcm", "eval_regdb", "eval_sysu"]


def eval_sysu(
    distmat: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any, max_rank: int = 20
) -> tuple[NDArray[np.float32], float, float]:
    """Scores a ranked gallery by the protocol of SYSU-MM01.

    Gallery images of camera 2 are ignored for queries of camera 3. The CMC counts identities, mAP
    and mINP count images. Queries without a match are skipped.

    Args:
        distmat: (Q, G) distances, smaller is nearer; ties go to the lower gallery index.
        q_pids: (Q,) identities.
        g_pids: (G,) identities.
        q_camids: (Q,) camera numbers: integers or whole floats.
        g_camids: (G,) camera numbers: integers or whole floats.
        max_rank: Greatest rank of the CMC, at least 1.

    Returns:
        CMC as (R,) float32, mAP and mINP, all in [0, 1]. R is ``max_rank``, or the number of
        identities in the gallery if that is less.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes differ, a distance is NaN, or no query has a match.

    Source:
        Wu et al., ICCV 2017; mINP: Ye et al., TPAMI 2022.

    Example:
        >>> import numpy as np
        >>> from mabm.compat.evaluation import eval_sysu
        >>> cmc, mAP, mINP = eval_sysu(
        ...     np.array([[0.1, 0.2, 0.3]]), np.array([7]), np.array([8, 7, 7]),
        ...     np.array([3]), np.array([1, 2, 4]),
        ... )
        >>> cmc.tolist(), float(mAP), float(mINP)
        ([0.0, 1.0], 0.5, 0.5)
    """
    return _evaluate("sysu_mm01", distmat, q_pids, g_pids, (q_camids, g_camids), max_rank)


def eval_regdb(
    distmat: Any, q_pids: Any, g_pids: Any, max_rank: int = 20
) -> tuple[NDArray[np.float32], float, float]:
    """Scores a ranked gallery by the protocol of RegDB: no image is ignored, the CMC counts images.

    Args:
        distmat: (Q, G) distances, smaller is nearer; ties go to the lower gallery index.
        q_pids: (Q,) identities.
        g_pids: (G,) identities.
        max_rank: Greatest rank of the CMC, at least 1.

    Returns:
        CMC as (R,) float32, mAP and mINP, all in [0, 1]. R is ``max_rank``, or G if that is less.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes differ, a distance is NaN, or no query has a match.
    """
    return _evaluate("regdb", distmat, q_pids, g_pids, None, max_rank)


def eval_llcm(
    distmat: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any, max_rank: int = 20
) -> tuple[NDArray[np.float32], float, float]:
    """Scores a ranked gallery by the protocol of LLCM.

    Gallery images with the query's identity and camera are ignored. The CMC counts identities.

    Args:
        distmat: (Q, G) distances, smaller is nearer; ties go to the lower gallery index.
        q_pids: (Q,) identities.
        g_pids: (G,) identities.
        q_camids: (Q,) cameras of any type; only equality matters.
        g_camids: (G,) cameras of any type; only equality matters.
        max_rank: Greatest rank of the CMC, at least 1.

    Returns:
        CMC as (R,) float32, mAP and mINP, all in [0, 1]. R is ``max_rank``, or the number of
        identities in the gallery if that is less.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes differ, a distance is NaN, or no query has a match.
    """
    return _evaluate("llcm", distmat, q_pids, g_pids, (q_camids, g_camids), max_rank)


def _evaluate(
    protocol: str,
    distmat: Any,
    q_pids: Any,
    g_pids: Any,
    camids: tuple[Any, Any] | None,
    max_rank: int,
) -> tuple[NDArray[np.float32], float, float]:
    distance = _to_numpy("distmat", distmat)
    if distance.ndim != 2:
        raise ValueError(f"distmat must be (Q, G), got shape {distance.shape}")
    query = _labels("q_pids", q_pids, distance.shape[0])
    gallery = _labels("g_pids", g_pids, distance.shape[1])
    cameras: tuple[NDArray[Any], ...] = ()
    if camids is not None:
        cameras = (
            _labels("q_camids", camids[0], distance.shape[0]),
            _labels("g_camids", camids[1], distance.shape[1]),
        )
        # Only this protocol gives cameras a meaning by number; others compare them.
        by_number = protocol == "sysu_mm01"
        cameras = _whole_numbers(*cameras) if by_number else _numbered(*cameras)
    scores = evaluate_retrieval(
        distance, *_numbered(query, gallery), *cameras, protocol=protocol, max_rank=max_rank
    )
    average = np.float64(scores.mean_average_precision)
    return scores.cmc, average, np.float64(scores.mean_inverse_negative_penalty)


def _numbered(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Replaces labels of any type by numbers; only equality matters."""
    numbers = np.unique(np.concatenate([one, other]), return_inverse=True)[1]
    return numbers[: len(one)], numbers[len(one) :]


def _whole_numbers(query: NDArray[Any], gallery: NDArray[Any]) -> tuple[IntArray, IntArray]:
    return _whole("q_camids", query), _whole("g_camids", gallery)


def _whole(name: str, cameras: NDArray[Any]) -> IntArray:
    try:
        with np.errstate(invalid="ignore"):
            numbers = cameras.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if cameras.dtype.kind not in "iufO" or numbers is None or not (numbers == cameras).all():
        raise TypeError(f"{name} must be whole numbers, got {shown(cameras)}")
    return numbers


def _labels(name: str, value: Any, count: int) -> NDArray[Any]:
    labels = _to_numpy(name, value)
    if labels.shape != (count,):
        raise ValueError(f"{name} must be ({count},) as distmat has it, got shape {labels.shape}")
    return labels


def _to_numpy(name: str, value: Any) -> NDArray[Any]:
    """Returns a tensor, an array or a list as an array, of any type that can be compared."""
    if isinstance(value, Tensor):
        tensor = to_tensor(value, name).cpu()
        if tensor.dtype != torch.bool:  # identities may be anything that can be compared
            check_numbers(tensor, name)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(value, np.ma.MaskedArray):
        to_tensor(value, name)  # raises TypeError
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise ValueError(f"{name} must be an array, got {type(value).__name__}: {error}") from None
