"""The numbers of the report: results, the table of epochs, and the columns of its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Entry = Mapping[str, Any]
Column = list[float | None]

NONE: Final = "\N{EN DASH}"
_GLOBAL: Final = "global"  # what the history calls the clusters of all images
SCORES: Final = {
    "rank1": "R1",
    "rank5": "R5",
    "rank10": "R10",
    "rank20": "R20",
    "mAP": "mAP",
    "mINP": "mINP",
}
"""Scores by their keys in the history, and what tables call them."""


@dataclass(frozen=True)
class ResultRow:
    """Scores of one task at one epoch.

    Attributes:
        task: Name of the task.
        epoch: Stage and epoch in words.
        scores: (name, text) in the order of :attr:`Results.score_names`.
        is_result: Whether this is the result, and not the best epoch.
    """

    task: str
    epoch: str
    scores: tuple[tuple[str, str], ...]
    is_result: bool


@dataclass(frozen=True)
class Results:
    """Results of a run, as rows of a table and as text.

    Attributes:
        score_names: Heads of the columns.
        rows: For each task the result, and the best epoch where that is another one.
        line: The result in one line; empty without an evaluation.
        best_line: The best epoch in one line, with a note that the test set selected it; empty
            where it is the last evaluated one.
    """

    score_names: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    line: str
    best_line: str


def name_epoch(entry: Entry) -> str:
    """Stage and epoch of an entry in words."""
    if entry["stage"] == 0:
        return "before training"
    return f"stage {entry['stage']}, epoch {entry['epoch']}"


def name_modality(modality: int, names: Mapping[int, str]) -> str:
    """Returns the name of a modality, or its number if it has no name."""
    return names.get(modality, f"modality {modality}")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign; a dash for none."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def change(value: float | None, earlier: float | None) -> str:
    """By how many percentage points a share changed; empty where one of the two is missing."""
    if value is None or earlier is None:
        return ""
    return f"{100 * (value - earlier):+.1f}".replace("-", "\N{MINUS SIGN}")


def _with_sign(value: float | None) -> str:
    return f"{percent(value)}\N{NO-BREAK SPACE}%"


def collect_results(history: Sequence[Entry], *, goes_on: bool = False) -> Results:
    """The scores of the last evaluated epoch, the result, and those of the best epoch.

    Args:
        history: Entries of all epochs, in order.
        goes_on: Whether more epochs will follow.
    """
    evaluated = [entry for entry in history if entry.get("evaluation")]
    if not evaluated:
        return Results((), (), "", "")
    last = evaluated[-1]
    # Ties go to the earlier epoch.
    best = max(evaluated, key=_mean_rank1)
    names = [key for key in SCORES if any(key in _mean(last, task) for task in last["evaluation"])]
    rows = []
    for task in last["evaluation"]:
        rows.append(ResultRow(task, name_epoch(last), _texts(last, task, names), True))
        if best is not last and task in best["evaluation"]:
            rows.append(ResultRow(task, name_epoch(best), _texts(best, task, names), False))
    which = "Last epoch" if last is history[-1] else "Last evaluated epoch"
    line = f"{'So far' if goes_on else which} ({name_epoch(last)}): "
    best_line = ""
    if best is not last:
        best_line = (
            f"For reference only: selected on the test set, {name_epoch(best)} is best: "
            f"{_in_words(best)}"
        )
    return Results(
        tuple(SCORES[key] for key in names), tuple(rows), line + _in_words(last), best_line
    )


def _mean(entry: Entry, task: str) -> Mapping[str, float]:
    mean: Mapping[str, float] = entry["evaluation"][task]["mean"]
    return mean


def _mean_rank1(entry: Entry) -> float:
    values = [_mean(entry, task).get("rank1") or 0.0 for task in entry["evaluation"]]
    return sum(values) / len(values)


def _texts(entry: Entry, task: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    scores = entry["evaluation"][task]
    has_trials = len(scores.get("trials") or ()) > 1
    texts = []
    for key in names:
        text = percent(scores["mean"].get(key))
        if has_trials and text != NONE:
            text += f" \N{PLUS-MINUS SIGN} {percent(scores['std'].get(key))}"
        texts.append((SCORES[key], text))
    return tuple(texts)


def _in_words(entry: Entry) -> str:
    parts = []
    for task in entry["evaluation"]:
        mean = _mean(entry, task)
        told = [f"{SCORES[key]} {_with_sign(mean[key])}" for key in ("rank1", "mAP") if key in mean]
        parts.append(f"{task} {', '.join(told)}")
    return "; ".join(parts)


def column(history: Sequence[Entry], *keys: str) -> Column:
    """One number of every entry, at a path of keys; ``None`` where there is none."""
    values: Column = []
    for entry in history:
        value: Any = entry
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        values.append(float(value) if is_number else None)
    return values


def across(history: Sequence[Entry], clustering: str, key: str) -> Column:
    """A number on clusters across modalities; ``None`` in epochs that are known to have none.

    Args:
        history: Entries of all epochs, in order.
        clustering: Which clustering, a key of ``diagnostics``.
        key: Which number of it.
    """
    values = column(history, "diagnostics", clustering, key)
    return [
        None if entry.get("clusters") and _GLOBAL not in entry["clusters"] else value
        for entry, value in zip(history, values, strict=True)
    ]


def keys_of(history: Sequence[Entry], *path: str) -> list[str]:
    """Keys below a path in any entry, in the order of their first occurrence."""
    found: dict[str, None] = {}
    for entry in history:
        value: Any = entry
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            found.update(dict.fromkeys(value))
    return list(found)


def flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by their keys, joined by dots and preceded by ``above``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found.update(flatten(value, f"{above}{key}."))
        else:
            found[f"{above}{key}"] = value
    return found


def neighbor_mixes(history: Sequence[Entry]) -> list[tuple[list[int], list[Any]] | None]:
    """Modalities and neighbor mix of every entry, from its first clustering across modalities."""
    found: list[tuple[list[int], list[Any]] | None] = []
    for entry in history:
        mixes = [
            (facts["modalities"], facts["neighbor_mix"])
            for facts in (entry.get("diagnostics") or {}).values()
            if facts.get("neighbor_mix") and len(facts["modalities"]) > 1
        ]
        found.append(mixes[0] if mixes else None)
    return found


@dataclass(frozen=True)
class EpochTable:
    """All epochs as text.

    Attributes:
        groups: (name, number of columns) of each group of columns.
        starts: Columns that a group begins with; stage and epoch are columns 0 and 1.
        heads: Heads of the columns, without stage and epoch.
        rows: Cells of each epoch, beginning with stage and epoch.
    """

    groups: tuple[tuple[str, int], ...]
    starts: frozenset[int]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tabulate_epochs(history: Sequence[Entry]) -> EpochTable:
    """Tabulates the numbers of every epoch; columns without any number are left out."""
    groups: list[tuple[str, list[tuple[str, list[str]]]]] = []

    def add(group: str, columns: Mapping[str, Column], form: str, scale: float = 1) -> None:
        shown = [
            (head, [NONE if value is None else format(scale * value, form) for value in values])
            for head, values in columns.items()
            if any(value is not None for value in values)
        ]
        if shown:
            groups.append((group, shown))

    add("time", {"seconds": column(history, "seconds")}, ".1f")
    for task in keys_of(history, "evaluation"):
        scores = {
            SCORES[key]: column(history, "evaluation", task, "mean", key)
            for key in ("rank1", "mAP")
        }
        add(f"{task}, %", scores, ".1f", 100)
    within = keys_of(history, "within_modality")
    scores = {
        f"{modality} {SCORES[key]}": column(history, "within_modality", modality, key)
        for modality in within
        for key in ("rank1", "mAP")
    }
    add("within a modality, %", scores, ".1f", 100)
    add("losses", {k: column(history, "losses", k) for k in keys_of(history, "losses")}, ".3f")
    add(
        "clusters",
        {k: column(history, "clusters", k) for k in keys_of(history, "clusters")},
        ",.0f",
    )
    for clustering in keys_of(history, "diagnostics"):
        facts = {
            head: column(history, "diagnostics", clustering, key)
            for head, key in (
                ("spanning", "share_spanning"),
                ("ARI", "ari"),
                ("pair precision", "pair_precision"),
                ("pair recall", "pair_recall"),
            )
        }
        facts = {"noise": noise_shares(history, clustering), **facts}
        add(f"{clustering}, %", facts, ".1f", 100)
    add("optimizer", {"learning rate": column(history, "learning_rate")}, ".3g")
    columns = [texts for _, shown in groups for _, texts in shown]
    rows = [
        (str(entry["stage"]), str(entry["epoch"]), *(texts[place] for texts in columns))
        for place, entry in enumerate(history)
    ]
    return EpochTable(
        groups=tuple((name, len(shown)) for name, shown in groups),
        starts=frozenset(
            2 + sum(len(shown) for _, shown in groups[:place]) for place in range(len(groups))
        ),
        heads=tuple(head for _, shown in groups for head, _ in shown),
        rows=tuple(rows),
    )


def noise_shares(history: Sequence[Entry], clustering: str) -> Column:
    """Share of samples in no cluster, epoch by epoch."""
    noise, total = (
        column(history, "diagnostics", clustering, key) for key in ("num_noise", "num_samples")
    )
    return [
        None if part is None or not whole else part / whole
        for part, whole in zip(noise, total, strict=True)
    ]


def describe_seconds(seconds: float) -> str:
    """A time in words of two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def summarize(history: Sequence[Entry]) -> list[tuple[str, str]]:
    """Key facts of the run, (name, value), from its last entry."""
    if not history:
        return []
    last = history[-1]
    trained = sum(entry["stage"] > 0 for entry in history)
    facts = [("epochs", str(trained))]
    seconds = [value for value in column(history, "seconds") if value is not None]
    if seconds:
        facts.append(("time", describe_seconds(sum(seconds))))
    if last.get("diagnostics"):
        *_, diagnosis = last["diagnostics"].values()
        facts.append(("images", f"{diagnosis['num_samples']:,}"))
        facts.append(("clusters", f"{diagnosis['num_clusters']:,}"))
        for name, key in (
            ("spanning", "share_spanning"),
            ("ARI", "ari"),
            ("pair precision", "pair_precision"),
            ("pair recall", "pair_recall"),
        ):
            if diagnosis.get(key) is not None:
                facts.append((name, _with_sign(diagnosis[key])))
    return facts
