"""The report of a run: one HTML page that needs nothing beside it, on screen or on paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray, to_tensor
from mabm._core.files import write_text
from mabm._core.modalities import MODALITY_NAMES
from mabm._core.version import __version__
from mabm.cluster.quality import evenly_chosen_clusters
from mabm.distance.jaccard import encode_samples, jaccard_distance
from mabm.distance.rows import Encoding
from mabm.report.figures import (
    draw_curves,
    draw_distance_spread,
    make_lines,
    read_tiles,
)
from mabm.report.plots import PairHistogram, pair_histogram, require_matplotlib
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.tables import (
    Column,
    Entry,
    collect_results,
    column,
    keys_of,
    name_epoch,
    neighbor_mixes,
    noise_shares,
    percent,
    summarize,
    tabulate_epochs,
)

_TEMPLATE: Final = "report.html.jinja"
_MAX_SAMPLES: Final = 2000  # 2 million pairs tell a distribution as well as all would
_NUM_CLUSTERS: Final = 10  # rows of the contact sheet
_TILES_A_SIDE: Final = 8  # members shown of a cluster in each modality


def require_packages() -> Any:
    """Returns jinja2, or raises the ImportError that names the extra which the report needs."""
    try:
        import jinja2
        import PIL  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ImportError(
            'the report needs jinja2, matplotlib and Pillow: pip install "mabm[train]"'
        ) from error
    require_matplotlib("train")
    return jinja2


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    config_toml: str,
    environment: Mapping[str, str],
    history: Sequence[Entry],
    clustering: ClusteringSnapshot | None = None,
    retrieval: Sequence[RetrievalSnapshot] = (),
    note: str = "",
    modality_names: Mapping[int, str] = MODALITY_NAMES,
    max_samples: int = _MAX_SAMPLES,
) -> Path:
    """Writes one self-contained page: curves, distances, clusters, searches, and all numbers.

    The result is the last evaluated epoch; the best one is shown beside it, named as what it is.
    The page loads nothing and runs nothing, and whatever is put into it is escaped. It replaces an
    older one at once or not at all.

    Args:
        path: The file, by custom ``report.html``.
        title: What the run is called.
        config_toml: Its configuration, as text.
        environment: As :func:`mabm.train.records.environment.describe_environment` gives it.
        history: Entries of all epochs, one dictionary for each line of ``history.jsonl``.
        clustering: The clustering to show, by custom the last one.
        retrieval: Searches to show, one a task.
        note: What has to be said of the images wherever they are shown, such as that they are
            drawings, not photographs.
        modality_names: What each modality is called.
        max_samples: Samples whose pairs the distributions of distances are taken from; of more,
            evenly spaced ones.

    Returns:
        ``path``.

    Raises:
        ImportError: If jinja2, matplotlib or Pillow is missing; before any work.
        OSError: If the file cannot be written.
        ValueError: If ``max_samples`` is below 2, or images do not have the shape promised.
    """
    jinja2 = require_packages()
    check_integer("max_samples", max_samples, at_least=2)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("mabm.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template(_TEMPLATE)
    names = dict(modality_names)
    page = template.render(
        title=title,
        note=note,
        version=__version__,
        results=collect_results(history),
        facts=summarize(history),
        panels=_curves(history, names),
        mix=_last_mix(history, names),
        clustering=None if clustering is None else _show_clustering(clustering, names, max_samples),
        retrieval=[_show_retrieval(snapshot) for snapshot in retrieval or ()],
        epochs=tabulate_epochs(history),
        warnings=[
            (name_epoch(entry), text) for entry in history for text in entry.get("warnings") or ()
        ],
        environment=environment,
        config=config_toml,
    )
    target = Path(path)
    write_text(target, page)
    return target


def _name(modality: int, names: Mapping[int, str]) -> str:
    return names.get(modality, f"modality {modality}")


def _curves(history: Sequence[Entry], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The panels of curves that there are numbers for."""
    epochs, place = [], 0
    for entry in history:
        place += entry["stage"] > 0
        epochs.append(place)
    boundaries: dict[float, str] = {}
    for i, entry in enumerate(history):
        if entry["stage"] > 0 and (i == 0 or history[i - 1]["stage"] != entry["stage"]):
            boundaries[epochs[i] - 0.5] = f"stage {entry['stage']}"
    panels = []

    def add(title: str, caption: str, columns: Mapping[str, Column], **options: Any) -> None:
        lines = make_lines(columns, options.pop("styles", None))
        if lines:
            drawn = draw_curves(lines, epochs, boundaries, label=title, **options)
            panels.append({"title": title, "caption": caption, "lines": lines, "svg": drawn})

    add(
        "Losses",
        "Mean over the epoch.",
        {key: column(history, "losses", key) for key in keys_of(history, "losses")},
    )
    scores = {
        f"{task} {name}": column(history, "evaluation", task, "mean", key)
        for task in keys_of(history, "evaluation")
        for key, name in (("rank1", "R1"), ("mAP", "mAP"))
    }
    add(
        "Retrieval",
        "Rank-1 and mean average precision across modalities, mean over trials.",
        scores,
        styles={name: "dashed" for name in scores if name.endswith("mAP")},
        percent=True,
    )
    clusters = {key: column(history, "clusters", key) for key in keys_of(history, "clusters")}
    clusterings = keys_of(history, "diagnostics")
    add("Clusters", "Clusters found at the start of the epoch.", clusters)
    against: dict[str, Column] = {}
    for name, key in (
        ("ARI", "ari"),
        ("pair precision", "pair_precision"),
        ("pair recall", "pair_recall"),
    ):
        for clustering in clusterings:
            against[f"{name}, {clustering}"] = column(history, "diagnostics", clustering, key)
    add(
        "Clusters against identities",
        "Pairs are those across modalities. Identities are looked at here and nowhere in training.",
        against,
        styles={name: "dashed" for name in against if name.startswith("ARI")},
        percent=True,
    )
    across = {
        f"noise, {clustering}": noise_shares(history, clustering) for clustering in clusterings
    }
    for clustering in clusterings:
        spanning = column(history, "diagnostics", clustering, "share_spanning")
        across[f"clusters spanning, {clustering}"] = spanning
    add(
        "Noise and spanning clusters",
        "Share of images in no cluster; share of clusters with members of every modality.",
        across,
        styles={name: "dashed" for name in across if name.startswith("noise")},
        percent=True,
    )
    crossing: dict[str, Column] = {}
    for i, mix in enumerate(neighbor_mixes(history)):
        for row, modality in enumerate(mix[0] if mix else ()):
            shares = mix[1][row] if mix else None
            if shares is not None:
                own = crossing.setdefault(f"of {_name(modality, names)}", [None] * len(history))
                own[i] = 1 - shares[row]
    add(
        "Neighbors in another modality",
        "Share of an image's nearest neighbors that are of another modality than its own.",
        crossing,
        percent=True,
    )
    return panels


