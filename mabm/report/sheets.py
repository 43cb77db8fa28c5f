"""Images in the report: members of clusters on a contact sheet, and ranked searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from mabm._core.arrays import IntArray
from mabm.cluster.quality import evenly_chosen_clusters
from mabm.report.figures import read_tiles
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.tables import name_modality

_NUM_CLUSTERS: Final = 10  # rows of the contact sheet
_TILES_A_SIDE: Final = 8  # members shown of a cluster in each modality


class Tile(NamedTuple):
    """One image on the page.

    Attributes:
        image: Its pixels as a data URI.
        kind: ``"right"``, ``"wrong"``, ``"query"``, or ``"plain"`` where that is not known.
        name: What it is called; empty without a name.
    """

    image: str
    kind: str
    name: str


def evenly_spaced(count: int, most: int) -> IntArray:
    """At most ``most`` places in ``[0, count)``, evenly spaced, the first and last among them."""
    places: IntArray = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    return places


def contact_sheet(
    snapshot: ClusteringSnapshot,
    labels: IntArray,
    modality: IntArray,
    identity: IntArray | None,
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Members of some clusters, one cluster per row, and of each modality apart.

    Clusters that span modalities are shown; where there are none, any clusters.

    Args:
        snapshot: What reads the images and names the identities.
        labels: (N,) clusters, -1 for noise.
        modality: (N,).
        identity: (N,), negative where unknown; ``None`` where none is known.
        names: What each modality is called.

    Returns:
        ``heads`` (names of the modalities), ``rows`` (one per cluster), ``order`` (of the clusters,
        in words), ``spanning`` (whether these clusters span modalities), ``total`` (clusters in
        all) and ``has_names`` (whether images have names).
    """
    clusters = evenly_chosen_clusters(labels, modality, identity, count=_NUM_CLUSTERS)
    spanning = bool(len(clusters))
    if not spanning:
        clusters = evenly_chosen_clusters(
            labels, modality, identity, count=_NUM_CLUSTERS, spanning=False
        )
    modalities = np.unique(modality).tolist()
    members = [
        [np.flatnonzero((labels == cluster) & (modality == number)) for number in modalities]
        for cluster in clusters.tolist()
    ]
    # Evenly spaced members show every camera; the first ones would show only the first.
    shown = [
        [group[evenly_spaced(len(group), _TILES_A_SIDE)] for group in groups] for groups in members
    ]
    flat = [rows for groups in shown for rows in groups]
    tile = read_tiles(snapshot.read, np.concatenate([np.zeros(0, np.int64), *flat]))
    name_image = _image_namer(snapshot.image_names)
    rows = []
    for cluster, groups, parts in zip(clusters.tolist(), members, shown, strict=True):
        title, facts, commonest = _describe_cluster(snapshot, cluster, groups, identity)
        sides = [
            {
                "name": name_modality(number, names),
                "tiles": [
                    Tile(tile(row), _kind(identity, row, commonest), name_image(row))
                    for row in part.tolist()
                ],
                "more": len(group) - len(part),
            }
            for number, group, part in zip(modalities, groups, parts, strict=True)
        ]
        rows.append({"title": title, "facts": facts, "groups": sides})
    return {
        "heads": [name_modality(number, names) for number in modalities],
        "rows": rows,
        "order": "from the largest cluster to the smallest"
        if identity is None
        else "from the purest cluster to the least pure",
        "spanning": spanning,
        "total": int(labels.max(initial=-1)) + 1,
        "has_names": snapshot.image_names is not None,
    }


def _describe_cluster(
    snapshot: ClusteringSnapshot, cluster: int, groups: list[IntArray], identity: IntArray | None
) -> tuple[str, list[str], int | None]:
    """Title and facts of a cluster in words, and its commonest identity where one is known.

    Args:
        snapshot: What names the identities.
        cluster: Its number.
        groups: Rows of its members in each modality.
        identity: (N,), negative where unknown; ``None`` where none is known.
    """
    members = np.concatenate(groups)
    title, facts = f"cluster {cluster}", [f"{len(members)} images"]
    if identity is None:
        return title, facts, None
    known = identity[members][identity[members] >= 0]
    if not known.size:
        return title, facts, None
    commonest = int(np.bincount(known).argmax())
    facts.append(f"{100 * (known == commonest).mean():.0f} % one identity")
    return _name_identity(snapshot.identity_names, commonest), facts, commonest


def _name_identity(names: Callable[[int], str] | None, identity: int) -> str:
    return f"identity {identity}" if names is None else names(identity)


def _kind(identity: IntArray | None, row: int, commonest: int | None) -> str:
    """How a tile is marked: right or wrong, or plain where the identity is not known."""
    if identity is None or commonest is None or identity[row] < 0:
        return "plain"
    return "right" if identity[row] == commonest else "wrong"


def _image_namer(names: Callable[[int], str] | None) -> Callable[[int], str]:
    return (lambda row: "") if names is None else names


def show_search(snapshot: RetrievalSnapshot) -> dict[str, Any]:
    """Queries of a search and the nearest of their gallery.

    Returns:
        ``task``, ``caption``, ``has_names`` and ``rows``: of each query its ``heading`` (of its
        group, for the first query of it; else empty), ``facts``, the tile ``query`` and the
        ``tiles`` of its gallery.
    """
    tile = read_tiles(snapshot.read, np.concatenate([snapshot.query, snapshot.ranked.ravel()]))
    name_image = _image_namer(snapshot.image_names)
    rows, last = [], ""
    for place, query in enumerate(snapshot.query.tolist()):
        group = snapshot.group[place] if snapshot.group else ""
        ranked, right = snapshot.ranked[place].tolist(), snapshot.right[place].tolist()
        rows.append(
            {
                "heading": group if group != last else "",
                "facts": snapshot.facts[place] if snapshot.facts else "",
                "query": Tile(tile(query), "query", name_image(query)),
                "tiles": [
                    Tile(tile(row), "right" if is_right else "wrong", name_image(row))
                    for row, is_right in zip(ranked, right, strict=True)
                    if row >= 0
                ],
            }
        )
        last = group
    return {
        "task": snapshot.task,
        "caption": snapshot.caption,
        "has_names": snapshot.image_names is not None,
        "rows": rows,
    }
