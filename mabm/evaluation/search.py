"""A search task from features to scores: queries, galleries of every trial, ranking, averages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import Array, check_features
from mabm._core.columns import Column, check_categories, check_column, check_visible_infrared
from mabm._core.protocols import SearchTask
from mabm.distance.reranking import RerankOptions, rerank
from mabm.evaluation.galleries import draw_gallery
from mabm.evaluation.retrieval import RetrievalScores, evaluate_retrieval
from mabm.evaluation.scores import SearchScores

# Whole numbers of this many bits are exact in float64, and so is their sum.
_EXACT_BITS = 53
_ROWS_AT_ONCE = 1024

# Every trial has a CMC of as many numbers; galleries are far smaller.
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
    """Scores a search task of a data set over all its trials.

    Queries and gallery are compared by inner product; on unit vectors, which the protocols are
    defined on, that is the order of cosine and Euclidean distance. Features are used as they are
    given and never normalized here.

    Args:
        features: (N, D) floating point, one row a test image. Any rows may be among them: those of
            neither side of the task are left out.
        identity: (N,) integers, at least 0 wherever the task looks, or words such as ``"0001"``.
        camera: (N,) integers. Rows of one identity in one camera stand in the order of their file
            names, or other galleries are drawn than the published ones.
        modality: (N,) integers, 0 visible and 1 infrared, or these two words, or bool: whether it
            is infrared.
        task: One of :data:`mabm.SEARCH_TASKS`, or your own.
        rerank: Re-rank the distances of each trial, with the modality of each image and no other
            images than the trial's queries and gallery; ``None`` ranks by inner product alone.
        trial: Number of the data set's trial that ``features`` are of, for the result of a task
            that draws no galleries. ``None`` is 0.
        max_rank: Greatest rank of the CMC, in [1, 1048576].

    Returns:
        Scores of every trial. Galleries and, without ``rerank``, scores are the same bits on every
        device and for any number of threads: features are rounded, each row to a grid of 2^-21 of
        its greatest entry (a bit more or less by D), on which products and their sums are exact.
        With ``rerank`` they are those of :func:`mabm.rerank`, the same but for the rounding of a
        float64 product.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: Shapes that do not fit, values that are not finite, no query, an empty gallery,
            an unknown identity among them, or no query with a match in its gallery.
        MemoryError: With ``rerank``, where the distances do not fit.

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
                f"trial must be None for task {task.name!r}, which draws {task.num_trials} of its "
                f"own, got {trial}"
            )
    x = check_features(features)
    each = "one a row of features"
    people = check_categories(identity, len(x), "identity", each).columns[0].cpu()
    places = check_column(camera, len(x), "camera", each).cpu()
    kinds = check_visible_infrared(modality, len(x), "modality", each).cpu()
    query = _side("query", kinds, task.query_modality, places, task.query_cameras, task)
    others = _side("gallery", kinds, task.gallery_modality, places, task.gallery_cameras, task)
    least = int(people[torch.cat([query, others])].min())
    if least < 0:
        raise ValueError(f"identity must be known, at least 0, of every test image, got {least}")
    found = []
    for number in range(task.num_trials):
        gallery = others
        if task.gallery_cameras is not None and task.gallery == "one_per_camera":
            drawn = draw_gallery(
                people[others], places[others], cameras=task.gallery_cameras, trial=number
            )
            gallery = others[drawn]
        distance = _distance(x, query, gallery, kinds, rerank)
        found.append(
            evaluate_retrieval(
                distance,
                people[query],
                people[gallery],
                places[query],
                places[gallery],
                protocol=task.protocol,
                max_rank=max_rank,
            )
        )
    trials = range(task.num_trials) if trial is None else (trial,)
    return SearchScores(
        task.data,
        task.name,
        tuple(trials),
        np.stack([_cmc(scores, max_rank) for scores in found]),
        np.array([scores.mean_average_precision for scores in found]),
        np.array([scores.mean_inverse_negative_penalty for scores in found]),
        tuple(scores.num_queries for scores in found),
        rerank,
    )


def _side(
    side: str,
    kinds: Tensor,
    modality: int,
    places: Tensor,
    cameras: tuple[int, ...] | None,
    task: SearchTask,
) -> Tensor:
    """Rows of one side of a task, ascending."""
    chosen = kinds == modality
    if cameras is not None:
        chosen &= torch.isin(places, torch.tensor(cameras))
    rows = torch.nonzero(chosen).flatten()
    if not len(rows):
        of = "" if cameras is None else f" and camera {', '.join(map(str, cameras))}"
        raise ValueError(
            f"features must hold a row for the {side} of task {task.name!r} of {task.data} "
            f"(modality {modality}{of}), got none among {len(kinds)} rows"
        )
    return rows


def _distance(
    x: Tensor, query: Tensor, gallery: Tensor, kinds: Tensor, options: RerankOptions | None
) -> Tensor:
    """(Q, G) distances: float64 minus inner products, or float32 re-ranked ones."""
    own, others = x[query.to(x.device)], x[gallery.to(x.device)]
    if options is None:
        return minus_inner_products(own, others)
    return rerank(own, others, kinds[query], kinds[gallery], **asdict(options))


def minus_inner_products(own: Tensor, others: Tensor) -> Tensor:
    """(Q, G) float64: minus the inner products of rows rounded to whole numbers of a few bits.

    The bits are as many as leave every product and every sum of D of them exact in float64, so the
    result depends on neither the order of summation nor the device. A row's unit is a power of two,
    so nothing is lost by dividing by it.
    """
    bits = (_EXACT_BITS - max(own.shape[1] - 1, 1).bit_length()) // 2
    scaled, exponents = _whole_numbers(others, bits)
    distance = own.new_empty((len(own), len(others)), dtype=torch.float64)
    for start in range(0, len(own), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        part, powers = _whole_numbers(own[rows], bits)
        torch.mm(part, scaled.T, out=distance[rows])
        distance[rows] *= -_power_of_two(powers[:, None] + exponents)
    return distance


def _whole_numbers(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most ``bits`` bits, in float64, and the exponent of each row's unit."""
    exponents = torch.frexp(rows.abs().amax(dim=1)).exponent - bits
    return (rows.to(torch.float64) * _power_of_two(-exponents[:, None])).round_(), exponents


def _power_of_two(exponents: Tensor) -> Tensor:
    """float64, by its bits: what a device's pow makes of one need not be exact."""
    return (exponents.to(torch.int64) + 1023 << 52).view(torch.float64)


def _cmc(scores: RetrievalScores[Any], max_rank: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(max_rank,) float64, from the float32 of whole queries over all queries."""
    counts = np.rint(scores.cmc.cpu().numpy().astype(np.float64) * scores.num_queries)
    return np.pad(counts, (0, max_rank - len(counts)), mode="edge") / scores.num_queries
