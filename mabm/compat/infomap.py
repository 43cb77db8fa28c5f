"""Clustering by Infomap: replaces the ``infomap_cluster`` files of many code bases.

Neighbors come from the exact ranking of mabm instead of faiss. The package ``infomap``, an extra
(``pip install "mabm[infomap]"``), does the clustering.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mabm._core.arguments import check_choice, check_integer, check_real
from mabm._core.arrays import Array, IntArray, check_floating, is_integer, to_tensor
from mabm.compat._adapters.distances import read_features
from mabm.distance.presets import MAX_K, PRESETS
from mabm.distance.ranking import rank_neighbors

__all__ = ["cluster_by_infomap", "get_dist_nbr"]

_SEED = 123  # Infomap's own default
_METHODS = ("faiss-cpu", "faiss-gpu")


def get_dist_nbr(
    features: Array, k: int = 80, knn_method: str = "faiss-cpu"
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Finds the ``k`` rows with the greatest inner product for each row.

    Args:
        features: (N, D) float array or tensor; not normalized, callers do that.
        k: Length of the lists, in [1, 1024], including the row itself.
        knn_method: ``"faiss-cpu"`` or ``"faiss-gpu"``, without effect: faiss is not used.

    Returns:
        Distances ``1 - x . y`` (float32 values as float64, ascending) and row indices (int32),
        both (N, min(k, N)); ties by lower row. (If N is less than ``k``, faiss pads with -1.)

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Source:
        Dai et al., ACCV 2022 (Cluster-Contrast).

    Example:
        >>> import numpy as np
        >>> from mabm.compat.infomap import get_dist_nbr
        >>> dists, nbrs = get_dist_nbr(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), k=2)
        >>> nbrs.tolist(), [round(float(distance), 6) for distance in dists[:, 1]]
        ([[0, 1], [1, 0], [2, 1]], [0.2, 0.2, 0.4])
    """
    check_choice("knn_method", knn_method, _METHODS)
    preset = replace(PRESETS["spcl"], metric="inner_product")
    ranking = rank_neighbors(
        read_features(features, "features"),
        k1=check_integer("k", k, at_least=1, at_most=MAX_K),
        preset=preset,
    )
    similarities = ranking.scores.cpu().numpy().astype(np.float32)
    distances = (1 - similarities).astype(np.float64)
    return distances, ranking.ranks.cpu().numpy().astype(np.int32)


def cluster_by_infomap(nbrs: Array, dists: Array, min_sim: float, cluster_num: int = 2) -> IntArray:
    """Clusters the graph of sufficiently similar neighbors by Infomap.

    Each row has links of weight ``1 - dists`` to its neighbors, up to the first that is less
    similar than ``min_sim``. Clusters are modules of Infomap's directed two-level flow, from one
    trial with seed 123. One release of ``infomap`` always gives the same result; other releases may
    give others. Variants of the released file without weights, as in ADCA, are not reproduced.

    Args:
        nbrs: (N, K) integers, neighbors of each row as :func:`get_dist_nbr` returns them.
        dists: (N, K) floating point, one minus their similarities, ascending in each row.
        min_sim: Least similarity of a link, in [0, 1].
        cluster_num: Modules with this many samples or fewer become noise.

    Returns:
        (N,) int64 labels 0..C-1; -1 is noise. (The released code returns the same numbers as
        float64.)

    Raises:
        ImportError: ``infomap`` is missing; the message names the extra.
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range or not finite, or shapes differ.

    Source:
        Rosvall and Bergstrom, PNAS 2008 (Infomap); Dai et al., ACCV 2022 (Cluster-Contrast).

    Example:
        >>> import torch
        >>> from mabm.compat.infomap import cluster_by_infomap, get_dist_nbr
        >>> centers = torch.eye(3).repeat_interleave(10, dim=0)
        >>> features = torch.nn.functional.normalize(centers + 0.1 * torch.rand(30, 3), dim=1)
        >>> dists, nbrs = get_dist_nbr(features, k=15)
        >>> labels = cluster_by_infomap(nbrs, dists, min_sim=0.5, cluster_num=2)
        >>> len(set(labels.tolist())), len(set(labels[:10].tolist()))
        (3, 1)
    """
    rows, distance = _read_lists(nbrs, dists)
    threshold = 1 - check_real("min_sim", min_sim, 0, 1)
    smallest = check_integer("cluster_num", cluster_num, at_least=0)
    is_self = rows == np.arange(len(rows))[:, None]
    linked = np.logical_and.accumulate((distance <= threshold) | is_self, axis=1) & ~is_self
    sources, targets = np.nonzero(linked)[0], rows[linked]
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(rows):
        raise ValueError(
            f"nbrs must be in [0, {len(rows)}) up to min_sim, got {targets.min()} to "
            f"{targets.max()}"
        )
    weights = (1 - distance[linked]).clip(min=0)
    modules = _find_modules(len(rows), np.column_stack([sources, targets, weights]))
    sizes = np.bincount(modules)
    numbers = np.where(sizes > smallest, np.cumsum(sizes > smallest) - 1, -1)
    labels: IntArray = numbers[modules].astype(np.int64)
    return labels


def _read_lists(nbrs: object, dists: object) -> tuple[IntArray, NDArray[np.float64]]:
    rows, distance = to_tensor(nbrs, "nbrs").cpu(), to_tensor(dists, "dists").cpu()
    if not is_integer(rows):
        raise TypeError(f"nbrs must be integers, got dtype {rows.dtype}")
    check_floating(distance, "dists")
    if rows.dim() != 2 or 0 in rows.shape:
        raise ValueError(f"nbrs must be (N, K) with N, K >= 1, got {tuple(rows.shape)}")
    if distance.shape != rows.shape:
        raise ValueError(f"dists must be {tuple(rows.shape)}, got shape {tuple(distance.shape)}")
    if bool(distance.isnan().any()):
        raise ValueError("dists must not be NaN, got NaN")
    return rows.to(torch.int64).numpy(), distance.to(torch.float64).numpy()


def _find_modules(count: int, links: NDArray[np.float64]) -> IntArray:
    """(N,) module of each sample, numbered from 0; samples without links follow, each its own."""
    try:
        from infomap import Infomap
    except ImportError as error:
        raise ImportError(
            'clustering by Infomap needs infomap: pip install "mabm[infomap]"'
        ) from error
    found: dict[int, int] = {}
    if len(links):
        network = Infomap(two_level=True, directed=True, silent=True, seed=_SEED, num_trials=1)
        network.add_links(links)
        found = network.run().modules()
    modules = np.full(count, -1, dtype=np.int64)
    modules[list(found)] = np.unique(list(found.values()), return_inverse=True)[1]
    alone = modules < 0
    modules[alone] = modules.max() + 1 + np.arange(alone.sum())
    return modules
