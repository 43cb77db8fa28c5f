"""The dense route to pseudo-labels: a loop over rows on N x N matrices, and DBSCAN on the last.

Released code of the field takes this route after its ranking: NumPy matrices of all pairs, filled
row by row, and scikit-learn's DBSCAN. It is written here from the definition (``mabm.reference``
has the same steps in float64), for features of length 1 alone.
"""

import numpy as np
import torch
from rankings import Floats, Ints, Lists, merged
from sklearn.cluster import DBSCAN
from torch import Tensor

EPS, MIN_SAMPLES = 0.6, 4


def dense_jaccard(features: Tensor, lists: Lists, k1: int, k2: int) -> Floats:
    """The (N, N) distance of these lists, in three dense matrices, two of them at a time."""
    encoding = _encode(features.numpy(), _expanded_sets(merged(lists), k1))
    if k2 > 1:
        encoding = _average(encoding, [ranks[:, :k2] for ranks, _ in lists])
    return _distances(encoding)


def cluster(distance: Floats) -> Ints:
    """Labels of scikit-learn's DBSCAN on the dense distance."""
    jobs = torch.get_num_threads()
    dbscan = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=jobs)
    labels: Ints = dbscan.fit_predict(distance)
    return labels


def _expanded_sets(ranks: Ints, k1: int) -> list[Ints]:
    """Reciprocal neighbors of each row, with the half lists of those that share most of theirs."""
    half = _reciprocal(ranks[:, : round(k1 / 2) + 1])
    half_sets = [set(row.tolist()) for row in half]
    sets = []
    for own in _reciprocal(ranks):
        members = set(own.tolist())
        joins = [3 * len(half_sets[q] & members) > 2 * len(half_sets[q]) for q in members]
        more = [half[q] for q, join in zip(members, joins, strict=True) if join]
        sets.append(np.unique(np.concatenate([own, *more])))
    return sets


def _reciprocal(ranks: Ints) -> list[Ints]:
    return [row[(ranks[row] == i).any(axis=1)] for i, row in enumerate(ranks)]


def _encode(x: Floats, sets: list[Ints]) -> Floats:
    encoding = np.zeros((len(x), len(x)), np.float32)
    for i, members in enumerate(sets):
        weights = np.exp(2 * (x[members] @ x[i]) - 2)
        encoding[i, members] = weights / weights.sum()
    return encoding


def _average(encoding: Floats, lists: list[Ints]) -> Floats:
    """Each row becomes the mean of its neighbors' rows: of each list, then over the lists."""
    averaged = np.empty_like(encoding)
    for i in range(len(encoding)):
        averaged[i] = sum(encoding[ranks[i]].mean(axis=0) for ranks in lists) / len(lists)
    return averaged


def _distances(encoding: Floats) -> Floats:
    """Jaccard distances: minima are summed over the columns in which a row is not zero."""
    columns = [np.nonzero(encoding[:, j])[0] for j in range(len(encoding))]
    distance = np.empty_like(encoding)
    for i, row in enumerate(encoding):
        overlap = np.zeros_like(row)
        for j in np.nonzero(row)[0]:
            overlap[columns[j]] += np.minimum(row[j], encoding[columns[j], j])
        distance[i] = np.maximum(1 - overlap / (2 - overlap), 0)
    return distance
