"""Links from pages to files of the repository outside docs/, which a forge shows as they stand.

Some of these files are pages of the site: their page under docs/ is a stub with a link for readers
on a forge, and shows the file itself here. A link to an example leads to the page made of it. Links
to any other file download it; a link to a folder becomes plain text.
"""

import os.path
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"  # which sphinx-gallery makes pages of, under docs/gallery
PAGES = {
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "README.md": "index",
    "benchmarks/gpu/RESULTS.md": "project/gpu_results",
    "mabm/data/ATTRIBUTION.md": "project/attribution",
}
_SHOWN = {page: file for file, page in PAGES.items() if file != "README.md"}
_CODE = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ ]*$", re.M | re.S)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the handler of sources."""
    app.connect("source-read", rewrite_links)
    return {"parallel_read_safe": True}


def rewrite_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts a file in the place of its stub, and makes links outside docs/ ones that work here."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".md":
        return
    text = source[0]
    origin = path.parent
    if docname in _SHOWN:
        shown = ROOT / _SHOWN[docname]
        app.env.note_dependency(str(shown))
        text = shown.read_text(encoding="utf-8")
        origin = shown.parent

    def rewrite(link: re.Match[str]) -> str:
        target, mark, fragment = link["target"].partition("#")
        if not target or re.match(r"\w+:", target):
            return link[0]
        file = Path(os.path.normpath(origin / target))
        if not file.is_relative_to(ROOT) or not file.exists():
            return link[0]  # a broken link, which Sphinx reports
        name = file.relative_to(ROOT).as_posix()
        if name in PAGES:
            file = ROOT / "docs" / f"{PAGES[name]}.md"
        if file.is_relative_to(EXAMPLES):
            page = "index.rst" if file == EXAMPLES else f"{file.stem}.rst"
            file = ROOT / "docs" / "gallery" / page
        elif file.is_dir():
            return link["text"]
        goes_outside = not file.is_relative_to(ROOT / "docs")
        scheme = "path:" if goes_outside and not link["image"] else ""
        target = Path(os.path.relpath(file, path.parent)).as_posix()
        return f"{link['image']}[{link['text']}]({scheme}{target}{mark}{fragment})"

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(rewrite, text[end : code.start()]), code[0]]
        end = code.end()
    source[0] = "".join([*parts, _LINK.sub(rewrite, text[end:])])
