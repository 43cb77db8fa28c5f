"""Search within each modality: how well an encoder distinguishes people without a modality gap."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from mabm._core.arrays import Array
from mabm._core.columns import Column
from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.evaluation.samples import SearchSamples
from mabm.evaluation.search import evaluate_search

_PROTOCOL: Final = RetrievalProtocol("within a modality", exclude_same_camera=True)

_MOST_QUERIES: Final = 2500  # keeps the distances of the largest test sets at some 100 MB


def evaluate_within_modalities(
    features: Array, identity: Column, camera: Column, modality: Column
) -> dict[str, dict[str, float]]:
    """Computes scores of searches within each modality. This is not a published protocol.

    Every image that has a match, an image of its identity from another camera of its modality, is a
    query. It is searched among all images of its modality except those of its own identity and
    camera. If there are more than 2,500 queries, 2,500 evenly spaced ones are used.

    Args:
        features: (N, D) floating point, one row per test image, ranked by inner product.
        identity: (N,) integers, or words such as ``"0001"``; images with negative numbers are
            ignored.
        camera: (N,) integers; images with negative numbers, of unknown cameras, are ignored.
        modality: (N,) integers, 0 visible and 1 infrared, or these two words, or bool.

    Returns:
        Scores in [0, 1] (``rank1``, ``rank5``, ..., ``mAP``, ``mINP``) by ``"visible"`` and
        ``"infrared"``. A modality in which no identity was seen by two cameras is omitted.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Shapes do not fit, or values are not finite.

    Example:
        >>> import torch
        >>> from mabm.evaluation import evaluate_within_modalities
        >>> identity, camera = torch.arange(24) // 6, torch.arange(24) % 3
        >>> features = torch.nn.functional.one_hot(identity).float()
        >>> scores = evaluate_within_modalities(features, identity, camera, camera == 2)
        >>> list(scores), scores["visible"]["mAP"]
        (['visible'], 1.0)
    """
    samples = SearchSamples.check(features, identity, camera, modality)
    scores = {}
    for group in MODALITIES:
        is_known = (samples.identity >= 0) & (samples.camera >= 0)
        rows = torch.nonzero((samples.modality == group) & is_known).flatten()
        queries = rows[_seen_elsewhere(samples.identity[rows], samples.camera[rows])]
        if not len(queries):
            continue
        queries = queries[_evenly_spaced(len(queries), _MOST_QUERIES)]
        # A search task is across two modalities: queries pass as modality 0, the gallery as 1.
        both = torch.cat([queries, rows])
        sides = torch.cat([torch.zeros_like(queries), torch.ones_like(rows)])
        name = MODALITY_NAMES[group]
        found = evaluate_search(
            samples.features_at(both),
            samples.identity[both],
            samples.camera[both],
            sides,
            task=SearchTask("test images", f"{name}-to-{name}", 0, 1, _PROTOCOL),
        )
        scores[name] = found.mean
    return scores


def _seen_elsewhere(identity: Tensor, camera: Tensor) -> Tensor:
    """(N,) bool: whether the identity of an image was seen by another camera."""
    _, person = torch.unique(identity, return_inverse=True)
    pairs, place = torch.unique(torch.stack([person, camera]), dim=1, return_inverse=True)
    cameras = torch.bincount(pairs[0])
    return cameras[pairs[0]][place] > 1


def _evenly_spaced(count: int, most: int) -> Tensor:
    """Evenly spaced indices in [0, count), all of them if there are at most ``most``."""
    if count <= most:
        return torch.arange(count, device="cpu")
    return torch.arange(most, device="cpu") * count // most
