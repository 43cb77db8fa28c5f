"""A slow, readable definition of the distance, the clustering and the losses, for tests.

Plain NumPy in float64, one sample at a time, in the order and notation of the paper (Wang et al.,
"Modality-Aware Bias Mitigation and Invariance Learning for Unsupervised Visible-Infrared Person
Re-Identification", AAAI 2026). It shares only the table of presets with the compiled pipeline, and
needs memory of order N * N.

Throughout, ``features`` is (N, D), ``modality`` (N,) is the group of each sample, a ranking is a
list of index arrays per sample (one array per list), and a neighbor set is a Python ``set``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mabm._core.arrays import IntArray
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset, resolve_preset

Floats = NDArray[np.float64]
Lists = list[list[IntArray]]
"""``lists[i][l]``: list ``l`` of sample ``i``, nearest first."""
Sets = list[set[int]]


def similarity(features: ArrayLike, metric: str) -> Floats:
    """The (N, N) scores of a ranking, greatest first: inner product or minus squared distance."""
    x = np.asarray(features, dtype=np.float32).astype(np.float64)
    if metric == "inner_product":
        rows = [(x * row).sum(axis=1) for row in x]
    else:
        rows = [-((x - row) ** 2).sum(axis=1) for row in x]
    return np.stack(rows) if rows else np.zeros((0, 0))


def nearest(scores: Floats, candidates: IntArray, count: int) -> IntArray:
    """The ``count`` candidates with the greatest score, nearest first, ties by lower index."""
    return np.array(sorted(candidates, key=lambda j: (-scores[j], j))[:count], dtype=np.int64)


def rank(features: ArrayLike, modality: IntArray, preset: Preset, k1: int) -> Lists:
    """Step 1, ranking: the neighbor lists of every sample (a sample is its own neighbor)."""
    scores = similarity(features, preset.metric)
    all_samples = np.arange(len(scores))
    lists: Lists = []
    for i in all_samples:
        if preset.lists == "single":
            lists.append([nearest(scores[i], all_samples, k1)])
        elif preset.lists == "per_group":
            groups = np.unique(modality)
            share = k1 // len(groups)
            lists.append([nearest(scores[i], all_samples[modality == g], share) for g in groups])
        else:
            is_same = modality == modality[i]
            lists.append(
                [
                    nearest(scores[i], all_samples[is_same], preset.k1_intra + 1),
                    nearest(scores[i], all_samples[~is_same], preset.k1_inter + 1),
                ]
            )
    return lists


def merge(features: ArrayLike, lists: Lists, metric: str) -> list[IntArray]:
    """Merges the lists of each sample, nearest first: the paper's N(i)."""
    scores = similarity(features, metric)
    merged = [np.concatenate(sample_lists) for sample_lists in lists]
    return [nearest(scores[i], row, len(row)) for i, row in enumerate(merged)]


def reciprocal(lists: list[IntArray]) -> Sets:
    """Step 2, reciprocity: R(i) = {j in N(i) : i in N(j)}."""
    members = [set(row.tolist()) for row in lists]
    return [{j for j in members[i] if i in members[j]} for i in range(len(lists))]


def expand(neighbors: Sets, half: Sets) -> Sets:
    """Step 3, expansion: E(i) adds R_half(q) if more than 2/3 of it is already in R(i)."""
    expanded = []
    for members in neighbors:
        grown = set(members)
        for q in members:
            if 3 * len(half[q] & members) > 2 * len(half[q]):
                grown |= half[q]
        expanded.append(grown)
    return expanded


