"""The sparse route to pseudo-labels: SciPy's sparse matrices, and DBSCAN on the last of them.

What someone would write who knows that nearly all entries of the dense route are zero. Every step
is an operation on sparse matrices, written here from the definition (``mabm.reference`` has the
same steps in float64), for features of length 1 alone.
"""

import numpy as np
import torch
from dense_route import EPS, MIN_SAMPLES
from rankings import Floats, Ints, Lists, merged
from scipy.sparse import csr_array, vstack
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values
from torch import Tensor

# Pairs of entries that share a column, at once: 100 MB or so of them.
_PAIRS_AT_ONCE = 1 << 23
_ENTRIES_AT_ONCE = 1 << 14  # whose inner products are computed at once


def sparse_encoding(features: Tensor, lists: Lists, k1: int, k2: int) -> csr_array:
    """The rows V (N, N) of all samples, averaged over their first neighbors."""
    encoding = _encode(features.numpy(), _expanded_sets(merged(lists), k1))
    if k2 == 1:
        return encoding
    means = None
    for ranks, _ in lists:
        first = ranks[:, :k2]
        part = _matrix(first, 1 / (first.shape[1] * len(lists)))
        means = part if means is None else means + part
    return csr_array(means @ encoding)


def sparse_jaccard(encoding: csr_array, eps: float = EPS) -> csr_array:
    """All Jaccard distances up to ``eps``, explicit zeros included."""
    columns = csr_array(encoding.T)
    ends = np.cumsum(np.diff(columns.indptr)[encoding.indices])
    pairs = np.concatenate([[0], ends])[encoding.indptr]  # before each row
    blocks, start = [], 0
    while start < encoding.shape[0]:
        stop = int(np.searchsorted(pairs, pairs[start] + _PAIRS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), encoding.shape[0])
        blocks.append(_near(encoding[start:stop], columns, eps))
        start = stop
    return csr_array(vstack(blocks, format="csr"))


def cluster(distance: csr_array) -> Ints:
    """Labels of scikit-learn's DBSCAN on the sparse distance."""
    jobs = torch.get_num_threads()
    dbscan = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=jobs)
    graph = sort_graph_by_row_values(distance, warn_when_not_sorted=False)
    labels: Ints = dbscan.fit_predict(graph)
    return labels


def _matrix(ranks: Ints, value: float = 1.0) -> csr_array:
    """(N, N) with a value at the ranks (N, K) of each row."""
    count, width = ranks.shape
    starts = np.arange(0, count * width + 1, width, dtype=np.int32)
    values = np.full(ranks.size, value, np.float32)
    return csr_array((values, ranks.ravel().astype(np.int32), starts), shape=(count, count))


def _expanded_sets(ranks: Ints, k1: int) -> csr_array:
    """Reciprocal neighbors of each row, with the half lists of those that share most of theirs."""
    whole, half = _reciprocal(ranks), _reciprocal(ranks[:, : round(k1 / 2) + 1])
    shared = csr_array((whole @ half.T).multiply(whole))
    lengths = np.diff(half.indptr)
    joins = 3 * shared.data > 2 * lengths[shared.indices]
    shared.data = joins.astype(np.float32)
    shared.eliminate_zeros()
    return csr_array(whole + shared @ half)


def _reciprocal(ranks: Ints) -> csr_array:
    near = _matrix(ranks)
    return csr_array(near.multiply(near.T))


def _encode(x: Floats, sets: csr_array) -> csr_array:
    rows = np.repeat(np.arange(len(x)), np.diff(sets.indptr))
    products = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ENTRIES_AT_ONCE):
        part = slice(start, start + _ENTRIES_AT_ONCE)
        products[part] = np.einsum("ed,ed->e", x[rows[part]], x[sets.indices[part]])
    weights = np.exp(2 * products - 2)
    weights /= np.bincount(rows, weights, len(x)).astype(np.float32)[rows]
    return csr_array((weights, sets.indices, sets.indptr), shape=sets.shape)


def _near(rows: csr_array, columns: csr_array, eps: float) -> csr_array:
    """Distances up to ``eps`` between some rows and all, from the columns that they share."""
    shared = columns[rows.indices]  # a row for each entry: the column that it is in
    shared.data = np.minimum(shared.data, np.repeat(rows.data, np.diff(shared.indptr)))
    entries = np.arange(rows.nnz)
    ones = np.ones(rows.nnz, np.float32)
    of_row = csr_array((ones, entries, rows.indptr), shape=(rows.shape[0], rows.nnz))
    distance = csr_array(of_row @ shared)
    distance.data = np.maximum(1 - distance.data / (2 - distance.data), 0)
    keeps = distance.data <= np.float32(eps)
    kept = np.concatenate([[0], np.cumsum(keeps)])[distance.indptr]
    return csr_array((distance.data[keeps], distance.indices[keeps], kept), shape=distance.shape)
