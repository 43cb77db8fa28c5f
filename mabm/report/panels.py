"""The curves of the report: a panel for each kind of number in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mabm.report.figures import Line, draw_curves, make_lines
from mabm.report.tables import (
    Column,
    Entry,
    across,
    column,
    keys_of,
    name_epoch,
    name_modality,
    neighbor_mixes,
    noise_shares,
    percent,
)

_AGREEMENT: Final = (
    ("ARI", "ari"),
    ("pair precision", "pair_precision"),
    ("pair recall", "pair_recall"),
)


@dataclass(frozen=True)
class Curves:
    """The curves of one panel, before they are drawn.

    Attributes:
        title: What the panel is called.
        caption: What its values are.
        columns: Name of a curve -> a value for each entry of the history, ``None`` without one.
        dashed: Names of the curves with dashed lines.
        percent: Whether the values are shares, written in percent.
        steps: Whether the values are set, and stay until they are set again.
        families: Name of a curve -> its family, whose curves have one color.
    """

    title: str
    caption: str
    columns: Mapping[str, Column]
    dashed: frozenset[str] = field(default_factory=frozenset)
    percent: bool = False
    steps: bool = False
    families: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One drawn panel: its curves as lines of the legend, and as SVG."""

    title: str
    caption: str
    lines: list[Line]
    svg: str


def draw_panels(history: Sequence[Entry], modality_names: Mapping[int, str]) -> list[Panel]:
    """Draws the panels of curves that the history has numbers for.

    Args:
        history: Entries of all epochs, in order.
        modality_names: What each modality is called.
    """
    epochs = count_epochs(history)
    boundaries = stage_boundaries(history, epochs)
    panels = []
    for curves in collect_curves(history, modality_names):
        lines = make_lines(curves.columns, dict.fromkeys(curves.dashed, "dashed"), curves.families)
        if lines:
            drawn = draw_curves(
                lines,
                epochs,
                boundaries,
                label=curves.title,
                percent=curves.percent,
                steps=curves.steps,
            )
            panels.append(Panel(curves.title, curves.caption, lines, drawn))
    return panels


def collect_curves(history: Sequence[Entry], modality_names: Mapping[int, str]) -> list[Curves]:
    """The curves of every panel, in the order of the page, also where the history has none.

    Args:
        history: Entries of all epochs, in order.
        modality_names: What each modality is called.
    """
    return [
        _losses(history),
        _retrieval(history),
        _retrieval_within(history),
        _clusters(history),
        _agreement(history),
        _spanning(history),
        _crossing(history, modality_names),
        _learning_rate(history),
    ]


def count_epochs(history: Sequence[Entry]) -> list[int]:
    """Epochs trained up to each entry; the one before training counts none."""
    epochs, trained = [], 0
    for entry in history:
        trained += entry["stage"] > 0
        epochs.append(trained)
    return epochs


def stage_boundaries(history: Sequence[Entry], epochs: Sequence[int]) -> dict[float, str]:
    """Where each stage begins on the axis of epochs, and its name."""
    boundaries: dict[float, str] = {}
    for i, entry in enumerate(history):
        if entry["stage"] > 0 and (i == 0 or history[i - 1]["stage"] != entry["stage"]):
            boundaries[epochs[i] - 0.5] = f"stage {entry['stage']}"
    return boundaries


def _losses(history: Sequence[Entry]) -> Curves:
    columns = {key: column(history, "losses", key) for key in keys_of(history, "losses")}
    return Curves("Losses", "Mean over the iterations of the epoch; no unit.", columns)


def _retrieval(history: Sequence[Entry]) -> Curves:
    columns = {
        f"{task} {name}": column(history, "evaluation", task, "mean", key)
        for task in keys_of(history, "evaluation")
        for key, name in (("rank1", "R1"), ("mAP", "mAP"))
    }
    return Curves(
        "Retrieval",
        "Rank-1 (R1) and mean average precision (mAP) of searches across modalities, in percent; "
        "of several trials the mean.",
        columns,
        dashed=frozenset(name for name in columns if name.endswith("mAP")),
        percent=True,
        families={name: name.rpartition(" ")[0] for name in columns},
    )


