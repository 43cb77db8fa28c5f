"""``mabm report``: where pages and tables go, what they do not replace, and what they hold."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run, refused
from page_parts import Page

from mabm.report.page import write_report

pytestmark = pytest.mark.needs("jinja2", "matplotlib", "PIL", "pydantic", "tqdm")


def entry(stage: int, epoch: int, rank1: float) -> dict[str, Any]:
    scores = {"there": {"trials": [0], "mean": {"rank1": rank1, "mAP": rank1 / 2}}}
    return {"stage": stage, "epoch": epoch, "evaluation": scores, "seconds": 1.5}


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the folder of a run, in the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, rank1: float, eps: float = 0.6) -> Path:
        folder = Path(name)
        folder.mkdir(parents=True)
        entries = [entry(0, 0, rank1 / 2), entry(1, 1, rank1)]
        lines = "".join(json.dumps(each) + "\n" for each in entries)
        (folder / "history.jsonl").write_text(lines + '{"stage": 1, "ep')  # a line being written
        (folder / "config.toml").write_text(f"[clustering]\neps = {eps}\nk1 = 30\n")
        (folder / "environment.json").write_text('{"torch": "9.9"}')
        return folder

    return make


def test_one_run_gets_its_page(run: Run, make_run: Callable[..., Path]) -> None:
    folder = make_run("runs/one", 0.5)
    page = folder / "report.html"
    assert run("report", folder) == (0, f"saved {page}\n", "")
    assert "So far (stage 1, epoch 1): there R1 50.0 %" in page_of(page).text
    assert run("report", folder)[0] == 0  # again, as it has no more than the command can tell
    history = [entry(1, 1, 0.5)]
    write_report(page, title="Whole", config_toml="", environment={}, history=history)
    before = page.read_bytes()
    assert run("report", folder) == (0, f"kept {page}, which is complete\n", "")
    assert "another kind" in refused(run, "report", folder, "--output", page)
    assert page.read_bytes() == before
    assert run("report", folder, "--output", "mine.html") == (0, "saved mine.html\n", "")


def test_several_runs_are_compared(run: Run, make_run: Callable[..., Path]) -> None:
    one, two = make_run("a/one", 0.5), make_run("a/two", 0.75, eps=0.4)
    assert run("report", one, two) == (0, "saved comparison.html\n", "")
    text = page_of(Path("comparison.html")).text
    assert "one stage 1, epoch 1 50.0 25.0 two stage 1, epoch 1 75.0 +25.0 37.5 +12.5" in text
    assert "setting one two clustering.eps 0.6 0.4" in text
    assert "k1" not in text
    assert run("report", two, one, "--output", "comparison.html")[0] == 0
    assert "two, one" in page_of(Path("comparison.html")).text
    assert not (one / "report.html").exists()


def test_a_setting_that_an_older_run_did_not_know_is_what_it_did(
    run: Run, make_run: Callable[..., Path]
) -> None:
    older, newer = make_run("older", 0.5), make_run("newer", 0.5)
    config = "center_modalities = {}\npreset = 'bmil'\n[augmentation]\nerasing_fill = {}\n"
    with (newer / "config.toml").open("a") as stream:
        stream.write(config.format("false", "[123.675, 116.28, 103.53]"))
    assert run("report", older, newer)[0] == 0
    assert "All settings are equal." in page_of(Path("comparison.html")).text
    centered = make_run("centered", 0.5)
    with (centered / "config.toml").open("a") as stream:
        stream.write(config.format("true", "[0.0, 0.0, 0.0]"))
    assert run("report", older, centered)[0] == 0
    text = page_of(Path("comparison.html")).text
    assert "clustering.center_modalities false true" in text
    assert "augmentation.erasing_fill [123.675, 116.28, 103.53] [0.0, 0.0, 0.0]" in text


def test_runs_of_one_name_are_told_apart(run: Run, make_run: Callable[..., Path]) -> None:
    folders = [make_run(f"{above}/run", 0.5) for above in ("a", "b")]
    assert run("report", *folders)[0] == 0
    assert "a/run, b/run" in page_of(Path("comparison.html")).text


def test_the_table_holds_the_numbers_of_the_history(
    run: Run, make_run: Callable[..., Path]
) -> None:
    one, two = make_run("one", 1 / 3), make_run("two", 0.75)
    assert run("report", one, two, "--csv", "n.csv") == (0, "saved n.csv\n", "")
    assert not Path("comparison.html").exists()
    with Path("n.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    key = "evaluation.there.mean.rank1"
    assert [(row["run"], row["stage"], row["epoch"], float(row[key])) for row in rows] == [
        *(("one", "0", "0", 1 / 6), ("one", "1", "1", 1 / 3)),
        *(("two", "0", "0", 0.375), ("two", "1", "1", 0.75)),
    ]
    done = run("report", one, "--csv", "n.csv", "--output", "p.html")
    assert done == (0, "saved n.csv\nsaved p.html\n", "")
    assert len(Path("n.csv").read_text().splitlines()) == 3


def test_what_cannot_be_reported(run: Run, make_run: Callable[..., Path]) -> None:
    one, two = make_run("one", 0.5), make_run("two", 0.75)
    Path("mine.html").write_text("<!DOCTYPE html>")
    Path("mine.csv").write_text("row,labels\n")
    Path("empty").mkdir()
    pair = ("report", one, two)
    assert "another kind" in refused(run, *pair, "--output", "mine.html")
    assert "another kind" in refused(run, *pair, "--csv", "mine.csv", "--output", "c.html")
    assert "--output must end in .html" in refused(run, *pair, "--output", "c.pdf")
    assert "--csv must end in .csv" in refused(run, *pair, "--csv", "c.txt")
    assert "existing folder" in refused(run, *pair, "--output", "no/c.html")
    assert "empty must be the folder of a run, with history.jsonl" in refused(run, *pair, "empty")
    assert "must be different folders, got one and one/../one" in refused(
        run, "report", one, "one/../one"
    )
    (two / "history.jsonl").write_text("no\n")
    assert "line 1 is not JSON" in refused(run, *pair)
