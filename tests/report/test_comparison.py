"""Runs side by side: what differs between them, and all numbers that they have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_parts import Page

from mabm.report.comparison import ComparedRun, write_comparison
from mabm.report.page import COMPARISON, PARTIAL, has_mark

EVIL = "<b>&\"'{{ 1 }}"


def entry(stage: int, epoch: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, "seconds": 60.0, **more}


def found(rank1: float) -> dict[str, Any]:
    return {"there": {"mean": {"rank1": rank1, "mAP": rank1 / 2}}}


def within(rank1: float) -> dict[str, Any]:
    return {"visible": {"rank1": rank1, "mAP": rank1 / 4}}


FIRST = [
    entry(0, 0, evaluation=found(0.25), within_modality=within(0.5)),
    entry(1, 1, losses={"visible": 2.0}, learning_rate=0.001),
    entry(2, 1, evaluation=found(0.5), within_modality=within(0.625), clusters={"global": 7}),
]
SECOND = [
    entry(0, 0, evaluation=found(0.125), within_modality=within(0.75)),
    entry(1, 1, losses={"visible": 3.0}, learning_rate=0.002),
]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Page]:
    def write(*runs: ComparedRun) -> Page:
        path = write_comparison(tmp_path / "c.html", runs)
        assert has_mark(path, COMPARISON)
        assert not has_mark(path, PARTIAL)
        text = path.read_text(encoding="utf-8")
        assert "http" not in text
        return Page(text)

    return write


def test_scores_are_those_of_the_last_evaluated_epoch_and_of_the_shared_one(
    written: Callable[..., Page],
) -> None:
    page = written(ComparedRun("one", FIRST), ComparedRun("two", SECOND, is_finished=False))
    minus = "\N{MINUS SIGN}"
    assert (
        "Last evaluated epoch of each there within visible run epoch R1 mAP R1 mAP "
        "one stage 2, epoch 1 50.0 25.0 62.5 15.6 "
        f"two before training 12.5 {minus}37.5 6.2 {minus}18.8 75.0 +12.5 18.8 +3.1"
    ) in page.text
    assert (
        "Last epoch that all have evaluated there within visible run epoch R1 mAP R1 mAP "
        "one before training 25.0 12.5 50.0 12.5 "
        f"two before training 12.5 {minus}12.5 6.2 {minus}6.2 75.0 +25.0 18.8 +6.2"
    ) in page.text
    assert "one finished stage 2, epoch 1 2 3 min 0 s" in page.text
    assert "two not finished stage 1, epoch 1 1 2 min 0 s" in page.text
    same = written(ComparedRun("one", FIRST), ComparedRun("two", FIRST))
    assert "Last epoch that all have evaluated" not in same.text


def test_every_number_is_a_panel_with_a_curve_for_each_run(written: Callable[..., Page]) -> None:
    page = written(ComparedRun("one", FIRST), ComparedRun("two", SECOND))
    labels = page.attributes("svg", "aria-label")
    assert labels == [
        "Retrieval: there R1",
        "Retrieval: there mAP",
        "Retrieval within a modality: visible R1",
        "Retrieval within a modality: visible mAP",
        "Clusters: global",
        "Learning rate: learning rate",
        "Losses: visible",
    ]
    # Marks of the points: two evaluations of the first run and one of the second, and so on.
    assert len(page.attributes("use", "href")) == 4 * (2 + 1) + 1 + (1 + 1) + (1 + 1)
    assert "1e-3" in page.text
    assert "2e-3" in page.text


def test_settings_that_differ_are_listed(written: Callable[..., Page]) -> None:
    settings = {"data": {"name": "emoji_xm"}, "stage1": {"lr": 0.001, "steps": [1, 2]}}
    other = {"data": {"name": "emoji_xm", "trial": 3}, "stage1": {"lr": 0.002, "steps": [1, 2]}}
    runs = ComparedRun("one", FIRST, settings, {"torch": "1", "Python": "3"})
    page = written(runs, ComparedRun("two", SECOND, other, {"torch": "2", "Python": "3"}))
    assert "setting one two stage1.lr 0.001 0.002 data.trial \N{EN DASH} 3" in page.text
    assert "emoji_xm" not in page.text
    assert "steps" not in page.text
    assert "Environment one two torch 1 2" in page.text
    assert "Python" not in page.text
    equal = written(runs, ComparedRun("two", SECOND, settings))
    assert "All settings are equal." in equal.text
    assert "Environment" not in equal.text
    assert (
        "Fewer than two runs have a configuration."
        in written(runs, ComparedRun("two", SECOND)).text
    )


@pytest.mark.parametrize(
    ("one", "two", "shown"),
    [
        ("/mnt/v1/RegDB", "/mnt/v2_cleaned/RegDB", "…/v1/RegDB …/v2_cleaned/RegDB"),
        ("/home/ada/RegDB", "/home/ada/SYSU", "…/RegDB …/SYSU"),
        ("/home/o'brien/RegDB", "RegDB", "…/RegDB RegDB"),
        (["/home/ada/RegDB"], ["$HOME/LLCM"], '["…/RegDB"] ["…/LLCM"]'),
    ],
)
def test_paths_are_shortened_but_told_apart(
    one: object, two: object, shown: str, written: Callable[..., Page]
) -> None:
    page = written(
        *(
            ComparedRun(name, FIRST, {"data": {"root": value}})
            for name, value in (("one", one), ("two", two))
        )
    )
    assert f"setting one two data.root {shown}" in page.text
    for hidden in ("/mnt", "/home", "$HOME"):
        assert hidden not in page.text


def test_a_tuple_is_the_list_of_its_values(written: Callable[..., Page]) -> None:
    page = written(
        ComparedRun("one", FIRST, {"stage1.steps": (1, 2)}),
        ComparedRun("two", SECOND, {"stage1": {"steps": [1, 2]}}),
    )
    assert "All settings are equal." in page.text


def test_stages_are_marked_where_they_begin_in_all_runs(written: Callable[..., Page]) -> None:
    longer = [*SECOND, entry(1, 2, losses={"visible": 1.0}), entry(2, 1, losses={"visible": 1.0})]
    first = [*FIRST[1:], entry(2, 2, losses={"visible": 1.0})]
    page = written(ComparedRun("one", first), ComparedRun("two", longer))
    assert "stage 1" in page.text.partition("Losses visible")[2]
    assert "stage 2" not in page.text.partition("Losses visible")[2]


def test_runs_that_have_nothing_yet(written: Callable[..., Page]) -> None:
    page = written(ComparedRun(EVIL, []), ComparedRun("two", [entry(1, 1)], {EVIL: {EVIL: EVIL}}))
    assert "Scores" not in page.text
    assert not page.attributes("svg", "aria-label")
    evil = [entry(1, 1, losses={EVIL: 1.0}, evaluation={EVIL: found(0.5)["there"]})]
    page = written(
        ComparedRun(EVIL, evil, {EVIL: {EVIL: EVIL}}), ComparedRun("two", SECOND, {"a": {"b": 1}})
    )
    assert page.text.count(" ".join(EVIL.split())) > 8


@pytest.mark.parametrize("names", [("one",), ("one", "one"), ()])
def test_runs_need_names_of_their_own(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more with names of their own, got"):
        write_comparison(tmp_path / "c.html", [ComparedRun(name, FIRST) for name in names])
    assert not list(tmp_path.iterdir())
