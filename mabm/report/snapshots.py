"""Snapshots of a run for its report: a clustering, and ranked searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.arrays import Array, IntArray, check_matrix, like, to_tensor
from mabm._core.columns import (
    Column,
    Labels,
    check_column,
    check_labels,
    check_visible_infrared,
    holds_integers,
)
from mabm._core.protocols import SearchTask
from mabm.distance.graph import DEFAULT_EPS
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset
from mabm.distance.whole_products import inner_products
from mabm.evaluation.retrieval import average_precision
from mabm.evaluation.samples import SearchSamples

ReadImages = Callable[[list[int]], Array]
"""Rows -> (B, 3, H, W) uint8 RGB images of one size, such as ``ImageReader.__getitems__``."""

BEST: Final = "Best"
BETWEEN: Final = "In between: the quartiles"
WORST: Final = "Worst, lowest AP first"
"""Groups of the queries that :meth:`RetrievalSnapshot.from_search` chooses."""

_ROWS_AT_ONCE: Final = 512  # queries ranked in one step: bounds the memory of a large gallery


@dataclass(frozen=True, eq=False)
class ClusteringSnapshot:
    """A clustering of N samples, and what its distance was computed from.

    Attributes:
        features: (N, D) floating point, the features that were clustered.
        labels: (N,) integers, clusters 0..C-1 and noise -1, or the :class:`mabm.PseudoLabels`.
        modality: (N,) integers >= 0.
        read: Reads images by row.
        identity: (N,) integers, negative where unknown; ``None`` where none is known.
        k1: Neighbors of a sample that the distance was computed with.
        k2: Rows that query expansion averaged: of each group with ``"bmil"``, else in total.
        eps: Radius of DBSCAN.
        preset: Variant of the distance: a name in :data:`mabm.PRESETS` or a preset of your own;
            ``None`` is ``"bmil"``.
        identity_names: Takes an identity and returns its name; ``None`` names it by its number.
        image_names: Takes a row and returns the name of its image, such as its file; ``None``
            where images have no names.
        groups: (N,) integers >= 0, the groups that the distance distinguished, where these are not
            the modality: cameras, with ``"ca_jaccard"``.
    """

    features: Array
    labels: Labels
    modality: Column
    read: ReadImages
    identity: Column | None = None
    k1: int = DEFAULT_K1
    k2: int = DEFAULT_K2
    eps: float = DEFAULT_EPS
    preset: str | Preset | None = None
    identity_names: Callable[[int], str] | None = None
    image_names: Callable[[int], str] | None = None
    groups: Column | None = None

    def __post_init__(self) -> None:
        """Converts lists and words to arrays, and refuses columns of different lengths."""
        features = to_tensor(self.features, "features")
        check_matrix(features, "features")
        count, each = len(features), "one per row of features"
        columns = {
            "labels": check_labels(self.labels, count, "labels", each),
            "modality": check_visible_infrared(self.modality, count, "modality", each),
        }
        if self.identity is not None:
            columns["identity"] = check_column(self.identity, count, "identity", each)
        if self.groups is not None:
            columns["groups"] = check_column(self.groups, count, "groups", each)
        for name, column in columns.items():
            if not holds_integers(getattr(self, name)):
                object.__setattr__(self, name, like(column, self.features))


@dataclass(frozen=True, eq=False)
class RetrievalSnapshot:
    """Some queries of a search, each with the nearest samples of its gallery.

    Attributes:
        task: Name of the search.
        query: (Q,) int64 rows of the queries.
        ranked: (Q, R) int64 rows of the gallery, nearest first; -1 past its end.
        right: (Q, R) bool: whether the gallery image shares the identity of the query; any value
            where ``ranked`` is -1.
        read: Reads images by row.
        caption: How these queries and the gallery were chosen, in words.
        group: Q words, the group of each query: queries of one group follow each other under a
            heading. Empty without groups.
        facts: Q texts, what is known of each query, such as its average precision. May be empty.
        image_names: Takes a row and returns the name of its image, such as its file; ``None``
            where images have no names.
    """

    task: str
    query: IntArray
    ranked: IntArray
    right: npt.NDArray[np.bool_]
    read: ReadImages
    caption: str = ""
    group: Sequence[str] = ()
    facts: Sequence[str] = ()
    image_names: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        """Refuses arrays whose shapes do not fit together."""
        shapes = self.query.shape, self.ranked.shape, self.right.shape
        if len(shapes[1]) != 2 or shapes[0] != shapes[1][:1] or shapes[2] != shapes[1]:
            raise ValueError(
                f"query must be (Q,), ranked and right (Q, R), got {shapes[0]}, {shapes[1]} and "
                f"{shapes[2]}"
            )
        for name in ("group", "facts"):
            if (count := len(getattr(self, name))) not in (0, len(self.query)):
                raise ValueError(f"{name} must be empty or {len(self.query)} words, got {count}")

    @classmethod
    def from_search(
        cls,
        features: Array,
        identity: Column,
        camera: Column,
        modality: Column,
        *,
        task: SearchTask,
        read: ReadImages,
        image_names: Callable[[int], str] | None = None,
        num_each: int = 4,
        num_shown: int = 10,
    ) -> RetrievalSnapshot:
        """Searches as :func:`mabm.evaluate_search` does in trial 0.

        The queries shown are chosen by their average precision (AP), so that none is picked by
        hand: the best and the worst, at most one of each identity in either group, and those at the
        quartiles. The worst are below all of the best: there are none where all searches are alike.
        Ties: the lower row first. Queries without a match in the gallery do not count.

        Args:
            features: (N, D) floating point, compared by inner product, never normalized here.
            identity: (N,) integers.
            camera: (N,) integers.
            modality: (N,) integers, 0 visible and 1 infrared, or these two words.
            task: Which images are queries, which are the gallery, and what is left out of it.
            read: Reads images by row.
            image_names: Takes a row and returns the name of its image; ``None`` for no names.
            num_each: Greatest number of the best queries, and of the worst, >= 1; half of the
                queries where they are fewer than two groups of this size.
            num_shown: Greatest number of gallery images to show for each query, >= 1.

        Returns:
            The queries with their ranked gallery; no query where none has a match.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Shapes that do not fit.
        """
        check_integer("num_each", num_each, at_least=1)
        check_integer("num_shown", num_shown, at_least=1)
        samples = SearchSamples.check(features, identity, camera, modality)
        queries, gallery = samples.queries(task, trial=0), samples.gallery(task, trial=0)
        scores, first, top = _rank_gallery(samples, task, queries, gallery, num_shown)
        groups = _choose_queries(scores, samples.identity[queries], num_each)
        listed = [place for places in groups.values() for place in places]
        chosen = torch.tensor(listed, dtype=torch.int64, device="cpu")
        shown, query = top[chosen], queries[chosen]
        right = samples.identity[shown] == samples.identity[query, None]
        return cls(
            task=task.name,
            query=query.numpy(),
            ranked=shown.numpy(),
            right=(right & (shown >= 0)).numpy(),
            read=read,
            caption="Chosen by average precision (AP), at most one of each identity in a group; "
            f"{int((scores > 0).sum()):,} queries with a match, a gallery of {len(gallery):,} "
            "images" + (" (trial 0)" if task.num_trials > 1 else ""),
            group=[name for name, places in groups.items() for _ in places],
            facts=[
                f"AP {100 * score:.1f} %, first match at rank {rank:,}"
                for score, rank in zip(scores[chosen].tolist(), first[chosen].tolist(), strict=True)
            ],
            image_names=image_names,
        )


def _choose_queries(scores: Tensor, identity: Tensor, num_each: int) -> dict[str, list[int]]:
    """Places of the queries to show, by their group.

    Args:
        scores: (Q,) average precision, 0 for a query without a match.
        identity: (Q,) identities.
        num_each: Greatest number of the best ones, and of the worst.
    """
    people = identity.tolist()
    count = int((scores > 0).sum())
    num_each = min(num_each, max(1, count // 2))
    falling = scores.sort(descending=True, stable=True).indices[:count].tolist()
    rising = scores.sort(stable=True).indices[len(scores) - count :].tolist()
    best = _one_of_each(falling, people, num_each)
    bound = float(scores[best].min()) if best else 0.0
    lower = [place for place in rising if float(scores[place]) < bound]
    worst = _one_of_each(lower, people, num_each)
    quartiles = dict.fromkeys(falling[count * part // 4] for part in (1, 2, 3) if count)
    between = [place for place in quartiles if place not in best and place not in worst]
    return {BEST: best, BETWEEN: between, WORST: worst}


def _one_of_each(places: Sequence[int], people: Sequence[int], most: int) -> list[int]:
    """The first place of each identity, at most ``most``."""
    first: dict[int, int] = {}
    for place in places:
        if len(first) == most:
            break
        first.setdefault(people[place], place)
    return list(first.values())


def _rank_gallery(
    samples: SearchSamples, task: SearchTask, queries: Tensor, gallery: Tensor, num_shown: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks a gallery for each query.

    Args:
        samples: What is searched.
        task: Which pairs are compared.
        queries: (Q,) int64 rows.
        gallery: (G,) int64 rows.
        num_shown: Ranks to return.

    Returns:
        (Q,) float64 average precision, 0 for a query without a match; (Q,) int64 rank of the first
        match, any number without one; and (Q, min(num_shown, G)) int64 rows of the gallery, nearest
        first, -1 past the last sample that is compared.
    """
    identity, camera = samples.identity, samples.camera
    precisions, firsts, tops = [], [], []
    for rows in torch.split(queries, _ROWS_AT_ONCE):
        distance = (
            inner_products(samples.features_at(rows), samples.features_at(gallery)).neg_().cpu()
        )
        matches = identity[rows, None] == identity[gallery]
        compared = task.protocol.compared(matches, camera[rows, None], camera[gallery])
        distance[~compared] = torch.inf
        ranked = distance.sort(dim=1, stable=True)
        is_compared = ranked.values.isfinite()
        right = matches.gather(1, ranked.indices) & is_compared
        precisions.append(average_precision(right, torch.arange(1, len(gallery) + 1, device="cpu")))
        firsts.append(1 + (right.cumsum(dim=1) == 0).sum(dim=1))
        tops.append(gallery[ranked.indices].where(is_compared, -1)[:, :num_shown])
    return (
        torch.cat([queries.new_empty(0, dtype=torch.float64), *precisions]),
        torch.cat([queries.new_empty(0), *firsts]),
        torch.cat([queries.new_empty(0, min(num_shown, len(gallery))), *tops]),
    )
