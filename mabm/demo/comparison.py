"""Methods compared over all ``eps``, each at one that was chosen on other identities.

Distances of two methods are spread differently, so one ``eps`` for both would not be a fair
comparison. The identities are split into two halves that are clustered separately. The ``eps`` of
greatest F1 on one half is used to report the other half; then the halves are swapped, and the
counts of both are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.cluster.quality import PairQuality, adjusted_rand_index, cross_modality_pairs
from mabm.distance.centering import center_modalities
from mabm.distance.graph import DEFAULT_MIN_SAMPLES, NeighborGraph, check_min_samples
from mabm.distance.jaccard import jaccard_graph
from mabm.distance.presets import PRESETS, check_k1

FloatArray = npt.NDArray[np.float32]

EPS_VALUES: Final = tuple(step / 100 for step in range(30, 79))
"""Every ``eps`` that is compared. Below, few pairs are joined; above, all is one cluster."""

PRECISIONS: Final = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Precisions at which the recall of the distance, before clustering, is printed."""

_MAX_DISTANCE: Final = 0.9  # pairs beyond it hardly agree in a neighbor
_NUM_HALVES: Final = 2
_NUM_MODALITIES: Final = 2


@dataclass(frozen=True)
class Settings:
    """Parameters of the clustering, the same for all methods.

    Attributes:
        k1: Neighbors of a sample in total, even. The modality-aware distance takes half from each
            modality, the naive one takes the nearest of any modality. An identity has 8 to 12
            images in each modality, so 12 of each can include all; the 30 of the paper suits
            data with 30 to 50 images of an identity.
        k2: Rows that local query expansion averages in total, even. The modality-aware distance
            takes half of them from each modality.
        min_samples: Samples within ``eps``, itself included, that make a core sample; as in the
            paper.
    """

    k1: int = 24
    k2: int = 6
    min_samples: int = DEFAULT_MIN_SAMPLES

    def __post_init__(self) -> None:
        """Refuses what the clustering would refuse, before any work."""
        k1 = check_k1(PRESETS["bmil"], self.k1, num_groups=_NUM_MODALITIES)
        check_integer("k2", self.k2, at_least=1, at_most=k1, reason=", which ends at k1")
        check_integer("k2", self.k2, at_least=2, reason=", a row of each modality")
        for name in ("k1", "k2"):
            if (value := getattr(self, name)) % _NUM_MODALITIES:
                raise ValueError(
                    f"{name} must be even, half for each modality, so that all methods take as "
                    f"many, got {value}"
                )
        check_min_samples(self.min_samples)


class Method(NamedTuple):
    """A way to cluster: its name, the preset of its distance, and whether features are centered."""

    name: str
    preset: str
    centered: bool


NAIVE: Final = Method("naive", "spcl", False)
AWARE: Final = Method("modality-aware", "bmil", False)
METHODS: Final = (
    NAIVE,
    AWARE,
    Method("naive, centered", "spcl", True),
    Method("modality-aware, centered", "bmil", True),
)


@dataclass(frozen=True)
class Curve:
    """Precision and recall of cross-modality pairs, as a threshold grows.

    Attributes:
        threshold: (T,) float64, ascending.
        precision: (T,) float64, NaN where nothing was found.
        recall: (T,) float64.
    """

    threshold: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]

    def recall_at(self, precision: float) -> float:
        """The greatest recall at a threshold of at least this precision; 0 if there is none."""
        return float(self.recall[self.precision >= precision].max(initial=0.0))


@dataclass(frozen=True)
class MethodResult:
    """A method over all ``eps``, and at the chosen ones.

    Attributes:
        method: Which one.
        eps: The chosen radius of each half, by the labels of the other half.
        labels: (N,) int64 clusters at the chosen radii, numbered over both halves; -1 for noise.
        num_clusters: Number of clusters.
        num_spanning: Clusters with members of both modalities.
        num_noise: Samples in no cluster.
        across: Pairs of samples of different modality within a half.
        within: Pairs of samples of one modality within a half.
        ari: Adjusted Rand index, noise as singletons: the mean of the two halves.
        halves: ``across`` of each half.
        clusters: Pairs that clusters join, for each ``eps`` of ``EPS_VALUES``.
        distances: Pairs within a distance, for each distance that occurs up to 0.9.
    """

    method: Method
    eps: tuple[float, ...]
    labels: IntArray
    num_clusters: int
    num_spanning: int
    num_noise: int
    across: PairQuality
    within: PairQuality
    ari: float
    halves: tuple[PairQuality, ...]
    clusters: Curve
    distances: Curve


def split_identities(identity: IntArray) -> tuple[IntArray, ...]:
    """The samples of each half: every second identity, in ascending order."""
    names = np.unique(identity)
    return tuple(
        np.flatnonzero(np.isin(identity, names[first::_NUM_HALVES])) for first in range(_NUM_HALVES)
    )


