"""The old distance functions: arguments and results that several of them share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._core.arguments import check_integer, shown
from mabm._core.arrays import IntArray, check_features, to_tensor
from mabm._core.device_memory import check_fits
from mabm._core.extension import backends
from mabm._core.modalities import INFRARED, VISIBLE
from mabm.distance.jaccard import encode_samples, jaccard_distance
from mabm.distance.presets import MAX_K, PRESETS, Preset
from mabm.distance.ranking import Ranking, rank_neighbors
from mabm.distance.rows import Encoding, NeighborSets

Distances: TypeAlias = NDArray[np.float32] | NDArray[np.float16]

# Numbers held at once when rows are compared in blocks.
_ELEMENTS_AT_ONCE = 2**22


def read_features(value: object, name: str) -> Tensor:
    """Returns float32 features, moved to the CPU if their device has no ops."""
    tensor = to_tensor(value, name)
    return check_features(tensor if tensor.device.type in backends() else tensor.cpu(), name)


def check_search_option(value: object) -> int:
    """Returns an integer in [0, 5], which selected the faiss index in the old code."""
    return check_integer("search_option", value, at_least=0, at_most=5)


def modality_of_names(name: str, files: Sequence[Any], count: int) -> IntArray:
    """Returns the (N,) modality of file names that contain ``rgb_modify`` (0) or ``ir_modify`` (1).

    Args:
        name: Name of the argument in messages.
        files: File names, or tuples that start with one.
        count: Required number of files.

    Raises:
        TypeError: ``files`` is not a sequence of file names or of tuples.
        ValueError: The number of files differs, or a name contains neither word.
    """
    if not isinstance(files, Sequence | np.ndarray) or getattr(files, "shape", None) == ():
        raise TypeError(
            f"{name} must be a sequence of file names, got {type(files).__name__}: {shown(files)}"
        )
    if len(files) != count:
        raise ValueError(
            f"{name} must contain {count} entries, one per row of target_features, got {len(files)}"
        )
    modality = np.empty(count, dtype=np.int64)
    for row, entry in enumerate(files):
        try:
            file = os.fspath(entry if isinstance(entry, str | os.PathLike) else entry[0])
        except (TypeError, LookupError):
            raise TypeError(
                f"{name} must contain file names, or tuples starting with one, got {shown(entry)} "
                f"in row {row}"
            ) from None
        if "ir_modify" in file:
            modality[row] = INFRARED
        elif "rgb_modify" in file:
            modality[row] = VISIBLE
        else:
            raise ValueError(
                f"{name} must name files with 'rgb_modify' or 'ir_modify' in their paths, got "
                f"{file!r} in row {row}"
            )
    return modality


def check_lengths(k1: object, k2: object, longest: int = MAX_K) -> tuple[int, int]:
    """Returns k1, in [1, ``longest``], and k2 reduced to k1, since a list has only k1 rows.

    Raises:
        TypeError: ``k1`` or ``k2`` is not an integer.
        ValueError: ``k1`` or ``k2`` is below 1, or ``k1`` is above ``longest``.
    """
    length = check_integer("k1", k1, at_least=1, at_most=longest)
    return length, min(check_integer("k2", k2, at_least=1), length)


def dense_distance(
    features: Tensor,
    modality: IntArray | None,
    *,
    k1: object,
    k2: object,
    preset: str | Preset,
    use_float16: object = False,
) -> Distances:
    """Computes :func:`mabm.modality_jaccard` as an (N, N) NumPy array.

    Args:
        features: (N, D) float32 from :func:`read_features`.
        modality: (N,) integers, or ``None`` for presets without modality.
        k1: Length of the neighbor lists, including the sample itself.
        k2: Rows to average for query expansion; values above ``k1`` mean ``k1``.
        preset: A preset or its name.
        use_float16: Whether to round the result to float16.

    Raises:
        MemoryError: The (N, N) result does not fit in memory.
    """
    length, rows = check_lengths(k1, k2)
    count = len(features)
    check_fits(
        (2 if use_float16 else 4) * count * count,
        f"the dense ({count}, {count}) distance",
        "use mabm.jaccard_graph, which needs memory linear in N",
        features.device,
    )
    encoding = encode_samples(features, modality, k1=length, k2=rows, preset=preset)
    return dense_of_encoding(encoding, use_float16=use_float16)


def dense_of_encoding(
    encoding: Encoding[Tensor],
    rows: slice | None = None,
    columns: slice | None = None,
    *,
    use_float16: object = False,
) -> Distances:
    """Computes :func:`mabm.jaccard_distance` as a NumPy array.

    With ``use_float16`` it is rounded to float16 block by block, in 2 bytes per pair.

    Raises:
        MemoryError: The result does not fit in memory.
    """
    samples = range(len(encoding))
    chosen = [samples[part or slice(None)] for part in (rows, columns)]
    shape = tuple(len(part) for part in chosen)
    check_fits(
        (2 if use_float16 else 4) * shape[0] * shape[1],
        f"the dense {shape} distance",
        "use mabm.prune_distances instead",
        encoding.indices.device,
    )
    if not use_float16:
        found: NDArray[np.float32] = jaccard_distance(encoding, rows, columns).cpu().numpy()
        return found
    rounded = np.empty(shape, dtype=np.float16)
    step = max(_ELEMENTS_AT_ONCE // max(shape[1], 1), 1)
    for start in range(0, shape[0], step):
        part = chosen[0][start : start + step]
        block = jaccard_distance(encoding, slice(part.start, part.stop), columns)
        rounded[start : start + step] = block.to(torch.float16).cpu().numpy()
    return rounded


def nearest_columns(distance: Tensor, width: int) -> Tensor:
    """Returns the (B, ``width``) columns of each row's least values, ascending; ties by column."""
    width = min(width, distance.shape[1])
    nearest, ranks = distance.topk(width, dim=1, largest=False)
    ranks = ranks.sort(dim=1).values
    order = distance.gather(1, ranks).sort(dim=1, stable=True).indices
    ranks = ranks.gather(1, order)
    tied = (distance <= nearest[:, -1:]).sum(
        dim=1
    ) > width  # ties at the end of the list, which topk breaks arbitrarily
    ranks[tied] = distance[tied].argsort(dim=1, stable=True)[:, :width]
    return ranks


