"""The page of a run from the files in its folder, whatever is there of them."""

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from page_parts import Page

from mabm.train import Config, to_toml
from mabm.train.listeners import Report
from mabm.train.reporting import report_progress
from mabm.train.run import Run

ENTRIES: list[dict[str, Any]] = [  # of a version that knew no learning rate
    {"stage": 0, "epoch": 0, "seconds": 1.0},
    {"stage": 1, "epoch": 1, "losses": {"within visible": 2.5}, "seconds": 2.0},
]


def write_history(folder: Path) -> None:
    lines = [json.dumps(entry) + "\n" for entry in ENTRIES]
    (folder / "history.jsonl").write_text("".join(lines), encoding="utf-8")


def test_a_history_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_history(tmp_path)
    page = Page(report_progress(tmp_path).read_text(encoding="utf-8"))
    assert tmp_path.name in page.text
    assert "This page shows the run after stage 1, epoch 1, at" in page.text
    assert page.attributes("svg", "aria-label") == ["Losses"]
    assert "Configuration" not in page.text
    assert "Environment" not in page.text
    assert "environment.json cannot be read" in caplog.text


@pytest.mark.needs("pydantic", "tomli_w")
def test_other_files_tell_more(tmp_path: Path) -> None:
    write_history(tmp_path)
    (tmp_path / "config.toml").write_text(to_toml(Config()) + "[later]\nkey = 1\n")
    (tmp_path / "environment.json").write_text('{"torch": "9.9"}')
    page = Page(report_progress(tmp_path).read_text(encoding="utf-8"))
    assert "sysu_mm01, modality-aware association, seed 0" in page.text
    assert "after stage 1, epoch 1 of 50, at" in page.text
    assert "torch 9.9" in page.text
    assert "[later] key = 1" in page.text
    (tmp_path / "result.json").write_text("{}")
    other = tmp_path / "other.html"
    page = Page(report_progress(tmp_path, other).read_text(encoding="utf-8"))
    assert "This page was made from the history: without clusters and searches." in page.text
    assert not [attrs for _, attrs in page.tags if "http-equiv" in attrs]


def test_a_page_that_cannot_be_written_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="mabm")
    write_history(tmp_path)
    (tmp_path / "report.html").mkdir()
    Report(tmp_path).after_epoch(cast(Run, None), ENTRIES[-1])
    assert "the report cannot be written (training continues): " in caplog.text
