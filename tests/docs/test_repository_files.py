"""The files that a forge reads: how to cite the software, and what an issue asks for."""

import re
from pathlib import Path
from typing import Any

import pytest

import mabm

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted(set((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_complete() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == mabm.__version__
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Gong", "Li", "Ji"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_valid_and_asks_for_the_versions(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)
    assert all(field["attributes"]["label"] for field in fields)
    assert any("mabm info" in field["attributes"]["label"] for field in fields)


def test_the_chooser_of_issues_is_valid() -> None:
    assert isinstance(
        read(ROOT / ".github/ISSUE_TEMPLATE/config.yml")["blank_issues_enabled"], bool
    )


def test_the_readme_is_an_introduction() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