def rank_beside_self(features: Tensor, k1: int) -> Ranking[Tensor]:
    """Ranks by inner product in one list of ``k1 + 1``: the sample and its k1 neighbors."""
    preset = replace(PRESETS["spcl"], metric="inner_product")
    return replace(rank_neighbors(features, k1=k1 + 1, preset=preset), k1=k1)


def encode_by_distance(
    neighbors: NeighborSets[Tensor], distance: Callable[[Tensor, Tensor], Tensor]
) -> Encoding[Tensor]:
    """Encodes each sample by ``softmax(-d)`` over its neighbors, for a given distance d.

    Args:
        neighbors: Neighbor sets of N samples. A sample with an empty set is encoded as itself.
        distance: Maps (entries,) rows and (entries,) columns to the distances of these pairs.
    """
    indptr, indices = neighbors.tensors()
    sizes = indptr.diff()
    alone = torch.nonzero(sizes == 0).flatten()
    rows = torch.cat([torch.repeat_interleave(sizes), alone])
    rows, order = rows.sort(stable=True)
    columns = torch.cat([indices.to(torch.int64), alone])[order]
    sizes = sizes.clamp(min=1)
    values = distance(rows, columns).to(torch.float64)
    nearest = values.new_full((len(neighbors),), torch.inf).scatter_reduce_(0, rows, values, "amin")
    starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    weights = torch.exp(nearest[rows] - values)
    return Encoding.from_values(starts, columns.to(torch.int32), weights)


def squared_euclidean(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns (entries,) float64 squared distances of the given pairs of rows."""
    step = max(_ELEMENTS_AT_ONCE // features.shape[1], 1)
    parts = [
        (features[ends] - features[starts]).square().sum(dim=1, dtype=torch.float64)
        for starts, ends in zip(torch.split(rows, step), torch.split(columns, step), strict=True)
    ]
    return torch.cat(parts) if parts else rows.new_zeros(0, dtype=torch.float64)
