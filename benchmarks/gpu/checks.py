"""Checks before anything is timed: against the CPU, a second run and other implementations."""

from __future__ import annotations

import logging
from typing import Any

import torch
from sklearn.cluster import DBSCAN
from stages import Prepared
from torch import Tensor

import mabm
from mabm.distance.products import HalfProduct
from mabm.distance.rounding import MATRIX_UNIT_ROUNDOFF, growth

# The most samples that the CPU clusters too (seconds on many cores).
REFERENCE_LIMIT = 34_167
# The most samples for which scikit-learn clusters the graph.
SKLEARN_LIMIT = 100_000
_SAMPLED_ROWS = 64
_COLUMNS_AT_ONCE = 16_384
# Float64 sums of unit vectors in another order differ by far less, neighbors by far more.
_SCORE_TOLERANCE = 1e-12
_DISTANCE_TOLERANCE = 1e-6


def sampled_rows(features: Tensor) -> Tensor:
    """Indices of some rows, spread evenly."""
    count = min(_SAMPLED_ROWS, len(features))
    return torch.linspace(0, len(features) - 1, count, device=features.device).to(torch.int64)


def exact_scores(features: Tensor, rows: Tensor) -> Tensor:
    """(R, N) float64 inner products of a few rows with all."""
    few = features[rows].to(torch.float64)
    blocks = features.split(_COLUMNS_AT_ONCE)
    return torch.cat([few @ block.to(torch.float64).T for block in blocks], dim=1)


def check_ranks(
    features: Tensor, modality: Tensor, ranking: mabm.Ranking[Tensor]
) -> dict[str, bool]:
    """Compares some rows of a ranking with float64 products and PyTorch's top-k."""
    rows = sampled_rows(features)
    scores = exact_scores(features, rows)
    ranks, found = ranking.ranks[rows], ranking.scores[rows]
    best = []
    for group, width in enumerate(ranking.widths):
        outside = modality != group
        best.append(scores.masked_fill(outside, -torch.inf).topk(width, dim=1).values)
    distinct = ranks.sort(dim=1).values.diff(dim=1)
    return {
        "ranks: scores are those of float64 products": _close(scores.gather(1, ranks), found),
        "ranks: no nearer sample in float64": _close(torch.cat(best, dim=1), found),
        "ranks: no sample twice": bool((distinct > 0).all()),
    }


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return bool(((ours - theirs).abs() <= _SCORE_TOLERANCE).all())


def check_product(given: Prepared) -> tuple[dict[str, bool], dict[str, Any]]:
    """Compares the error of the float16 product of some rows with its bound, in float64.

    The bound covers the whole error, including the rounding of the operands. The loss by the
    additions alone is reported too, because the bound assumes how much matrix units lose.
    """
    features, rows = given.features, sampled_rows(given.features)
    product = HalfProduct(features)
    wide_mean, unit = product.mean.to(torch.float64), product.unit
    lengths = [
        torch.linalg.vector_norm(block.to(torch.float64) - wide_mean, dim=1)
        for block in features.split(_COLUMNS_AT_ONCE)
    ]
    bounds = product.error_bounds(torch.cat(lengths))[rows]
    operand = product.operand(slice(None))[: len(features)]
    chosen, few = operand[rows], features[rows].to(torch.float64) - wide_mean
    chosen_length = torch.linalg.vector_norm(chosen.to(torch.float64), dim=1)
    terms = growth(features.shape[1] + 8, MATRIX_UNIT_ROUNDOFF)
    of_bound = of_additions = 0.0
    for first in range(0, len(features), _COLUMNS_AT_ONCE):
        others = operand[first : first + _COLUMNS_AT_ONCE]
        found = torch.empty(len(chosen), len(others), device=features.device)
        product.multiply(chosen, others, found)
        wide = others.to(torch.float64)
        centered = features[first : first + _COLUMNS_AT_ONCE].to(torch.float64) - wide_mean
        off = (found / unit - few @ centered.T).abs().amax(dim=1)
        of_bound = max(of_bound, float((off / bounds).nan_to_num().max()))
        added = (found.to(torch.float64) - chosen.to(torch.float64) @ wide.T).abs()
        most = terms * chosen_length[:, None] * torch.linalg.vector_norm(wide, dim=1)
        of_additions = max(of_additions, float((added / most).nan_to_num().max()))
    facts = {"product_error_of_bound": of_bound, "additions_error_of_bound": of_additions}
    return {
        "product: its error is within the bound": of_bound <= 1,
        "product: its additions lose what was assumed": of_additions <= 1,
    }, facts


