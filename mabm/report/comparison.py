"""Several runs side by side: one HTML page with their scores, settings and curves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mabm._core.files import write_text
from mabm._core.modalities import MODALITY_NAMES
from mabm.report.figures import Line, draw_curves, line_of_run
from mabm.report.folders import shorten
from mabm.report.page import COMPARISON, render, require_packages
from mabm.report.panels import Curves, collect_curves, count_epochs, stage_boundaries
from mabm.report.tables import (
    NONE,
    SCORES,
    Entry,
    change,
    column,
    flatten,
    keys_of,
    name_epoch,
    percent,
    summarize,
)

_MISSING: Final = object()


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that a page compares.

    Attributes:
        name: What the page calls it; no two runs have one name.
        history: Entries of its epochs so far, in order.
        settings: Its configuration as nested dictionaries or by dotted names; empty where it is
            not known.
        environment: Versions and hardware as name -> text; empty where they are not known.
        is_finished: Whether its training is over.
    """

    name: str
    history: Sequence[Entry]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_finished: bool = True


@dataclass(frozen=True)
class Panel:
    """One number of all runs, drawn over their epochs."""

    title: str
    svg: str


@dataclass(frozen=True)
class PanelGroup:
    """Panels of one kind."""

    title: str
    caption: str
    panels: list[Panel]


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one run: (text, difference from the first run or nothing) by column."""

    name: str
    epoch: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all runs.

    Attributes:
        title: At which epoch.
        groups: (name, number of columns) of each group of columns.
        starts: Columns that a group begins with, without run and epoch.
        heads: Heads of the columns, without run and epoch.
        rows: A row for each run.
    """

    title: str
    groups: list[tuple[str, int]]
    starts: set[int]
    heads: list[str]
    rows: list[ScoreRow]


def write_comparison(path: str | os.PathLike[str], runs: Sequence[ComparedRun]) -> Path:
    """Writes one self-contained page on several runs, finished or not.

    It shows the scores of each run's last evaluated epoch, with differences from the first run;
    where these are not the same epoch, also those of the last epoch that all have evaluated. Then
    the settings that differ, and every number of the history as one panel with a curve for each
    run. Epochs are counted from the start of training. An older page is replaced in one step.

    Args:
        path: The file to write.
        runs: At least two, the one to compare with first.

    Returns:
        ``path``.

    Raises:
        ImportError: If jinja2, matplotlib or Pillow is missing; raised before any work.
        OSError: If the file cannot be written.
        ValueError: If there are fewer than two runs, or two have one name.
    """
    require_packages()
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"runs must be two or more with names of their own, got {names}")
    legend = [line_of_run(place, name) for place, name in enumerate(names)]
    known = [flatten(run.settings) for run in runs]
    page = render(
        "comparison.html.jinja",
        kind=COMPARISON,
        title=", ".join(names),
        legend=legend,
        facts=_tabulate_facts(runs, legend),
        scores=_tabulate_scores(runs),
        settings=_differing(known),
        has_settings=sum(map(bool, known)) > 1,
        environment=_differing([run.environment for run in runs]),
        groups=_draw_groups(runs, legend),
    )
    target = Path(path)
    write_text(target, page)
    return target


