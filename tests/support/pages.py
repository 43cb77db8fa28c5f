"""The repository's pages, README and docs, and the code blocks on them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = {"gallery", "generated"}  # folders that the build of the documentation fills

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w{}-]*)[^\n`]*\n"
    r"(?P<text>.*?)^(?P=indent)(?P=fence)`*[ ]*$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: The page's path from the root of the repository.
        line: Line of the page on which the code starts, from 1.
        language: Word after the fence, empty where there is none.
        text: The code.
        why_not_run: Reason in a comment ``<!-- not run: REASON -->`` above the block, if any.
    """

    page: str
    line: int
    language: str
    text: str
    why_not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages(*folders: str) -> list[Path]:
    """README.md and the pages written by hand in these folders, by name."""
    found = [ROOT / "README.md"]
    for folder in folders:
        found += sorted(
            path
            for path in (ROOT / folder).rglob("*.md")
            if not GENERATED & set(path.relative_to(ROOT).parts)
        )
    return found


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        above = NOT_RUN.search(text, 0, match.start())
        yield Block(
            page=page.relative_to(ROOT).as_posix(),
            line=text.count("\n", 0, match.start()) + 2,
            language=match["language"],
            text=match["text"],
            why_not_run=above["why"] if above else None,
        )


def without_code(text: str) -> str:
    """A page's text with its code blocks left out."""
    return FENCE.sub("", text)