def compare(
    method: Method,
    features: FloatArray,
    identity: IntArray,
    modality: IntArray,
    settings: Settings,
    tick: Callable[[], object],
) -> MethodResult:
    """Clusters both halves of N samples at every ``eps``, and scores the chosen ones.

    Args:
        method: How to cluster.
        features: (N, D).
        identity: (N,) of at least two identities.
        modality: (N,).
        settings: Parameters of the clustering.
        tick: Called once for each half.
    """
    halves = []
    for rows in split_identities(identity):
        halves.append(_Half(method, features[rows], identity[rows], modality[rows], settings))
        tick()
    # Of equal F1, the smallest eps: it joins less.
    best = [int(np.argmax([pairs.f1 for pairs in half.across])) for half in halves]
    chosen = best[::-1]  # each half by the other
    labels, ari, within, num_clusters = np.full(len(identity), -1), [], [], 0
    for rows, half, place in zip(split_identities(identity), halves, chosen, strict=True):
        found = half.labels[place]
        labels[rows] = np.where(found < 0, -1, found + num_clusters)
        num_clusters += int(found.max(initial=-1)) + 1
        ari.append(adjusted_rand_index(found, half.identity))
        within.append(half.within(place))
    across = tuple(half.across[place] for half, place in zip(halves, chosen, strict=True))
    return MethodResult(
        method=method,
        eps=tuple(EPS_VALUES[place] for place in chosen),
        labels=labels,
        num_clusters=num_clusters,
        num_spanning=PseudoLabels(labels, modality).num_spanning or 0,
        num_noise=int((labels < 0).sum()),
        across=_sum(*across),
        within=_sum(*within),
        ari=float(np.mean(ari)),
        halves=across,
        clusters=_curve_of_clusters(halves),
        distances=_curve_of_distances(halves),
    )


class _Half:
    """One half of the identities, clustered at every ``eps``."""

    def __init__(
        self,
        method: Method,
        features: FloatArray,
        identity: IntArray,
        modality: IntArray,
        settings: Settings,
    ) -> None:
        if method.centered:
            features = center_modalities(features, modality)
        self.identity, self.modality = identity, modality
        self.graph: NeighborGraph[npt.NDArray[Any]] = jaccard_graph(
            features,
            modality,
            max_distance=_MAX_DISTANCE,
            k1=settings.k1,
            # The modality-aware distance averages k2 rows of each modality.
            k2=settings.k2 // _NUM_MODALITIES if method.preset == "bmil" else settings.k2,
            preset=method.preset,
        )
        self.labels: list[IntArray] = [
            self.graph.dbscan(eps, settings.min_samples) for eps in EPS_VALUES
        ]
        self.across = [cross_modality_pairs(each, identity, modality) for each in self.labels]

    def within(self, place: int) -> PairQuality:
        """Pairs of one modality at one ``eps``: all pairs but those across."""
        every = cross_modality_pairs(
            self.labels[place], self.identity, np.arange(len(self.identity))
        )
        across = self.across[place]
        return PairQuality(
            every.num_true - across.num_true,
            every.num_found - across.num_found,
            every.num_right - across.num_right,
        )

    def distances(self) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """The distances of pairs across modalities in the graph, and whether each is right."""
        rows = np.repeat(np.arange(len(self.identity)), np.diff(self.graph.indptr))
        columns = self.graph.indices
        chosen = (rows < columns) & (self.modality[rows] != self.modality[columns])
        is_right = self.identity[rows] == self.identity[columns]
        return self.graph.distances[chosen], is_right[chosen]


def _sum(*halves: PairQuality) -> PairQuality:
    return PairQuality(
        sum(each.num_true for each in halves),
        sum(each.num_found for each in halves),
        sum(each.num_right for each in halves),
    )


def _curve_of_clusters(halves: list[_Half]) -> Curve:
    pairs = [_sum(*each) for each in zip(*(half.across for half in halves), strict=True)]
    return Curve(
        np.array(EPS_VALUES),
        np.array([each.precision for each in pairs]),
        np.array([each.recall for each in pairs]),
    )


def _curve_of_distances(halves: list[_Half]) -> Curve:
    parts = [half.distances() for half in halves]
    distance = np.concatenate([part[0] for part in parts])
    is_right = np.concatenate([part[1] for part in parts])
    order = np.argsort(distance, kind="stable")
    ordered = distance[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    num_right = np.cumsum(is_right[order])[last]
    num_true = sum(half.across[0].num_true for half in halves)
    return Curve(ordered[last].astype(np.float64), num_right / (last + 1), num_right / num_true)