def _retrieval_within(history: Sequence[Entry]) -> Curves:
    columns = {
        f"{modality} {name}": column(history, "within_modality", modality, key)
        for modality in keys_of(history, "within_modality")
        for key, name in (("rank1", "R1"), ("mAP", "mAP"))
    }
    return Curves(
        "Retrieval within a modality",
        "Test images searched among images of their own modality from other cameras, in percent.",
        columns,
        dashed=frozenset(name for name in columns if name.endswith("mAP")),
        percent=True,
        families={name: name.rpartition(" ")[0] for name in columns},
    )


def _clusters(history: Sequence[Entry]) -> Curves:
    columns = {key: column(history, "clusters", key) for key in keys_of(history, "clusters")}
    return Curves("Clusters", "Number of clusters found at the start of the epoch.", columns)


def _agreement(history: Sequence[Entry]) -> Curves:
    columns = {
        f"{name}, {clustering}": across(history, clustering, key)
        if key.startswith("pair")
        else column(history, "diagnostics", clustering, key)
        for name, key in _AGREEMENT
        for clustering in keys_of(history, "diagnostics")
    }
    return Curves(
        "Agreement of clusters with identities",
        "In percent. Pairs are of one visible and one infrared image: precision is the share of "
        "right ones among pairs in one cluster, recall the share of right pairs that are in one "
        "cluster. Training does not use identities.",
        columns,
        dashed=frozenset(name for name in columns if name.startswith("ARI")),
        percent=True,
    )


def _spanning(history: Sequence[Entry]) -> Curves:
    clusterings = keys_of(history, "diagnostics")
    noise = {
        f"noise, {clustering}": noise_shares(history, clustering) for clustering in clusterings
    }
    spanning = {
        f"clusters spanning, {clustering}": across(history, clustering, "share_spanning")
        for clustering in clusterings
    }
    return Curves(
        "Noise and spanning clusters",
        "In percent. Noise: images in no cluster. Spanning: clusters with images of every "
        "modality.",
        {**noise, **spanning},
        dashed=frozenset(noise),
        percent=True,
    )


def _crossing(history: Sequence[Entry], modality_names: Mapping[int, str]) -> Curves:
    columns: dict[str, Column] = {}
    for i, mix in enumerate(neighbor_mixes(history)):
        for row, modality in enumerate(mix[0] if mix else ()):
            shares = mix[1][row] if mix else None
            if shares is not None:
                name = f"of {name_modality(modality, modality_names)}"
                columns.setdefault(name, [None] * len(history))[i] = 1 - shares[row]
    return Curves(
        "Neighbors in another modality",
        "Share of an image's nearest neighbors whose modality is not its own, in percent.",
        columns,
        percent=True,
    )


def _learning_rate(history: Sequence[Entry]) -> Curves:
    return Curves(
        "Learning rate",
        "Of each epoch, on a logarithmic axis; no unit.",
        {"learning rate": column(history, "learning_rate")},
        steps=True,
    )


def tabulate_last_mix(
    history: Sequence[Entry], modality_names: Mapping[int, str]
) -> dict[str, Any] | None:
    """The last known mix of modalities among the nearest neighbors, as a table in text.

    Args:
        history: Entries of all epochs, in order.
        modality_names: What each modality is called.

    Returns:
        ``epoch``, ``heads`` and ``rows`` (name, texts in percent), or ``None`` where no entry has
        a mix.
    """
    mixes = zip(history, neighbor_mixes(history), strict=True)
    known = [(name_epoch(entry), *mix) for entry, mix in mixes if mix]
    if not known:
        return None
    epoch, modalities, rows = known[-1]
    heads = [name_modality(modality, modality_names) for modality in modalities]
    texts = [[percent(share) for share in row or [None] * len(heads)] for row in rows]
    return {"epoch": epoch, "heads": heads, "rows": list(zip(heads, texts, strict=True))}
