"""Association of clusters across modalities: the baseline that global clustering replaces.

The published alternative to clustering all samples together is to cluster each modality separately
and then match the clusters, by the Hungarian method or by optimal transport. It is included for
comparison: :func:`associate_clusters` returns the same type as :func:`mabm.pseudo_labels`.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mabm._core.arguments import check_choice, check_integer, check_real
from mabm._core.arrays import Array, ArrayT, check_matrix, check_numbers, like, to_tensor
from mabm._core.batch_checks import check_lengths
from mabm._core.columns import Column, Labels, check_clusters, check_modality, modality_of
from mabm._core.partition import split_by_group, unit_means
from mabm._core.precision import full_precision
from mabm.cluster.pseudo_labels import PseudoLabels

logger = logging.getLogger(__name__)

Method = Literal["hungarian", "sinkhorn"]

_REGULARIZATION = 0.05
_TOLERANCE = 1e-4
_MAX_ITERATIONS = 10_000

# Sums of a few logarithms up to this size do not overflow float64.
_GREATEST_EXPONENT = 1e300


def associate_clusters(
    features: ArrayT,
    labels: Labels,
    modality: Column | None = None,
    *,
    method: Method = "hungarian",
    one_to_one: bool = False,
    regularization: float = _REGULARIZATION,
) -> PseudoLabels[ArrayT]:
    """Matches the clusters of two modalities by the cosine similarity of their means.

    If one modality has more clusters than the other, each of its clusters still gets a partner, so
    several may share one (see :func:`match_clusters`); clusters that share a partner become one
    cluster. With ``"sinkhorn"``, each cluster of the modality with more clusters goes to the
    partner that receives most of its mass in the transport plan, ties to the lower number.

    Args:
        features: (N, D) floating point; the cost of a pair is one minus the cosine similarity of
            their prototypes, the normalized means of :func:`mabm.split_prototypes`.
        labels: (N,) integers: clusters found within each modality, noise -1. The same number in
            two modalities means two clusters. Or :class:`mabm.PseudoLabels`, whose modality is the
            default of ``modality``.
        modality: (N,) integers >= 0, bool or words, with at most two values.
        method: ``"hungarian"``, an exact matching of minimal total cost, or ``"sinkhorn"``,
            entropic optimal transport with equal masses.
        one_to_one: Whether to match one to one and leave the remaining clusters unmatched. The plan
            of ``"sinkhorn"`` is then rounded to the matching that keeps most of its mass.
        regularization: Weight of the entropy in the plan of ``"sinkhorn"``, above 0, in units of
            the cost; ``"hungarian"`` ignores it.

    Returns:
        Labels of the same kind as ``features``, with their statistics: clusters are numbered by
        their first sample, noise is -1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or there is no modality or more than two.

    Source:
        Hungarian and progressive: Wu and Ye, "Unsupervised Visible-Infrared Person
        Re-Identification via Progressive Graph Matching and Alternate Learning", CVPR 2023.
        Transport: Wang et al., "Optimal Transport for Label-Efficient Visible-Infrared Person
        Re-Identification", ECCV 2022.

    Example:
        >>> import torch, mabm
        >>> person = torch.arange(6).repeat_interleave(10)
        >>> modality = torch.arange(60) % 2
        >>> features = torch.eye(8)[person] + 0.3 * torch.eye(8)[6 + modality]
        >>> labels = torch.where(modality == 0, person, 5 - person)  # unrelated numbers
        >>> mabm.associate_clusters(features, labels, modality)
        PseudoLabels(60 samples: 6 clusters, 6 spanning, 0 noise)
    """
    check_choice("method", method, get_args(Method))
    x: Any = to_tensor(features, "features")
    groups, modality_names = modality_of(labels, modality)
    if groups is None:
        raise ValueError("modality must be given unless labels are PseudoLabels with one, got None")
    check_matrix(x, "features")
    x = full_precision(x)
    check_lengths(x, "features")
    found = check_clusters(labels, len(x), x.device)
    groups = check_modality(groups, len(x), x.device, "modality")
    names = torch.unique(groups)
    if len(names) > 2:
        raise ValueError(f"modality must contain at most two groups, got {len(names)}")
    parts = split_by_group(found, groups)
    means = unit_means(x, parts).double()
    sides = [torch.nonzero(parts.groups == name).flatten() for name in names]
    cluster_of = torch.arange(len(means), device=x.device)
    if len(sides) == 2 and all(len(side) for side in sides):
        one, other = sides
        cost = 1 - means[one] @ means[other].T
        if method == "sinkhorn":
            plan = _transport(cost, regularization=regularization)
            pairs = _match(-plan, one_to_one=True) if one_to_one else _heaviest(plan)
        else:
            pairs = _match(cost, one_to_one=one_to_one)
        joined = [one[pairs[:, 0]], other[pairs[:, 1]]]
        few, many = joined if len(one) <= len(other) else joined[::-1]
        cluster_of[many] = few
    found = parts.targets
    clustered = found >= 0
    found[clustered] = _number_by_first(cluster_of[found[clustered]])
    return PseudoLabels(like(found, features), like(groups, features), modality_names)


def match_clusters(cost: ArrayT, *, one_to_one: bool = False) -> ArrayT:
    """Matches rows with columns at minimal total cost, exactly.

    With unequal counts, each round matches all of the smaller side with part of the larger side.
    The rest of the larger side is matched with the smaller side again, until all have a partner
    (progressive matching): of A rows and B >= A columns, every row gets ``B // A`` columns or one
    more. Each round on its own is exact.

    Args:
        cost: (A, B) finite numbers; A and B may be 0.
        one_to_one: Whether to stop after the first round: ``min(A, B)`` pairs.

    Returns:
        (max(A, B), 2) int64 pairs (row, column) of the same kind as ``cost``, sorted by row and
        then by column. No pairs if A or B is 0.

    Raises:
        TypeError: ``cost`` has the wrong type.
        ValueError: ``cost`` is not (A, B) or not finite.

    Source:
        Kuhn, 1955, by :func:`scipy.optimize.linear_sum_assignment`; rounds: Wu and Ye, CVPR 2023.

    Example:
        >>> import torch, mabm
        >>> cost = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.9]])
        >>> mabm.match_clusters(cost).tolist()
        [[0, 0], [0, 2], [1, 1]]
        >>> mabm.match_clusters(cost, one_to_one=True).tolist()
        [[0, 0], [1, 1]]
    """
    return like(_match(_check_cost(cost), one_to_one=one_to_one), cost)


def _match(values: Tensor, *, one_to_one: bool) -> Tensor:
    """:func:`match_clusters` of a checked float64 cost."""
    from scipy.optimize import linear_sum_assignment  # SciPy loads slowly

    turned = values.shape[0] > values.shape[1]
    short = (values.T if turned else values).cpu().numpy()
    left = np.arange(short.shape[1])
    rounds = [np.empty((2, 0), dtype=np.int64)]
    while len(left) and len(short):
        rows, columns = linear_sum_assignment(short[:, left])
        rounds.append(np.stack([rows, left[columns]]))
        left = left[:0] if one_to_one else np.delete(left, columns)
    pairs = np.concatenate(rounds, axis=1)
    pairs = pairs[::-1] if turned else pairs
    ordered = pairs[:, np.lexsort(pairs[::-1])].T.astype(np.int64)
    return torch.from_numpy(ordered.copy()).to(values.device)


def transport_plan(
    cost: ArrayT,
    row_mass: Array | None = None,
    column_mass: Array | None = None,
    *,
    regularization: float = _REGULARIZATION,
    tolerance: float = _TOLERANCE,
    max_iterations: int = _MAX_ITERATIONS,
) -> ArrayT:
    """Computes the entropic optimal transport plan for a cost, by Sinkhorn iterations.

    The plan T minimizes ``sum T * cost + regularization * sum T * (log T - 1)`` subject to row sums
    ``row_mass`` and column sums ``column_mass``. Iterations run on logarithms in float64, so that a
    small regularization neither overflows nor underflows; it only takes longer. Memory is that of
    several float64 matrices of the size of ``cost``.

    Args:
        cost: (A, B) finite numbers, A and B at least 1.
        row_mass: (A,) numbers >= 0, scaled to sum to one; equal by default.
        column_mass: (B,) numbers >= 0, scaled to sum to one; equal by default.
        regularization: Weight of the entropy, above 0, in units of the cost. As it approaches 0,
            the plan approaches minimal cost; if it is large, the product of the masses.
        tolerance: Iterations stop when the row sums (one in total) differ from their masses by at
            most this much in total.
        max_iterations: Largest number of iterations; a warning is logged if it is reached.

    Returns:
        (A, B) float64 plan of the same kind as ``cost``. Columns sum to their masses up to
        rounding, rows within ``tolerance``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or a mass sums to zero.

    Source:
        Cuturi, "Sinkhorn Distances", NeurIPS 2013; on logarithms: Peyre and Cuturi, "Computational
        Optimal Transport", 2019, section 4.4.

    Example:
        >>> import torch, mabm
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> mabm.transport_plan(cost, regularization=0.05).round(decimals=3).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    plan = _transport(
        _check_cost(cost),
        row_mass,
        column_mass,
        regularization=regularization,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return like(plan, cost)


def _transport(
    values: Tensor,
    row_mass: Array | None = None,
    column_mass: Array | None = None,
    *,
    regularization: float,
    tolerance: float = _TOLERANCE,
    max_iterations: int = _MAX_ITERATIONS,
) -> Tensor:
    """:func:`transport_plan` of a checked float64 cost."""
    if 0 in values.shape:
        raise ValueError(f"cost must not be empty, got shape {tuple(values.shape)}")
    weight = check_real("regularization", regularization, 0.0, math.inf, below=True)
    if weight == 0:
        raise ValueError(f"regularization must be above 0, got {regularization}")
    tolerance = check_real("tolerance", tolerance, 0.0, math.inf)
    max_iterations = check_integer("max_iterations", max_iterations, at_least=1)
    greatest = float(values.abs().max())
    least = greatest / _GREATEST_EXPONENT
    if weight < least:
        raise ValueError(
            f"regularization must be at least {least:g} for a cost of up to {greatest:g}, "
            f"got {regularization}"
        )
    row = _check_mass("row_mass", row_mass, values.shape[0], values.device)
    column = _check_mass("column_mass", column_mass, values.shape[1], values.device)
    kernel = -values / weight
    sums = torch.logsumexp(kernel, dim=1)
    for _ in range(max_iterations):
        row_dual = row.log() - sums
        column_dual = column.log() - torch.logsumexp(kernel + row_dual[:, None], dim=0)
        sums = torch.logsumexp(kernel + column_dual, dim=1)
        missed = float(((sums + row_dual).exp() - row).abs().sum())
        if missed <= tolerance:
            break
    else:
        logger.warning(
            "transport_plan: row sums differ from their masses by %.1e after %d iterations, more "
            "than the tolerance of %.1e; a larger regularization needs fewer iterations",
            missed,
            max_iterations,
            tolerance,
        )
    return (kernel + row_dual[:, None] + column_dual).exp()


def _heaviest(plan: Tensor) -> Tensor:
    """Pairs of every entry of the longer side with the partner of largest mass."""
    rows, columns = plan.shape
    longer = torch.arange(max(rows, columns), device=plan.device)
    if rows > columns:
        return torch.stack([longer, plan.argmax(dim=1)], dim=1)
    return torch.stack([plan.argmax(dim=0), longer], dim=1)


def _number_by_first(clusters: Tensor) -> Tensor:
    """The same partition, numbered 0, 1, ... in the order of first members."""
    names, numbers = torch.unique(clusters, return_inverse=True)
    places = torch.arange(len(clusters), device=clusters.device)
    first = places.new_full((len(names),), len(clusters))
    first.scatter_reduce_(0, numbers, places, "amin")
    return first.argsort().argsort()[numbers]


def _check_cost(value: object) -> Tensor:
    """Returns a finite (A, B) cost in float64."""
    cost = check_numbers(to_tensor(value, "cost"), "cost")
    if cost.dim() != 2:
        raise ValueError(f"cost must be (A, B), got shape {tuple(cost.shape)}")
    cost = cost.to(torch.float64)
    bad = torch.nonzero(~cost.isfinite().all(dim=1)).flatten()
    if len(bad):
        raise ValueError(f"cost must be finite, got NaN or Inf in row {int(bad[0])}")
    return cost


def _check_mass(name: str, value: object, count: int, device: torch.device) -> Tensor:
    """Returns (count,) float64 masses that sum to one; equal ones for ``None``."""
    if value is None:
        return torch.full((count,), 1 / count, dtype=torch.float64, device=device)
    mass = check_numbers(to_tensor(value, name), name)
    if mass.shape != (count,):
        raise ValueError(f"{name} must be ({count},), as in cost, got {tuple(mass.shape)}")
    mass = mass.to(device=device, dtype=torch.float64)
    if not bool((mass.isfinite() & (mass >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative, got {mass.tolist()[:8]}")
    total = mass.sum()
    if not 0 < float(total) < math.inf:
        raise ValueError(f"{name} must sum to a finite number above 0, got {float(total):g}")
    return mass / total
