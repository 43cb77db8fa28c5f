"""The words of the repository: American spelling, and docstrings that explain what they list."""

import ast
import re
import subprocess
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import pytest

import mabm

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mabm.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

BRITISH = re.compile(
    r"""
    neighbour | colour | behaviour | favour | honour | flavour | labour(?!ator) | grey | licence
    | centre | metre\b | fibre | (?:un|re)?labelled | modell(?:ed|ing) | cancell(?:ed|ing)
    | travell(?:ed|ing) | signall(?:ed|ing) | catalogue | analys(?:e\b|ed|es\b|ing) | whilst
    | learnt | spelt | burnt | towards | defence | artefact | judgement | acknowledgement | ageing
    | (?: normal | optim | regular | initial | vector | general | organ | recogn | quant | visual
        | summar | special | minim | maxim | serial | tensor | token | custom | util | synchron
        | random | categor | final | emphas | author | standard | parallel | discret | equal | real
        | memor | character | categor | factor | penal | stabil | local | color | monochrom )
      is(?:e|ed|er|ers|es|ing|ation|ations|able)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)

OTHERS_NAMES: dict[str, tuple[str, ...]] = {}
"""Files, and names in them that other projects spell the British way."""

READ = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cpp", ".h", ".cu", ".cuh", ".cfg"}
READ |= {".html", ".css", ".jinja", ".sh", ".in", ".json", ""}


def text_files() -> Iterator[Path]:
    """The repository's own text files, but for this one, which names the words."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path != Path(__file__) and path.is_file() and path.suffix in READ:
            yield path


def test_spelling_is_american() -> None:
    found = []
    for path in text_files():
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = line
            for other in OTHERS_NAMES.get(name, ()):
                text = text.replace(other, "")
            found += [f"{name}:{number}: {match[0]}" for match in BRITISH.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("neighbours of unlabelled samples", ["neighbour", "unlabelled"]),
        ("normalised, an optimiser, regularisation", ["normalised", "optimiser", "regularisation"]),
        ("neighbors, otherwise noise, precise, analysis, a likewise unsupervised center", []),
    ],
)
def test_spelling_is_recognized(text: str, words: list[str]) -> None:
    assert [match[0] for match in BRITISH.finditer(text)] == words


STILTED = {
    r"(?:tells?|told) of": "report",
    r"hands? out": "return",
    r"it pays": "the cost is",
    r"would else": "would otherwise",
    r"anew": "again",
    r"must hold": "must contain",
    r"must lie": "must be",
    r"one an? (?:image|row|line|list|sample|modality|identity|stage|cluster|trial)": "one per",
    r"of one's own": "your own",
    r"blind to (?:the )?modalit(?:y|ies)": "ignores modality",
    r"not a result, because": "for reference only:",
}
"""Expressions that readers stumble over, and what to write in their place."""

SAID_SO = re.compile(rf"\b({'|'.join(STILTED)})\b", re.IGNORECASE)


def test_sentences_are_in_todays_english() -> None:
    found = []
    for path in text_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("mabm/", "docs/")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found += [f"{name}:{number}: {match[0]}" for match in SAID_SO.finditer(line)]
    assert found == [], f"write instead: {STILTED}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Problems are told of in the log, one an image.", ["told of", "one an image"]),
        ("It must hold labels, drawn anew each epoch.", ["must hold", "anew"]),
        ("A household must be told, one per image; renewed handouts pay.", []),
    ],
)
def test_stilted_expressions_are_recognized(text: str, words: list[str]) -> None:
    assert [match[0] for match in SAID_SO.finditer(text)] == words


REFERENCE = re.compile(r"(As|Like|Likewise|See)\b(?! (a|an|many|much|few|long|soon)\b)", re.I)
"""The start of an entry that only says where else to look."""


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Parameters and attributes, each with its text."""
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n)*)", f"{docstring}\n", re.M):
        parts = re.split(r"^(\w+(?:, \w+)*): ", cleandoc(section), flags=re.M)[1:]
        yield from zip(parts[::2], parts[1::2], strict=True)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_entry_sends_its_reader_elsewhere(path: Path) -> None:
    elsewhere = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = entries(ast.get_docstring(node) or "")
            elsewhere += [f"{node.name}: {name}" for name, text in said if REFERENCE.match(text)]
    assert elsewhere == []


def test_entries_that_refer_elsewhere_are_found() -> None:
    docstring = (
        "Sums.\n\nArgs:\n    a: As :func:`other`.\n    b: (N,) numbers.\n    c, d: Likewise.\n"
    )
    found = [name for name, text in entries(docstring) if REFERENCE.match(text)]
    assert found == ["a", "c, d"]
