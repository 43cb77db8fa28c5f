"""Runs a search task from features to scores: queries, galleries, ranking, averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import Array
from mabm._core.columns import Column
from mabm._core.protocols import SearchTask
from mabm.distance.reranking import RerankOptions, rerank_samples
from mabm.distance.whole_products import inner_products
from mabm.evaluation.retrieval import RetrievalScores, evaluate_retrieval
from mabm.evaluation.samples import SearchSamples
from mabm.evaluation.scores import SearchScores

# Bounds the CMC stored for every trial; galleries are far smaller.
_MOST_RANKS = 2**20


def evaluate_search(
    features: Array,
    identity: Column,
    camera: Column,
    modality: Column,
    *,
    task: SearchTask,
    rerank: RerankOptions | None = None,
    trial: int | None = None,
    max_rank: int = 20,
) -> SearchScores:
    """Computes the scores of a search task over all its trials.

    The gallery is ranked by inner product. The protocols are defined on unit vectors, for which
    this equals the order by cosine similarity and by Euclidean distance; features are not
    normalized here. Beside the features, memory is that of one trial's distances, Q x G.

    Args:
        features: (N, D) floating point, one row per test image. Images that are neither queries nor
            in the gallery of the task are ignored.
        identity: (N,) integers, at least 0 for queries and gallery, or words such as ``"0001"``.
        camera: (N,) integers. Images of one identity in one camera must be in the order of their
            file names: otherwise the galleries are not the published ones.
        modality: (N,) integers, 0 visible and 1 infrared, or these two words, or bool, where
            ``True`` is infrared.
        task: One of :data:`mabm.SEARCH_TASKS` or :data:`mabm.MORE_SEARCH_TASKS`, or your own.
        rerank: Options for re-ranking each trial, using only its queries and gallery; ``None``
            ranks by inner product.
        trial: The data set's trial that ``features`` belong to, recorded in the result of a task
            that draws nothing. ``None`` is 0.
        max_rank: Largest rank of the CMC, in [1, 1048576].

    Returns:
        Scores of every trial. Draws and, without ``rerank``, scores are bit-for-bit the same on
        every device by design, and for any number of threads: the features of each image are
        rounded to multiples of about 2^-26 of their length, whose products and sums are exact in
        float64. With ``rerank`` the distances are those of :func:`mabm.rerank`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes do not fit, values are not finite, there are no queries or no gallery, a
            query or gallery image has an unknown identity, or no query has a match in its gallery.
        MemoryError: With ``rerank``, if the distances do not fit in memory.

    Example:
        >>> import torch, mabm
        >>> features = torch.nn.functional.one_hot(torch.arange(80) // 8).float()
        >>> identity, camera = torch.arange(80) // 8, torch.arange(80) % 8 // 2 + 1
        >>> modality = (camera == 3).long()
        >>> task = mabm.SEARCH_TASKS["sysu_mm01"][1]
        >>> mabm.evaluate_search(features, identity, camera, modality, task=task)
        SearchScores(sysu_mm01 indoor-search: rank1 1.0000, mAP 1.0000, mINP 1.0000, 10 trials)
    """
    if not isinstance(task, SearchTask):
        raise TypeError(f"task must be a SearchTask, got {type(task).__name__}: {shown(task)}")
    if rerank is not None and not isinstance(rerank, RerankOptions):
        raise TypeError(f"rerank must be RerankOptions or None, got {type(rerank).__name__}")
    max_rank = check_integer("max_rank", max_rank, at_least=1, at_most=_MOST_RANKS)
    if trial is not None:
        check_integer("trial", trial, at_least=0)
        if task.num_trials > 1:
            raise ValueError(
                f"trial must be None for task {task.name!r}, which draws its own "
                f"{task.num_trials} trials, got {trial}"
            )
    samples = SearchSamples.check(features, identity, camera, modality)
    _check_sides(samples, task)
    scores = []
    for number in range(task.num_trials):
        queries, gallery = samples.queries(task, number), samples.gallery(task, number)
        scores.append(
            evaluate_retrieval(
                _distance(samples, queries, gallery, rerank),
                samples.identity[queries],
                samples.identity[gallery],
                samples.camera[queries],
                samples.camera[gallery],
                protocol=task.protocol,
                max_rank=max_rank,
            )
        )
    trials = range(task.num_trials) if trial is None else (trial,)
    return SearchScores(
        task.data,
        task.name,
        tuple(trials),
        np.stack([_cmc(each, max_rank) for each in scores]),
        np.array([each.mean_average_precision for each in scores]),
        np.array([each.mean_inverse_negative_penalty for each in scores]),
        tuple(each.num_queries for each in scores),
        rerank,
    )


def _check_sides(samples: SearchSamples, task: SearchTask) -> None:
    """Rejects a task without queries or gallery, or with samples of unknown identity."""
    queries, gallery = samples.query_candidates(task), samples.gallery_candidates(task)
    sides = (
        ("query", queries, task.query_modality, task.query_cameras),
        ("gallery", gallery, task.gallery_modality, task.gallery_cameras),
    )
    for side, rows, modality, cameras in sides:
        if not len(rows):
            which = "" if cameras is None else f" and camera {', '.join(map(str, cameras))}"
            raise ValueError(
                f"features must contain images for the {side} of task {task.name!r} of "
                f"{task.data} (modality {modality}{which}), got none among "
                f"{len(samples.modality)} images"
            )
    least = int(samples.identity[torch.cat([queries, gallery])].min())
    if least < 0:
        raise ValueError(f"identity must be known, at least 0, of every test image, got {least}")


def _distance(
    samples: SearchSamples, queries: Tensor, gallery: Tensor, options: RerankOptions | None
) -> Tensor:
    """(Q, G) distances: float64 minus inner products, or float32 re-ranked ones."""
    x, y = samples.features_at(queries), samples.features_at(gallery)
    if options is None:
        return inner_products(x, y).neg_()
    groups = samples.modality[torch.cat([queries, gallery])].to(x.device)
    return rerank_samples(x, y, groups, options.distance, options.lambda_value)


def _cmc(scores: RetrievalScores[Any], max_rank: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(max_rank,) float64: the CMC as quotients of integers, padded with its last value."""
    counts = np.rint(scores.cmc.cpu().numpy().astype(np.float64) * scores.num_queries)
    return np.pad(counts, (0, max_rank - len(counts)), mode="edge") / scores.num_queries
