"""How the distance of a clustering is spread over pairs of samples."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from mabm._core.arrays import IntArray, to_tensor
from mabm.distance.jaccard import encode_samples, jaccard_distance
from mabm.distance.rows import Encoding
from mabm.report.figures import draw_distance_spread
from mabm.report.plots import PairHistogram, pair_histogram
from mabm.report.sheets import evenly_spaced
from mabm.report.snapshots import ClusteringSnapshot

MAX_SAMPLES: Final = 2000
"""Samples whose pairs are counted, by default: 2 million pairs show a distribution as all would."""


def show_spreads(
    snapshot: ClusteringSnapshot,
    modality: IntArray,
    identity: IntArray | None,
    max_samples: int = MAX_SAMPLES,
) -> dict[str, Any]:
    """Draws how the distance is spread over pairs within and across modalities.

    Args:
        snapshot: The clustering, N samples.
        modality: (N,).
        identity: (N,), negative where unknown; ``None`` where none is known. Where it is given,
            only samples of known identity are counted.
        max_samples: Samples whose pairs are counted; of more, evenly spaced ones.

    Returns:
        ``spreads``: SVG figures, none where there are no pairs. ``sampled``: which pairs were
        counted, in words.
    """
    candidates = np.arange(len(modality))
    if identity is not None:
        candidates = np.flatnonzero(identity >= 0)
    rows = candidates[evenly_spaced(len(candidates), max_samples)]
    spreads = []
    if len(rows) > 1:
        histogram = _spread_distances(snapshot, rows, modality, identity)
        spreads = [
            draw_distance_spread(histogram, across)
            for across in (False, True)
            if histogram.counts[int(across)].any()
        ]
    return {
        "spreads": spreads,
        "sampled": _describe_sample(len(rows), len(candidates), len(modality)),
    }


def _describe_sample(count: int, num_candidates: int, total: int) -> str:
    pairs = f"{count * (count - 1) // 2:,} pairs"
    known = "" if num_candidates == total else " whose identity is known"
    if count == num_candidates:
        return f"All {pairs} of the {count:,} images{known}."
    return (
        f"Sampled: the {pairs} of {count:,} images, evenly spaced among {num_candidates:,}{known}. "
        f"Distances are those of the clustering of all {total:,}."
    )


def _spread_distances(
    snapshot: ClusteringSnapshot, rows: IntArray, modality: IntArray, identity: IntArray | None
) -> PairHistogram:
    """Histogram of the distances between some rows; all samples are encoded, as in clustering."""
    encoding = encode_samples(
        to_tensor(snapshot.features, "features"),
        torch.from_numpy(modality) if snapshot.groups is None else snapshot.groups,
        k1=snapshot.k1,
        k2=snapshot.k2,
        preset=snapshot.preset,
    )
    part = slice(0, len(rows))
    distance = jaccard_distance(_rows_first(encoding, rows), part, part).cpu().numpy()
    people = None if identity is None else identity[rows]
    return pair_histogram(distance, people, modality[rows], eps=snapshot.eps)


def _rows_first(encoding: Encoding[torch.Tensor], rows: IntArray) -> Encoding[torch.Tensor]:
    """The encoding with some rows moved to its front; their contents stay as they are."""
    indptr, indices, weights = encoding.tensors()
    others = np.setdiff1d(np.arange(len(encoding)), rows)
    order = torch.from_numpy(np.concatenate([rows, others])).to(indptr.device)
    sizes = indptr.diff()[order]
    ends = torch.cat([indptr.new_zeros(1), sizes.cumsum(0)])
    entries = torch.repeat_interleave(indptr[order] - ends[:-1], sizes)
    entries += torch.arange(len(entries), device=entries.device)
    return Encoding(ends, indices[entries], weights[entries])
