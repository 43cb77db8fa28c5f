"""Relative links on pages lead to files that are there, and anchors to headings of these."""

import re
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest

PAGES = [*pages.pages("docs"), pages.ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\((?P<target>[^()\s]+)(?: \"[^\"]*\")?\)|<img [^>]*src=\"(?P<image>[^\"]+)\"")
<<<<<<< HEAD
# Pages that the build writes.
BUILT = re.compile(r"(?:gallery|generated)/[\w./]*\.(?:md|rst|html)$")
=======
BUILT = re.compile(
    r"(?:gallery|generated)/[\w./]*\.(?:md|rst|html)$"
)  # pages that the build writes
>>>>>>> wt/site


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST derive them, and those set by hand."""
    found: set[str] = set()
    text = pages.without_code(text)
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = next(n for n in range(99) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    found |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    return found | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def broken_links(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    code_left_out = re.sub(r"`[^`\n]+`", "", pages.without_code(text))
    for match in LINK.finditer(code_left_out):
        target = match["target"] or match["image"]
        if re.match(r"[a-z]+:", target):  # another site, or an address
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if BUILT.search(file.as_posix()):
            continue
        if not file.exists():
            yield f"{target}: there is no {path}"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text("utf-8")):
            yield f"{target}: {path or page.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A title\n\n## k1, k2 and `eps`\n\n## Twice\n\n## Twice\n")
    page.write_text(
        "# Here\n\n[fine](other.md#k1-k2-and-eps), [too](#here), [site](https://example.org/x),\n"
        "[second](other.md#twice-1), `[code](none.md)`, [gone](gone.md), [no](other.md#nothing)\n"
        "\n```\n[code](none.md)\n```\n"
    )
    assert [line.split(":")[0] for line in broken_links(page)] == ["gone.md", "other.md#nothing"]
