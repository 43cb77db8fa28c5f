"""The pages on code bases: their lines are what the command prints and what the drop-ins replace."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from mabm import compat
from mabm.compat.__main__ import main

pytestmark = pytest.mark.usefixtures("_old_paths_are_gone_afterwards")

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "migrate").glob("*.md"))
COUNTS = re.compile(r"(\d+) lines? in (\d+) files?")


@dataclass(frozen=True)
class Line:
    """An old import line, the lines that replace it, and where it stands."""

    old: str
    new: tuple[str, ...]
    places: tuple[tuple[str, int], ...]

    @property
    def package(self) -> str:
        """The package of the file, which relative imports start from."""
        return ".".join(Path(self.places[0][0]).parts[:-1]) if self.places else ""


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[Line]:
    """The entries of a block as the command prints it."""
    found = []
    for entry in re.split(r"^  old  ", block, flags=re.MULTILINE)[1:]:
        old, first, *rest = entry.rstrip("\n").split("\n")
        rest = [line.strip() for line in rest]
        new = [first.removeprefix("  new  "), *(r for r in rest if r.startswith("from "))]
        listed = " ".join(r for r in rest if not r.startswith("from "))
        places = [place.rpartition(":") for place in listed.split(", ")]
        found.append(Line(old, tuple(new), tuple((file, int(n)) for file, _, n in places)))
    return found


BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(b for b in blocks_of(page, "text") if "  old  " in b)
]
LINES = list(dict.fromkeys(line for block in BLOCKS for line in lines_of(block.values[0])))


def readme_rows() -> list[Line]:
    """The rows ``| `old` | `new` |`` of the README's table."""
    rows = re.findall(
        r"\| `(from [^`]* import [^`]*)` \| `(from mabm\.compat\.[^`]*)` \|",
        (ROOT / "README.md").read_text(),
    )
    return [Line(old, tuple(new.split("; ")), ()) for old, new in rows]


def test_there_is_a_block_on_every_page() -> None:
    assert {block.id.rpartition("-")[0] for block in BLOCKS} == {page.stem for page in PAGES}


@pytest.mark.parametrize("block", BLOCKS)
def test_the_command_prints_a_page_s_block_for_these_lines(
    tmp_path: Path, block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files: dict[str, dict[int, str]] = {}
    for line in lines_of(block):
        for file, number in line.places:
            files.setdefault(file, {})[number] = line.old
    for file, lines in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{lines.get(n, '')}\n" for n in range(1, max(lines) + 1))
        (tmp_path / file).write_text(text)
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    entries = printed.partition("To change\n")[2].partition("\n\n")[0]
    assert block.rpartition("\n\n")[2] == f"{entries}\n"
    if COUNTS.search(block):
        assert COUNTS.findall(block) == COUNTS.findall(printed)[:1]


@pytest.mark.parametrize("line", [*LINES, *readme_rows()], ids=lambda line: line.old)
def test_an_old_line_imports_what_the_new_one_does(line: Line) -> None:
    for family in compat.FAMILIES:
        compat.install(family)
    found: dict[str, object] = {}
    ours = [new for new in line.new if new.startswith("from mabm.compat.")]
    for new in ours:
        exec(new, found)
    del found["__builtins__"]
    module = line.old.split()[1]
    if module.startswith(".") and line.package.startswith("build."):
        compat.install("clustercontrast", package=line.package)
    old: dict[str, object] = {"__package__": line.package}
    exec(f"from {module} import {', '.join(found)}", old)
    assert {name: old[name] for name in found} == found
    assert found
    kept = {name for new in line.new if new not in ours for name in names_in(new)}
    assert {*found, *kept} == names_in(line.old)


def names_in(statement: str) -> set[str]:
    return set(re.split(r",\s*", statement.partition(" import ")[2]))


def test_the_pages_name_every_module_and_every_family() -> None:
    modules = set(
        re.findall(r"mabm\.compat\.(\w+) import", "\n".join(sum((x.new for x in LINES), ())))
    )
    paths = [names for family in compat.FAMILIES.values() for names in family.values()]
    assert modules == {here for names in paths for here in names.values()}
    text = (ROOT / "docs" / "migrate" / "index.md").read_text()
    (names,) = re.findall(r"^The names are (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r'`"(\w+)"`', names)) == set(compat.FAMILIES)


def test_the_table_links_to_every_page_with_its_numbers_of_lines() -> None:
    text = (ROOT / "docs" / "migrate" / "index.md").read_text()
    rows = re.findall(r"^\| \[.+\]\((\w+)\.md\) \| (.*) \|$", text, re.MULTILINE)
    counts: dict[str, list[tuple[str, str]]] = {}
    for page in PAGES:
        if page.stem != "index":
            blocks = "\n".join(blocks_of(page, "text"))
            counts[page.stem] = sorted(COUNTS.findall(blocks))
    listed: dict[str, list[tuple[str, str]]] = {}
    for page_name, words in rows:
        listed.setdefault(page_name, []).extend(COUNTS.findall(words))
    assert {name: sorted(found) for name, found in listed.items()} == counts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path) -> None:
    examples = blocks_of(page, "python")
    assert examples
    for example in examples:
        exec(example, {})
