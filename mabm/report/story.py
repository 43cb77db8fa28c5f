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
_AGREEMENT: Final = (
    ("ARI", "ari"),
    ("clusters spanning both modalities", "share_spanning"),
    ("pair precision", "pair_precision"),
    ("pair recall", "pair_recall"),
)
_ACROSS: Final = ("share_spanning", "pair_precision", "pair_recall")


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
        rows: (search, score, cells, total change), where a cell is a text in percent and its change
            from the column before, empty in the first one.
    """

    heads: list[str]
    rows: list[tuple[str, str, list[tuple[str, str]], str]]


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
    """

    data: str
    outcome: str
    time: str
    milestones: Milestones | None
    stages: StageTable | None


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
    )


def _describe_data(data: DataFacts) -> str:
    images = " and ".join(f"{count:,} {name}" for name, count in data.num_train.items())
    text = f"Trained without labels on {images} images"
    if data.num_train_identities is not None:
        text += (
            f" of {data.num_train_identities:,} identities, which only the diagnostics on this page "
            "use"
        )
    if not data.num_test:
        return f"{text}; no test images."
    return f"{text}; tested on {data.num_test:,} images of {data.num_test_identities:,} others."


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
            return f"An epoch clusters {images} images."
    return ""


def _milestones(history: Sequence[Entry]) -> list[Entry]:
    """The last evaluated entry before training, of stage 1, and of stage 2, as far as there are."""
    last: dict[int, Entry] = {}
    for entry in history:
        if entry.get("evaluation"):
            last[entry["stage"]] = entry
    return [last[stage] for stage in sorted(last)]


def _score_rows(entries: Sequence[Entry]) -> list[tuple[str, str, Column]]:
    """Search, score and values of each row that has any."""
    rows = [
        (task, SCORES[key], column(entries, "evaluation", task, "mean", key))
        for task in keys_of(entries, "evaluation")
        for key in _SHOWN
    ]
    rows += [
        (f"within {modality}", SCORES[key], column(entries, "within_modality", modality, key))
        for modality in keys_of(entries, "within_modality")
        for key in _SHOWN
    ]
    return [row for row in rows if any(value is not None for value in row[2])]


def _tabulate_milestones(entries: Sequence[Entry]) -> Milestones:
    rows = []
    for search, score, values in _score_rows(entries):
        before: Column = [None, *values[:-1]]
        cells = [
            (percent(value), change(value, earlier))
            for value, earlier in zip(values, before, strict=True)
        ]
        rows.append((search, score, cells, change(values[-1], values[0]) or NONE))
    return Milestones([name_epoch(entry) for entry in entries], rows)


def _describe_outcome(entries: Sequence[Entry]) -> str:
    """How the mean average precision of each search changed, in one sentence."""
    parts = []
    for task in keys_of(entries, "evaluation"):
        values = column(entries, "evaluation", task, "mean", "mAP")
        first, last = values[0], values[-1]
        if first is None or last is None:
            continue
        texts = percent(first), percent(last)
        verb = "stayed at" if texts[0] == texts[1] else "rose" if last > first else "fell"
        span = f"{texts[0]} %" if texts[0] == texts[1] else f"from {texts[0]} % to {texts[1]} %"
        parts.append(f"{verb} {span} ({task})")
    if len(entries) < 2 or not parts:
        return ""
    return (
        f"From {_place(entries[0])} to {_place(entries[-1])}, mean average precision (mAP) "
        f"{' and '.join(parts)}."
    )


def _place(entry: Entry) -> str:
    return name_epoch(entry) if entry["stage"] else "the start"


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
        spans = any(column(entries, "diagnostics", _ALL, "share_spanning"))
        for name, key in _AGREEMENT:
            values = column(entries, "diagnostics", _ALL, key)
            if (spans or key not in _ACROSS) and any(value is not None for value in values):
                facts[f"{name}, %"] = _from_to(values, "{:.1f}", 100)
    return facts


def _from_to(values: Column, form: str, scale: float = 1) -> str:
    """The first and the last value as text; one of them where they are one or read the same."""
    known: list[Any] = [form.format(scale * value) for value in values if value is not None]
    if not known:
        return NONE
    return known[0] if known[0] == known[-1] else f"{known[0]}{_ARROW}{known[-1]}"
