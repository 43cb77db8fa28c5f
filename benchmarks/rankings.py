"""Rankings that a user would take instead of mabm's: plain products with top-k, and faiss.

Every one returns the lists of all samples for features of length 1: the ``k1 // G`` samples with
the greatest inner products of each of G groups. Scores are float32, ties as they come.
"""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Lists = list[tuple[Ints, Floats]]
"""Neighbor lists, one for each group: ranks (N, k) and inner products (N, k), nearest first."""

_BLOCK_ROWS = 1024

# Panorama compares vectors level by level and drops those that are certainly too far.
_LEVELS, _BATCH = 16, 512


def group_rows(modality: Tensor, preset: str) -> list[Tensor]:
    """Rows that each list is taken from: those of a modality (``"bmil"``), or all (``"spcl"``)."""
    if preset == "spcl":
        return [torch.arange(len(modality))]
    return [(modality == group).nonzero().squeeze(1) for group in modality.unique()]


def merged(lists: Lists) -> Ints:
    """Ranks (N, K) of all lists together, nearest first."""
    ranks = np.concatenate([ranks for ranks, _ in lists], axis=1)
    scores = np.concatenate([scores for _, scores in lists], axis=1)
    return np.take_along_axis(ranks, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def rank_by_torch(features: Tensor, groups: list[Tensor], k1: int) -> Lists:
    """PyTorch's product in row blocks, and its top-k."""
    lists: Lists = []
    for rows in groups:
        others = _chosen(features, rows)
        blocks = features.split(_BLOCK_ROWS)
        found = [(block @ others.T).topk(k1 // len(groups), dim=1) for block in blocks]
        scores, ranks = (torch.cat(parts) for parts in zip(*found, strict=True))
        lists.append((rows[ranks].numpy(), scores.numpy()))
    return lists


def rank_by_numpy(features: Tensor, groups: list[Tensor], k1: int) -> Lists:
    """NumPy's product in row blocks, and PyTorch's top-k, which is faster than argpartition."""
    x = features.numpy()
    lists: Lists = []
    for rows in groups:
        others = _chosen(features, rows).numpy()
        found = []
        for start in range(0, len(x), _BLOCK_ROWS):
            product = np.matmul(x[start : start + _BLOCK_ROWS], others.T)
            found.append(torch.from_numpy(product).topk(k1 // len(groups), dim=1))
        scores, ranks = (torch.cat(parts) for parts in zip(*found, strict=True))
        lists.append((rows[ranks].numpy(), scores.numpy()))
    return lists


def rank_by_faiss(features: Tensor, groups: list[Tensor], k1: int) -> Lists:
    """Exact search with faiss (``knn``, batched), on as many threads as PyTorch has."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    x = features.numpy()
    lists: Lists = []
    for rows in groups:
        others = _chosen(features, rows).numpy()
        scores, ranks = faiss.knn(x, others, k1 // len(groups), metric=faiss.METRIC_INNER_PRODUCT)
        lists.append((rows.numpy()[ranks], scores))
    return lists


def rank_by_panorama(features: Tensor, groups: list[Tensor], k1: int) -> Lists:
    """The flat Panorama index of faiss, on principal axes, so that the first levels tell most.

    Its distances are Euclidean, which ranks features of length 1 as inner products do.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    centered = features - features.mean(dim=0)
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)
    x = centered @ axes
    lists: Lists = []
    for rows in groups:
        index = faiss.IndexFlatL2Panorama(features.shape[1], _LEVELS, _BATCH)
        index.add(_chosen(x, rows).numpy())
        distances, ranks = index.search(x.numpy(), k1 // len(groups))
        lists.append((rows.numpy()[ranks], 1 - distances / 2))
    return lists


def _chosen(features: Tensor, rows: Tensor) -> Tensor:
    return features if len(rows) == len(features) else features[rows]


Rank = Callable[[Tensor, list[Tensor], int], Lists]
RANKINGS: dict[str, Rank] = {
    "torch": rank_by_torch,
    "NumPy": rank_by_numpy,
    "faiss": rank_by_faiss,
    "Panorama": rank_by_panorama,
}
"""Rankings by name."""


def missing(name: str) -> str | None:
    """Why a ranking cannot be measured here, or ``None`` if it can."""
    if name not in {"faiss", "Panorama"}:
        return None
    if importlib.util.find_spec("faiss") is None:
        return "faiss is not installed: pip install faiss-cpu"
    import faiss

    if name == "Panorama" and not hasattr(faiss, "IndexFlatL2Panorama"):
        return f"faiss {faiss.__version__} has no IndexFlatL2Panorama"
    return None