def _last_mix(history: Sequence[Entry], names: Mapping[int, str]) -> dict[str, Any] | None:
    mixes = zip(history, neighbor_mixes(history), strict=True)
    found = [(name_epoch(entry), *mix) for entry, mix in mixes if mix]
    if not found:
        return None
    epoch, modalities, rows = found[-1]
    heads = [_name(modality, names) for modality in modalities]
    texts = [[percent(share) for share in row or [None] * len(heads)] for row in rows]
    return {"epoch": epoch, "heads": heads, "rows": list(zip(heads, texts, strict=True))}


def _show_clustering(
    snapshot: ClusteringSnapshot, names: Mapping[int, str], max_samples: int
) -> dict[str, Any]:
    labels, modality = (_numpy(value) for value in (snapshot.labels, snapshot.modality))
    identity = None if snapshot.identity is None else _numpy(snapshot.identity)
    if identity is not None and not (identity >= 0).any():
        identity = None
    candidates = np.arange(len(labels))
    if identity is not None:
        candidates = np.flatnonzero(identity >= 0)
    rows = candidates[_evenly(len(candidates), max_samples)]
    count = len(rows)
    histogram = None
    if count > 1:
        histogram = _spread_distances(snapshot, rows, modality, identity)
    return {
        "spreads": []
        if histogram is None
        else [
            draw_distance_spread(histogram, across)
            for across in (False, True)
            if histogram.counts[int(across)].any()
        ],
        "has_identity": identity is not None,
        "sampled": _describe_sample(count, len(candidates), len(labels)),
        "sheet": _contact_sheet(snapshot, labels, modality, identity, names),
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
    """How the distance is spread over the pairs of some rows, all samples being encoded."""
    encoding = encode_samples(
        to_tensor(snapshot.features, "features"),
        torch.from_numpy(modality) if snapshot.groups is None else snapshot.groups,
        k1=snapshot.k1,
        k2=snapshot.k2,
        preset=snapshot.preset,
    )
    chosen = _rows_first(encoding, rows)
    part = slice(0, len(rows))
    distance = jaccard_distance(chosen, part, part).cpu().numpy()
    people = None if identity is None else identity[rows]
    return pair_histogram(distance, people, modality[rows], eps=snapshot.eps)


def _rows_first(encoding: Encoding[torch.Tensor], rows: IntArray) -> Encoding[torch.Tensor]:
    """The encoding with some rows moved to its front; what the rows hold stays as it is."""
    indptr, indices, weights = encoding.tensors()
    others = np.setdiff1d(np.arange(len(encoding)), rows)
    order = torch.from_numpy(np.concatenate([rows, others])).to(indptr.device)
    sizes = indptr.diff()[order]
    ends = torch.cat([indptr.new_zeros(1), sizes.cumsum(0)])
    entries = torch.repeat_interleave(indptr[order] - ends[:-1], sizes)
    entries += torch.arange(len(entries), device=entries.device)
    return Encoding(ends, indices[entries], weights[entries])


def _contact_sheet(
    snapshot: ClusteringSnapshot,
    labels: IntArray,
    modality: IntArray,
    identity: IntArray | None,
    names: Mapping[int, str],
) -> dict[str, Any]:
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
    shown = [[group[_evenly(len(group), _TILES_A_SIDE)] for group in groups] for groups in members]
    flat = [rows for groups in shown for rows in groups]
    tile = read_tiles(snapshot.read, np.concatenate([np.zeros(0, np.int64), *flat]))
    rows = []
    for cluster, groups, parts in zip(clusters.tolist(), members, shown, strict=True):
        own = np.concatenate(groups)
        title, facts, commonest = f"cluster {cluster}", [f"{len(own)} images"], None
        if identity is not None:
            known = identity[own][identity[own] >= 0]
            if known.size:
                commonest = int(np.bincount(known).argmax())
                title = _name_identity(snapshot.identity_names, commonest)
                facts.append(f"{(known == commonest).mean():.0%} one identity")
        rows.append(
            {
                "title": title,
                "facts": facts,
                "groups": [
                    {
                        "name": _name(number, names),
                        "tiles": [
                            (tile(row), _kind(identity, row, commonest)) for row in part.tolist()
                        ],
                        "more": len(group) - len(part),
                    }
                    for number, group, part in zip(modalities, groups, parts, strict=True)
                ],
            }
        )
    return {
        "heads": [_name(number, names) for number in modalities],
        "rows": rows,
        "order": "from the largest cluster to the smallest"
        if identity is None
        else "from the purest cluster to the least pure",
        "spanning": spanning,
        "total": int(labels.max(initial=-1)) + 1,
    }


def _name_identity(names: Callable[[int], str] | None, identity: int) -> str:
    return f"identity {identity}" if names is None else names(identity)


def _kind(identity: IntArray | None, row: int, commonest: int | None) -> str:
    if identity is None or commonest is None or identity[row] < 0:
        return "plain"
    return "right" if identity[row] == commonest else "wrong"


def _evenly(count: int, most: int) -> IntArray:
    """Places of at most so many of ``count``, the first and the last among them."""
    places: IntArray = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    return places


def _show_retrieval(snapshot: RetrievalSnapshot) -> dict[str, Any]:
    tile = read_tiles(snapshot.read, np.concatenate([snapshot.query, snapshot.ranked.ravel()]))
    return {
        "task": snapshot.task,
        "caption": snapshot.caption,
        "rows": [
            {
                "query": tile(query),
                "tiles": [
                    (tile(row), "right" if is_right else "wrong")
                    for row, is_right in zip(ranked, right, strict=True)
                    if row >= 0
                ],
            }
            for query, ranked, right in zip(
                snapshot.query.tolist(),
                snapshot.ranked.tolist(),
                snapshot.right.tolist(),
                strict=True,
            )
        ],
    }


def _numpy(value: Any) -> IntArray:
    array: IntArray = to_tensor(value, "labels").cpu().numpy().astype(np.int64)
    return array