def k_reciprocal_sets(features: ArrayLike, lists: Lists, preset: Preset, k1: int) -> Sets:
    """Steps 2 and 3 together: E(i), from the lists of step 1."""
    merged = merge(features, lists, preset.metric)
    neighbors = reciprocal(merged)
    if preset.half_list is None:
        return neighbors
    length = round(k1 / 2) + 1  # Python rounds half to even, as the definition does
    if preset.half_list == "merged":
        half = [row[:length] for row in merged]
    else:
        half = [
            np.concatenate([row[: max(length // len(sample_lists), 1)] for row in sample_lists])
            for sample_lists in lists
        ]
    return expand(neighbors, reciprocal(half))


def encode(features: ArrayLike, neighbors: Sets) -> Floats:
    """Step 4, encoding: V_ij = softmax over j in E(i) of -(2 - 2 x_i . x_j); one-hot if empty."""
    products = similarity(features, "inner_product")
    encoding = np.zeros_like(products)
    for i, members in enumerate(neighbors):
        columns = sorted(members) or [i]
        exponents = -(2 - 2 * products[i, columns])
        weights = np.exp(exponents - exponents.max())
        encoding[i, columns] = weights / weights.sum()
    return encoding


def expand_queries(
    features: ArrayLike,
    encoding: Floats,
    lists: Lists,
    modality: IntArray,
    preset: Preset,
    k2: int,
) -> Floats:
    """Step 5, local query expansion: each row becomes a mean of its neighbors' rows."""
    if k2 == 1 and preset.query_expansion != "pooled":
        return encoding
    merged = merge(features, lists, preset.metric)
    averaged = np.zeros_like(encoding)
    for i, sample_lists in enumerate(lists):
        first = merged[i][:k2]
        if preset.query_expansion == "list_means":
            parts = [row[:k2] for row in sample_lists]
        elif preset.query_expansion == "merged":
            parts = [first]
        elif preset.query_expansion == "merged_group_means":
            parts = [first[modality[first] == g] for g in np.unique(modality[first])]
        else:
            same, other = sample_lists
            parts = [np.concatenate([same[: preset.k2_intra], other[: preset.k2_inter]])]
        averaged[i] = np.mean([encoding[rows].mean(axis=0) for rows in parts if len(rows)], axis=0)
    return averaged


def jaccard(encoding: Floats) -> NDArray[np.float32]:
    """Step 6, distance: s_ij = sum_l min(V_il, V_jl), J_ij = max(0, 1 - s_ij / (2 - s_ij))."""
    overlap = np.stack([np.minimum(encoding, row).sum(axis=1) for row in encoding])
    distance: Floats = np.maximum(0, 1 - overlap / (2 - overlap))
    return distance.astype(np.float32)


def modality_jaccard(
    features: ArrayLike,
    modality: ArrayLike | None = None,
    *,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
) -> NDArray[np.float32]:
    """All six steps: the (N, N) distance of :func:`mabm.modality_jaccard`."""
    chosen = resolve_preset(preset, has_modality=modality is not None)
    count = len(np.asarray(features))
    if count == 0:
        return np.zeros((0, 0), dtype=np.float32)
    groups = np.zeros(count, np.int64) if modality is None else np.asarray(modality, np.int64)
    lists = rank(features, groups, chosen, k1)
    encoding = encode(features, k_reciprocal_sets(features, lists, chosen, k1))
    return jaccard(expand_queries(features, encoding, lists, groups, chosen, k2))


def rerank(
    query: ArrayLike,
    gallery: ArrayLike,
    query_modality: ArrayLike | None = None,
    gallery_modality: ArrayLike | None = None,
    *,
    k1: int = 20,
    k2: int = DEFAULT_K2,
    lambda_value: float = 0.3,
    preset: str | Preset | None = None,
) -> NDArray[np.float32]:
    """The (Q, G) distance of :func:`mabm.rerank`: (1 - lambda) * J + lambda * d."""
    features = np.concatenate([np.asarray(query), np.asarray(gallery)])
    modality = None
    if query_modality is not None and gallery_modality is not None:
        modality = np.concatenate([np.asarray(query_modality), np.asarray(gallery_modality)])
    split = len(np.asarray(query))
    distance = modality_jaccard(features, modality, k1=k1, k2=k2, preset=preset)
    squared = -similarity(features, "euclidean")[:split]
    furthest = squared.max(axis=1, keepdims=True, initial=0.0)
    original = np.divide(squared, furthest, out=np.zeros_like(squared), where=furthest > 0)
    mixed = (1 - lambda_value) * distance[:split] + lambda_value * original
    part: Floats = mixed[:, split:]
    return part.astype(np.float32)


def dbscan(distance: ArrayLike, *, eps: float, min_samples: int) -> IntArray:
    """DBSCAN on a dense distance, noise -1 (Ester et al., KDD 1996).

    A sample is core if at least ``min_samples`` samples, including itself, are within ``eps``.
    Clusters are numbered by their first core sample; a border sample gets the smallest cluster
    among its core neighbors.
    """
    near = np.asarray(distance, dtype=np.float32) <= np.float32(eps)
    core = near.sum(axis=1) >= min_samples
    labels = np.full(len(near), -1, dtype=np.int64)
    clusters = 0
    for first in np.flatnonzero(core):
        if labels[first] >= 0:
            continue
        frontier = [int(first)]
        labels[first] = clusters
        while frontier:
            for j in np.flatnonzero(near[frontier.pop()] & core & (labels < 0)):
                labels[j] = clusters
                frontier.append(int(j))
        clusters += 1
    for i in np.flatnonzero(~core):
        reachable = labels[near[i] & core]
        labels[i] = reachable.min(initial=clusters)
    labels[labels == clusters] = -1
    return labels


def normalize(rows: ArrayLike) -> Floats:
    """Normalizes rows, or one row, to unit length."""
    x = np.asarray(rows, dtype=np.float64)
    scaled: Floats = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return scaled


def split_prototypes(
    features: ArrayLike, labels: ArrayLike, modality: ArrayLike
) -> tuple[Floats, IntArray, IntArray, IntArray]:
    """Returns prototypes, their clusters and modalities, and the prototype of each sample."""
    x, clusters, groups = np.asarray(features), np.asarray(labels), np.asarray(modality)
    cells = sorted({(int(c), int(g)) for c, g in zip(clusters, groups, strict=True) if c >= 0})
    members = [(clusters == c) & (groups == g) for c, g in cells]
    prototypes = [normalize(x[rows].mean(axis=0, dtype=np.float64)) for rows in members]
    targets = np.full(len(x), -1, dtype=np.int64)
    for number, rows in enumerate(members):
        targets[rows] = number
    numbers = np.array(cells, dtype=np.int64).reshape(-1, 2)
    stacked = np.array(prototypes).reshape(-1, x.shape[1])
    return stacked, numbers[:, 0], numbers[:, 1], targets


def cluster_contrast_loss(
    features: ArrayLike, prototypes: ArrayLike, targets: ArrayLike, temperature: float = 0.05
) -> float:
    """Mean, over samples that are not noise, of -log softmax of the similarity to the prototype."""
    losses = []
    for x, target in zip(normalize(features), np.asarray(targets), strict=True):
        if target >= 0:
            logits = np.asarray(prototypes, dtype=np.float64) @ x / temperature
            losses.append(np.logaddexp.reduce(logits) - logits[target])
    return float(np.mean(losses)) if losses else 0.0


def hybrid_contrast_loss(
    features: ArrayLike,
    mean_bank: ArrayLike,
    hard_bank: ArrayLike,
    targets: ArrayLike,
    temperature: float = 0.05,
    margin: float = 0.2,
) -> float:
    """0.5 * (CE(hard logits) + relu(CE(mean logits) - margin))."""
    mean = cluster_contrast_loss(features, mean_bank, targets, temperature)
    hard = cluster_contrast_loss(features, hard_bank, targets, temperature)
    return 0.5 * (hard + max(mean - margin, 0.0))


def multi_positive_loss(
    features: ArrayLike,
    prototypes: ArrayLike,
    targets: ArrayLike,
    clusters: ArrayLike,
    num_selected: int = 50,
    temperature: float = 0.05,
) -> float:
    """Mean over positives of -log softmax over ``num_selected`` positives and hardest others."""
    cluster_ids = np.asarray(clusters)
    losses = []
    for x, target in zip(normalize(features), np.asarray(targets), strict=True):
        if target < 0:
            continue
        logits = np.asarray(prototypes, dtype=np.float64) @ x / temperature
        is_positive = cluster_ids == cluster_ids[target]
        positives, others = logits[is_positive], np.sort(logits[~is_positive])[::-1]
        hardest = others[: max(num_selected - len(positives), 0)]
        total = np.logaddexp.reduce(np.concatenate([positives, hardest]))
        losses.append(np.mean(total - positives))
    return float(np.mean(losses)) if losses else 0.0


def update_mean(
    bank: ArrayLike, features: ArrayLike, targets: ArrayLike, momentum: float = 0.1
) -> Floats:
    """Updates a bank with each sample in turn: row <- normalize(m * row + (1 - m) * sample)."""
    rows = np.asarray(bank).astype(np.float64)
    for x, target in zip(normalize(features), np.asarray(targets), strict=True):
        if target >= 0:
            rows[target] = normalize(momentum * rows[target] + (1 - momentum) * x)
    return rows


def update_hard(
    bank: ArrayLike,
    features: ArrayLike,
    targets: ArrayLike,
    momentum: float = 0.1,
    judge: ArrayLike | None = None,
) -> Floats:
    """Updates each row with the sample that is least similar to its row in the bank ``judge``."""
    before = np.asarray(bank if judge is None else judge)
    x, labels, rows = normalize(features), np.asarray(targets), np.asarray(bank).astype(np.float64)
    for target in set(labels[labels >= 0].tolist()):
        samples = x[labels == target]
        hardest = samples[np.argmin(samples @ before[target])]
        rows[target] = normalize(momentum * rows[target] + (1 - momentum) * hardest)
    return rows


def update_hybrid(
    mean_bank: ArrayLike,
    hard_bank: ArrayLike,
    features: ArrayLike,
    targets: ArrayLike,
    momentum: float = 0.1,
) -> tuple[Floats, Floats]:
    """Updates the mean bank with means, and the hard bank with the hardest for the mean bank."""
    x, labels = normalize(features), np.asarray(targets)
    rows = np.asarray(mean_bank).astype(np.float64)
    for target in set(labels[labels >= 0].tolist()):
        mean = x[labels == target].mean(axis=0)
        rows[target] = normalize(momentum * rows[target] + (1 - momentum) * mean)
    return rows, update_hard(hard_bank, x, labels, momentum, judge=mean_bank)
