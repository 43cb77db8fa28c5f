"""CA-Jaccard: replaces ``caj.utils.caj_rerank``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array
from mabm._core.columns import check_modality
from mabm.compat._adapters.distances import (
    Distances,
    dense_of_encoding,
    rank_beside_self,
    read_features,
)
from mabm.distance.encoding import encode_neighbors, expand_queries
from mabm.distance.neighbors import k_reciprocal_neighbors
from mabm.distance.presets import MAX_K, PRESETS, Preset
from mabm.distance.ranking import rank_neighbors

__all__ = ["compute_jaccard_distance"]

_OPTIONS = ("k1", "k2", "ckrnns", "k1_intra", "k1_inter", "clqe", "k2_intra", "k2_inter")
_WARM_UP_K2 = 3  # of either list, in epoch 0


def compute_jaccard_distance(
    features: Array | None = None,
    cam_labels: Array | None = None,
    epoch: int | None = None,
    args: Any = None,
) -> Distances:
    """Computes the camera-aware Jaccard distance, or the classic one, depending on the options.

    With ``args.ckrnns``, neighbors are reciprocal within the sample's own camera and within the
    other cameras. Without it they are reciprocal in one list of all samples (k1 + 1 long: the
    sample and its k1 neighbors), expanded by the half lists. With ``args.clqe``, rows are averaged
    over both lists, otherwise over the first ``k2`` of one. Ranks are by inner product. The list of
    the own camera has no other cameras; the released code adds an offset to their distances, so
    that they enter the lists of small cameras.

    Args:
        features: (N, D) float tensor or array; not normalized.
        cam_labels: (N,) integers, the camera of each row.
        epoch: The epoch; in epoch 0 ``k2_intra`` and ``k2_inter`` are 3 instead of the options.
        args: An object with the attributes k1, k2 (1 averages nothing), ckrnns, k1_intra, k1_inter,
            clqe, k2_intra and k2_inter, for instance parsed arguments. A k2 may exceed its k1: the
            nearest k2 rows are averaged, whereas the released code sorts only k1 + 2. With fewer
            samples a list contains all of them.

    Returns:
        (N, N) float32 NumPy array of values in [0, 1].

    Raises:
        TypeError: An argument has the wrong type, or an option is missing.
        ValueError: An argument is out of range.
        MemoryError: The (N, N) result does not fit in memory.

    Source:
        Chen et al., "CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification",
        CVPR 2024.

    Example:
        >>> import argparse, torch
        >>> from mabm.compat.ca_jaccard import compute_jaccard_distance
        >>> args = argparse.Namespace(k1=30, k2=6, ckrnns=True, k1_intra=5, k1_inter=20,
        ...                           clqe=True, k2_intra=2, k2_inter=4)
        >>> features = torch.nn.functional.normalize(torch.randn(90, 16), dim=1)
        >>> compute_jaccard_distance(features, torch.arange(90) % 3, epoch=1, args=args).shape
        (90, 90)
    """
    x = read_features(features, "features")
    for name in _OPTIONS:
        if not hasattr(args, name):
            raise TypeError(f"args must have the attribute {name!r}, got {args!r}")
    ckrnns, clqe = bool(args.ckrnns), bool(args.clqe)
    k1 = check_integer("args.k1", args.k1, at_least=1, at_most=MAX_K - 1)
    k2 = check_integer("args.k2", args.k2, at_least=1, at_most=MAX_K - 1)
    cameras = check_modality(cam_labels, len(x), x.device, "cam_labels")
    by_camera = replace(
        PRESETS["ca_jaccard"],
        k1_intra=args.k1_intra,
        k1_inter=args.k1_inter,
        k2_intra=_WARM_UP_K2 if epoch == 0 else args.k2_intra,
        k2_inter=_WARM_UP_K2 if epoch == 0 else args.k2_inter,
    )
    long_enough = replace(  # for the averages
        by_camera,
        k1_intra=max(by_camera.k1_intra, by_camera.k2_intra - 1),
        k1_inter=max(by_camera.k1_inter, by_camera.k2_inter - 1),
    )
    first: Preset | int = by_camera if ckrnns else k1
    second: Preset | int = long_enough if clqe else max(k1, k2)
    rankings = {
        lists: rank_neighbors(x, cameras, preset=lists)
        if isinstance(lists, Preset)
        else rank_beside_self(x, lists)
        for lists in {first, second}
    }
    encoding = encode_neighbors(x, k_reciprocal_neighbors(rankings[first]))
    if k2 > 1:
        encoding = expand_queries(encoding, rankings[second], **({} if clqe else {"k2": k2}))
    return dense_of_encoding(encoding)
