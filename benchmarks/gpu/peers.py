"""Other implementations of the same work: plain products with top-k, and dense distances."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from checks import exact_scores, sampled_rows
from measure import OPERAND_TYPES, multiply, rows_of_tile
from sklearn.cluster import DBSCAN
from stages import Prepared
from torch import Tensor

import mabm

NEIGHBORS = 30
# Dense (N, N) matrices by the dozen, and N^3 work.
DENSE_PEER_LIMIT = 5_000
# CuPy's argpartition sorts whole rows.
_CUPY_LIMIT = 34_167
_DENSE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Peer:
    """Another implementation of a part of the work, and how its results compare with ours.

    Attributes:
        name: Its name in reports.
        run: The call.
        agrees: The fraction of its result that equals ours, in [0, 1].
        least: The least fraction at which it is timed.
        limit: The most samples that it is run with.
        cubic: Whether its work grows with the cube of the number of samples.
    """

    name: str
    run: Callable[[Prepared], object]
    agrees: Callable[[Prepared], float]
    least: float
    limit: int = 1 << 31
    cubic: bool = False


def plain_product(features: Tensor, precision: str) -> Tensor:
    """Indices (N, 30) of the greatest inner products, by PyTorch's product and top-k."""
    operand = features.to(OPERAND_TYPES[precision])
    blocks = operand.split(min(rows_of_tile(len(features)), 8192))
    products = (multiply(block, operand.T, precision) for block in blocks)
    return torch.cat([part.topk(NEIGHBORS, dim=1).indices for part in products])


def cupy_product(features: Tensor) -> Tensor:
    """Indices (N, 30) of the greatest inner products by CuPy's argpartition, unordered."""
    import cupy

    matrix = cupy.from_dlpack(features)
    rows = min(rows_of_tile(len(features)), 8192)
    parts = []
    for start in range(0, len(features), rows):
        products = matrix[start : start + rows] @ matrix.T
        order = cupy.argpartition(products, len(matrix) - NEIGHBORS, axis=1)
        parts.append(order[:, -NEIGHBORS:])
    return torch.from_dlpack(cupy.concatenate(parts))


def _share_of_nearest(run: Callable[[Prepared], Tensor]) -> Callable[[Prepared], float]:
    """A function for the fraction of the nearest samples that a peer finds, on some rows."""

    def share(given: Prepared) -> float:
        rows = sampled_rows(given.features)
        nearest = exact_scores(given.features, rows).topk(NEIGHBORS, dim=1).indices
        found = run(given)[rows]
        return float((nearest[:, :, None] == found[:, None, :]).any(dim=2).double().mean())

    return share


def dense_distance(features: Tensor, modality: Tensor, k1: int = 30, k2: int = 6) -> Tensor:
    """The (N, N) distance of the ``bmil`` preset in dense matrices of PyTorch.

    Products are float64, so that no two neighbors swap places; distances are float32.
    """
    count = len(features)
    wide = features.to(torch.float64)
    scores = wide @ wide.T
    groups = torch.unique(modality)
    lists = []
    for group in groups:
        in_group = scores.masked_fill(modality != group, -torch.inf)
        lists.append(in_group.topk(min(k1 // len(groups), int((modality == group).sum())), dim=1))
    ranks = torch.cat([part.indices for part in lists], dim=1)
    order = torch.cat([part.values for part in lists], dim=1).sort(dim=1, descending=True).indices
    merged = ranks.gather(1, order)

    def reciprocal(chosen: Tensor) -> Tensor:
        listed = torch.zeros(count, count, dtype=torch.bool, device=features.device)
        listed.scatter_(1, chosen, True)
        return listed & listed.T

    mutual, half = reciprocal(merged), reciprocal(merged[:, : round(k1 / 2) + 1])
    shared = mutual.float() @ half.float().T  # counts, exact in float32
    accepted = mutual & (3 * shared > 2 * half.sum(dim=1))
    members = mutual | (accepted.float() @ half.float() > 0)
    members |= torch.diag(~members.any(dim=1))
    encoding = torch.softmax((2 * scores - 2).masked_fill(~members, -torch.inf), dim=1)
    averaging = torch.zeros_like(encoding)
    for part in lists:
        first = part.indices[:, :k2]
        averaging.scatter_(1, first, 1 / (len(lists) * first.shape[1]))
    expanded = (averaging @ encoding).to(torch.float32)
    # min(a, b) = (a + b - |a - b|) / 2, and rows sum to one.
    overlap = 1 - torch.cdist(expanded, expanded, p=1) / 2
    return (1 - overlap / (2 - overlap)).clamp_(min=0)


def _dense_agrees(given: Prepared) -> float:
    ours = mabm.modality_jaccard(given.features, given.modality)
    theirs = dense_distance(given.features, given.modality)
    return float(((ours - theirs).abs() <= _DENSE_TOLERANCE).double().mean())


def cluster_dense(distance: Tensor) -> np.ndarray:
    """scikit-learn's labels on a dense distance."""
    dbscan = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=-1)
    return dbscan.fit_predict(distance.cpu().numpy())


def _cluster_ours(given: Prepared) -> np.ndarray:
    return cluster_dense(mabm.modality_jaccard(given.features, given.modality))


def _labels_agree(given: Prepared) -> float:
    return float((_cluster_ours(given) == given.labels.cpu().numpy()).mean())


def _plain(precision: str, least: float) -> Peer:
    def run(given: Prepared) -> Tensor:
        return plain_product(given.features, precision)

    name = f"torch product {precision} + topk"
    return Peer(name, run, _share_of_nearest(run), least)


def peers(device: torch.device) -> list[Peer]:
    """The peers that can run on the device with the installed packages."""

    def by_cupy(given: Prepared) -> Tensor:
        return cupy_product(given.features)

    found = [_plain("float16", 0.9), _plain("tf32", 0.9), _plain("float32", 0.999)]
    if device.type == "cuda" and importlib.util.find_spec("cupy") is not None:
        agrees = _share_of_nearest(by_cupy)
        found.append(Peer("CuPy product + argpartition", by_cupy, agrees, 0.9, limit=_CUPY_LIMIT))
    found += [
        Peer(
            "dense torch distance",
            lambda given: dense_distance(given.features, given.modality),
            _dense_agrees,
            1.0,
            limit=DENSE_PEER_LIMIT,
            cubic=True,
        ),
        Peer(
            "dense torch distance + scikit-learn DBSCAN",
            lambda given: cluster_dense(dense_distance(given.features, given.modality)),
            _dense_agrees,
            1.0,
            limit=DENSE_PEER_LIMIT,
            cubic=True,
        ),
        Peer(
            "our dense distance + scikit-learn DBSCAN",
            _cluster_ours,
            _labels_agree,
            1.0,
            limit=DENSE_PEER_LIMIT,
        ),
    ]
    return found