def _differing(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys whose values differ, each with the texts of all values; empty tables do not count."""
    known = [table for table in tables if table]
    keys = dict.fromkeys(key for table in known for key in table)
    return [
        (key, _tell_apart([_as_lists(table.get(key, _MISSING)) for table in tables]))
        for key in keys
        if any(
            _as_lists(table.get(key, _MISSING)) != _as_lists(known[0].get(key, _MISSING))
            for table in known
        )
    ]


def _as_lists(value: Any) -> Any:
    """Tuples as lists: they are one kind in a file."""
    return list(map(_as_lists, value)) if isinstance(value, list | tuple) else value


def _tell_apart(values: Sequence[Any]) -> list[str]:
    """Texts of values: of paths to elsewhere, as many of the last parts as tell them apart."""
    whole = [_in_words(value) for value in values]
    num_different = len(set(whole))
    texts: list[str] = []
    for num_parts in range(1, 1 + max(map(len, whole))):
        texts = [_in_words(_shorten_within(value, num_parts)) for value in values]
        if len(set(texts)) == num_different:
            break
    return texts


def _shorten_within(value: Any, num_parts: int) -> Any:
    if isinstance(value, list):
        return [_shorten_within(each, num_parts) for each in value]
    return shorten(value, num_parts) if isinstance(value, str) else value


def _in_words(value: object) -> str:
    if value is _MISSING:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _tabulate_facts(runs: Sequence[ComparedRun], legend: Sequence[Line]) -> dict[str, Any]:
    """What :func:`summarize` says of each run, and how far it is."""
    facts = []
    for run in runs:
        last = name_epoch(run.history[-1]) if run.history else NONE
        state = "finished" if run.is_finished else "not finished"
        facts.append({"training": state, "last epoch": last, **dict(summarize(run.history))})
    heads = list(dict.fromkeys(name for each in facts for name in each))
    rows = [
        (line, [each.get(head, NONE) for head in heads])
        for line, each in zip(legend, facts, strict=True)
    ]
    return {"heads": heads, "rows": rows}


def _tabulate_scores(runs: Sequence[ComparedRun]) -> list[ScoreTable]:
    """Scores at the last evaluated epoch of each run, and at the last one that all have."""
    evaluated = [
        {(each["stage"], each["epoch"]): each for each in run.history if each.get("evaluation")}
        for run in runs
    ]
    last = [max(each, default=None) for each in evaluated]
    if not any(last):
        return []
    found = [_table_at("Last evaluated epoch of each", runs, evaluated, last)]
    shared = set.intersection(*(set(each) for each in evaluated))
    if len(set(last)) > 1 and shared:
        title = "Last epoch that all have evaluated"
        found.append(_table_at(title, runs, evaluated, [max(shared)] * len(runs)))
    return found


def _table_at(
    title: str,
    runs: Sequence[ComparedRun],
    evaluated: Sequence[Mapping[tuple[int, int], Entry]],
    places: Sequence[tuple[int, int] | None],
) -> ScoreTable:
    entries: list[Entry] = [
        {} if place is None else each[place] for each, place in zip(evaluated, places, strict=True)
    ]
    columns = []
    for group, head, path in _score_paths(entries):
        values = column(entries, *path)
        if any(value is not None for value in values):
            columns.append((group, head, values))
    heads = [group for group, _, _ in columns]
    rows = []
    for place, (run, entry) in enumerate(zip(runs, entries, strict=True)):
        cells = [
            (percent(values[place]), change(values[place], values[0]) if place else "")
            for _, _, values in columns
        ]
        rows.append(ScoreRow(run.name, name_epoch(entry) if entry else NONE, cells))
    return ScoreTable(
        title,
        [(group, heads.count(group)) for group in dict.fromkeys(heads)],
        {heads.index(group) for group in heads},
        [head for _, head, _ in columns],
        rows,
    )


def _score_paths(entries: Sequence[Entry]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Group, head and path of keys of each column."""
    return [
        *(
            (task, SCORES[key], ("evaluation", task, "mean", key))
            for task in keys_of(entries, "evaluation")
            for key in ("rank1", "mAP", "mINP")
        ),
        *(
            (f"within {modality}", SCORES[key], ("within_modality", modality, key))
            for modality in keys_of(entries, "within_modality")
            for key in ("rank1", "mAP")
        ),
    ]


def _draw_groups(runs: Sequence[ComparedRun], legend: Sequence[Line]) -> list[PanelGroup]:
    """Draws each number of the histories as a panel, with a curve for each run that has it."""
    counts = [count_epochs(run.history) for run in runs]
    epochs = sorted({epoch for each in counts for epoch in each})
    boundaries = _shared_boundaries(runs, counts)
    collected = [collect_curves(run.history, MODALITY_NAMES) for run in runs]
    losses, *others = zip(*collected, strict=True)
    groups = []
    for kind in (*others, losses):  # what a run is for comes before what it minimizes
        first = kind[0]
        panels = []
        for name in dict.fromkeys(name for curves in kind for name in curves.columns):
            lines = _lines(name, kind, counts, epochs, legend)
            if lines:
                svg = draw_curves(
                    lines,
                    epochs,
                    boundaries,
                    label=f"{first.title}: {name}",
                    percent=first.percent,
                    steps=first.steps,
                )
                panels.append(Panel(name, svg))
        if panels:
            groups.append(PanelGroup(first.title, first.caption, panels))
    return groups


def _lines(
    name: str,
    kind: Sequence[Curves],
    counts: Sequence[Sequence[int]],
    epochs: Sequence[int],
    legend: Sequence[Line],
) -> list[Line]:
    """The curves of one number, on the epochs of all runs."""
    lines = []
    for place, (curves, counted) in enumerate(zip(kind, counts, strict=True)):
        known = dict(zip(counted, curves.columns.get(name, ()), strict=False))
        found = [known.get(epoch) for epoch in epochs]
        values = np.array([np.nan if value is None else value for value in found], dtype=float)
        if np.isfinite(values).any():
            lines.append(line_of_run(place, legend[place].name, values))
    return lines


def _shared_boundaries(
    runs: Sequence[ComparedRun], counts: Sequence[Sequence[int]]
) -> dict[float, str]:
    """Where a stage begins, if it begins there in every run that has come to it."""
    begins: dict[str, set[float]] = {}
    for run, counted in zip(runs, counts, strict=True):
        for place, name in stage_boundaries(run.history, counted).items():
            begins.setdefault(name, set()).add(place)
    return {places.pop(): name for name, places in begins.items() if len(places) == 1}
