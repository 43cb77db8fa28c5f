"""Every stage of the library on one input."""

from typing import Any

import mabm


def results(features: Any, modality: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What every stage puts out, by name."""
    ranked = {name: value for name, value in options.items() if name != "k2"}
    ranking = mabm.rank_neighbors(features, modality, **ranked)
    sets = mabm.k_reciprocal_neighbors(ranking)
    encoding = mabm.encode_neighbors(features, sets)
    expanded = mabm.encode_samples(features, modality, **options)
    graph = mabm.jaccard_graph(features, modality, max_distance=0.8, **options)
    found = mabm.pseudo_labels(features, modality, **options)
    every = modality is None
    centered = mabm.center_modalities(features, [0] * len(features) if every else modality)
    return {
        "centered features": centered,
        "ranks": ranking.ranks,
        "scores": ranking.scores,
        "merged ranks": ranking.merged(),
        "starts of sets": sets.indptr,
        "sets": sets.indices,
        "starts of rows": encoding.indptr,
        "columns": encoding.indices,
        "weights": encoding.weights,
        "starts of expanded rows": expanded.indptr,
        "columns of expanded rows": expanded.indices,
        "weights of expanded rows": expanded.weights,
        "distance": mabm.modality_jaccard(features, modality, **options),
        "part of the distance": mabm.jaccard_distance(expanded, slice(0, 3), slice(1, None)),
        "starts of the graph": graph.indptr,
        "columns of the graph": graph.indices,
        "distances of the graph": graph.distances,
        "labels": found.labels,
        **{f"labels at {eps}": graph.dbscan(eps, 3) for eps in (0.0, 0.3, 0.6, 0.8)},
    }