def check_again(given: Prepared) -> dict[str, bool]:
    """Compares a run of the whole pipeline with its stages run one by one: the same bits."""
    graph = mabm.jaccard_graph(given.features, given.modality)
    labels = mabm.pseudo_labels(given.features, given.modality).labels
    return {
        "again: the same graph": _same_graph(graph, given.graph),
        "again: the same labels": torch.equal(labels, given.labels),
    }


def _same_graph(ours: mabm.NeighborGraph[Tensor], theirs: mabm.NeighborGraph[Tensor]) -> bool:
    pairs = zip(ours.tensors(), theirs.tensors(), strict=True)
    return all(torch.equal(one.cpu(), other.cpu()) for one, other in pairs)


def check_dbscan(given: Prepared) -> dict[str, bool]:
    """Compares the labels with scikit-learn's on the same graph."""
    dbscan = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=-1)
    expected = dbscan.fit_predict(given.graph.to_scipy())
    same = torch.equal(given.labels.cpu(), torch.from_numpy(expected).to(torch.int64))
    return {"labels: scikit-learn's DBSCAN on the graph": same}


def check_cpu(given: Prepared) -> tuple[dict[str, bool], dict[str, Any]]:
    """Compares ranks, distances and labels with the CPU's, and measures their difference."""
    ours = Prepared.of(given.features.cpu(), given.modality.cpu())
    labels = given.labels.cpu()
    verdicts = {
        "CPU: the same ranks": torch.equal(ours.ranking.ranks, given.ranking.ranks.cpu()),
        "CPU: the same labels": torch.equal(ours.labels, labels),
    }
    facts: dict[str, Any] = {
        "labels_unlike_cpu": int((ours.labels != labels).sum()),
        "graph_bits_of_cpu": _same_graph(ours.graph, given.graph),
    }
    on_device, on_cpu = given.graph.tensors(), ours.graph.tensors()
    if torch.equal(on_device[0].cpu(), on_cpu[0]) and torch.equal(on_device[1].cpu(), on_cpu[1]):
        apart = (on_device[2].cpu() - on_cpu[2]).abs()
        facts["distance_unlike_cpu"] = float(apart.max()) if len(apart) else 0.0
        near = facts["distance_unlike_cpu"] <= _DISTANCE_TOLERANCE
        verdicts["CPU: distances within 1e-6"] = near
    else:
        verdicts["CPU: the same pairs in the graph"] = False
    return verdicts, facts


def describe(given: Prepared) -> dict[str, Any]:
    """Facts on the results: sizes, clusters, and what the fast ranking changes."""
    count = len(given.features)
    fast = mabm.rank_neighbors(given.features, given.modality, precision="fast")
    labels = mabm.pseudo_labels(given.features, given.modality, precision="fast").labels
    return {
        "pairs_per_row": len(given.graph.indices) / count,
        "entries_per_row": len(given.expanded.indices) / count,
        "clusters": int(given.labels.max()) + 1,
        "noise": int((given.labels < 0).sum()),
        "fast_ranks_unlike_exact": int((fast.ranks != given.ranking.ranks).any(dim=1).sum()),
        "fast_labels_unlike_exact": int((labels != given.labels).sum()),
    }


class UnprovenRows(logging.Handler):
    """A log handler that counts the rows that a ranking had to rank by exact scores."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.rows = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Adds the number of rows in a message of the ranking."""
        if "exact scores only" in str(record.msg) and isinstance(record.args, tuple):
            self.rows += int(str(record.args[0]))

    def __enter__(self) -> UnprovenRows:
        """Attaches the handler to the log of the ranking."""
        self._logger = logging.getLogger("mabm.distance.ranking")
        self._level, self._propagate = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Detaches it and restores the log."""
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
        self._logger.propagate = self._propagate
