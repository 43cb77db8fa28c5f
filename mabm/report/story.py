"""The story of a run in its first lines: what it trained on, and what each stage changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mabm.report.tables import (
    NONE,
    SCORES,
    Column,
    Entry,
    across,
    change,
    column,
    describe_seconds,
    keys_of,
    name_epoch,
    noise_shares,
    percent,
)

_ARROW: Final = " \N{RIGHTWARDS ARROW} "
_ALL: Final = "all"
_SHOWN: Final = ("rank1", "mAP")
_ACROSS: Final = (
    ("clusters spanning both modalities", "share_spanning"),
    ("pair precision", "pair_precision"),
    ("pair recall", "pair_recall"),
)


@dataclass(frozen=True)
class DataFacts:
    """What a run trains and is tested on.

    Attributes:
        num_train: Number of training images by the name of their modality.
        num_train_identities: Number of training identities; ``None`` where they are not known.
        num_test: Number of test images.
        num_test_identities: Number of test identities.
    """

    num_train: Mapping[str, int]
    num_train_identities: int | None = None
    num_test: int = 0
    num_test_identities: int = 0


@dataclass(frozen=True)
class Milestones:
    """Scores before training and after each stage.

    Attributes:
        heads: Stage and epoch of each column in words.
        has_change: Whether there are two columns or more.
        searches: (search, rows); a row is (score, cells, total change), and a cell is a text in
            percent and its change from the previous column, empty in the first one.
    """

    heads: list[str]
    has_change: bool
    searches: list[tuple[str, list[tuple[str, list[tuple[str, str]], str]]]]


@dataclass(frozen=True)
class StageTable:
    """What happened in each stage: a column for each stage, a row for each fact."""

    heads: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Story:
    """A run in a minute.

    Attributes:
        data: What was trained and tested on, in one sentence; empty where it is not known.
        outcome: What training changed, in one sentence; empty without two evaluations.
        time: How many epochs were trained in which time; empty without a history.
        milestones: Scores before training and after each stage; ``None`` without an evaluation.
        stages: What happened in each stage; ``None`` before the first epoch.
        compares_identities: Whether clusters are compared with identities.
    """

    data: str
    outcome: str
    time: str
    milestones: Milestones | None
    stages: StageTable | None
    compares_identities: bool


def tell_story(history: Sequence[Entry], data: DataFacts | None = None) -> Story:
    """Sums up a run.

    Args:
        history: Entries of all epochs, in order.
        data: What it trains and is tested on; ``None`` where only the history is known.
    """
    shown = _milestones(history)
    return Story(
        _describe_data(data) if data else _describe_clustered(history),
        _describe_outcome(shown),
        _describe_time(history),
        _tabulate_milestones(shown) if shown else None,
        _tabulate_stages(history),
        any(value is not None for value in column(history, "diagnostics", _ALL, "ari")),
    )


def _describe_data(data: DataFacts) -> str:
    images = " and ".join(f"{count:,} {name}" for name, count in data.num_train.items())
    text = f"Trained without labels on {images} images"
    if data.num_train_identities is not None:
        text += (
            f" of {data.num_train_identities:,} identities (used only for the diagnostics on this "
            "page)"
        )
    if not data.num_test:
        return f"{text}. There are no test images."
    return (
        f"{text}. Tested on {data.num_test:,} images of {data.num_test_identities:,} other "
        "identities."
    )


def _describe_clustered(history: Sequence[Entry]) -> str:
    """The images of the first epoch, where the history says how many there were."""
    for entry in history:
        counts = {
            name: facts["num_samples"]
            for name, facts in (entry.get("diagnostics") or {}).items()
            if name != _ALL and facts.get("num_samples")
        }
        if counts:
            images = " and ".join(f"{count:,} {name}" for name, count in counts.items())
            return f"Each epoch clusters {images} images."
    return ""


def _milestones(history: Sequence[Entry]) -> list[Entry]:
    """The last evaluated entry before training, of stage 1, and of stage 2, as far as there are."""
    last: dict[int, Entry] = {}
    for entry in history:
        if entry.get("evaluation"):
            last[entry["stage"]] = entry
    return [last[stage] for stage in sorted(last)]


def _tabulate_milestones(entries: Sequence[Entry]) -> Milestones:
    paths: dict[str, tuple[str, ...]] = {}
    for task in keys_of(entries, "evaluation"):
        paths[task] = "evaluation", task, "mean"
    for modality in keys_of(entries, "within_modality"):
        paths[f"within {modality}"] = "within_modality", modality
    searches = []
    for search, path in paths.items():
        rows = []
        for key in _SHOWN:
            values = column(entries, *path, key)
            if all(value is None for value in values):
                continue
            cells = [
                (percent(value), change(value, earlier))
                for value, earlier in zip(values, [None, *values[:-1]], strict=True)
            ]
            rows.append((SCORES[key], cells, change(values[-1], values[0]) or NONE))
        if rows:
            searches.append((search, rows))
    return Milestones([name_epoch(entry) for entry in entries], len(entries) > 1, searches)


def _describe_outcome(entries: Sequence[Entry]) -> str:
    """The mean average precision of each search at each milestone, in one sentence."""
    if len(entries) < 2:
        return ""
    places = [_place(entry, entry is entries[-1]) for entry in entries]
    parts = []
    for task in keys_of(entries, "evaluation"):
        values = [percent(v) for v in column(entries, "evaluation", task, "mean", "mAP")]
        if NONE not in values:
            texts = [f"{value} % {place}" for value, place in zip(values, places, strict=True)]
            parts.append(f"{task} {', '.join(texts)}")
    return f"Mean average precision (mAP): {'; '.join(parts)}." if parts else ""


def _place(entry: Entry, is_last: bool) -> str:
    if is_last:
        return f"after {name_epoch(entry)}"
    return f"after stage {entry['stage']}" if entry["stage"] else name_epoch(entry)


def _describe_time(history: Sequence[Entry]) -> str:
    trained = [entry for entry in history if entry["stage"] > 0]
    if not trained:
        return ""
    words = "1 epoch" if len(trained) == 1 else f"{len(trained)} epochs"
    seconds = [value for value in column(history, "seconds") if value is not None]
    within = f" in {describe_seconds(sum(seconds))}" if seconds else ""
    return f"{words}{within}, evaluation included."


def _tabulate_stages(history: Sequence[Entry]) -> StageTable | None:
    stages = sorted({entry["stage"] for entry in history if entry["stage"] > 0})
    if not stages:
        return None
    facts = [
        _stage_facts([entry for entry in history if entry["stage"] == stage]) for stage in stages
    ]
    names = dict.fromkeys(name for each in facts for name in each)
    # The order of the last stage, which has the most rows; others follow.
    ordered = [*facts[-1], *(name for name in names if name not in facts[-1])]
    rows = [(name, [each.get(name, NONE) for each in facts]) for name in ordered]
    return StageTable([f"stage {stage}" for stage in stages], rows)


def _stage_facts(entries: Sequence[Entry]) -> dict[str, str]:
    """Facts of one stage by their names, from its first epoch to its last."""
    facts = {"epochs": str(len(entries))}
    seconds = [value for value in column(entries, "seconds") if value is not None]
    if seconds:
        facts["time"] = describe_seconds(sum(seconds))
    for name in keys_of(entries, "losses"):
        facts[f"loss, {name}"] = _from_to(column(entries, "losses", name), "{:.2f}")
    for name in keys_of(entries, "clusters"):
        facts[f"clusters, {name}"] = _from_to(column(entries, "clusters", name), "{:,.0f}")
    if _ALL in keys_of(entries, "diagnostics"):
        facts["images in no cluster, %"] = _from_to(noise_shares(entries, _ALL), "{:.1f}", 100)
        values = {"ARI": column(entries, "diagnostics", _ALL, "ari")}
        values.update((name, across(entries, _ALL, key)) for name, key in _ACROSS)
        for name, shares in values.items():
            if any(share is not None for share in shares):
                facts[f"{name}, %"] = _from_to(shares, "{:.1f}", 100)
    return facts


def _from_to(values: Column, form: str, scale: float = 1) -> str:
    """The first and the last value as text; one of them where they are one or read the same."""
    known: list[Any] = [form.format(scale * value) for value in values if value is not None]
    if not known:
        return NONE
    return known[0] if known[0] == known[-1] else f"{known[0]}{_ARROW}{known[-1]}"
