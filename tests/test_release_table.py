"""The page on what differs from the release names settings and searches that there are."""

import re
from pathlib import Path

import pytest
from extras import needs_training

import mabm
from mabm.train import load_config

pytestmark = needs_training

PAGE = (Path(__file__).parents[1] / "docs" / "evidence" / "release.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`]+)`", PAGE)
OVERRIDES = [span for span in SPANS if re.fullmatch(r"[a-z0-9]+\.[a-z_]+=.+", span)]
TASKS = [span.removeprefix("--task ") for span in SPANS if span.startswith("--task ")]


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_setting_changes_what_is_the_default(override: str) -> None:
    names = ("sysu_mm01", "regdb")
    changed = [name for name in names if load_config(name, [override]) != load_config(name)]
    assert changed


def test_settings_and_searches_are_found_in_the_page() -> None:
    assert len(OVERRIDES) > 3
    by_name = {task.name for tasks in mabm.MORE_SEARCH_TASKS.values() for task in tasks}
    assert set(TASKS) == by_name


@pytest.mark.parametrize(
    "row", [line for line in PAGE.splitlines() if line.startswith("|")], ids=lambda row: row[2:30]
)
def test_rows_are_whole(row: str) -> None:
    assert row.endswith("|")
    assert row.count("|") in (4, 6)
