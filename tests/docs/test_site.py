"""The built site, in a real browser: ``make docs`` builds it, then runs these tests.

They are skipped where ``SITE`` does not name the folder of a site, as in ``make test``; those with
a browser also where there is no Chromium.
"""

import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

if "SITE" not in os.environ:
    pytest.skip("make docs runs these tests, on the site it builds", allow_module_level=True)

SITE = Path(os.environ["SITE"]).resolve(strict=True)
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.relative_to(SITE).parts[0] not in ("_static", "_downloads")
)
PHONE = {"width": 390, "height": 844}
BROKEN_PICTURES = """async () => {
    const pictures = [...document.images];
    for (const picture of pictures) {
        picture.loading = "eager";
        await picture.decode().catch(() => {});
    }
    return pictures.filter(picture => !picture.naturalWidth).map(picture => picture.src);
}"""
LOOKED_AT = [page for page in PAGES if "/generated/" not in page]
"""Pages with pictures and tables of their own; those made of docstrings are all alike."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def note_failure(request: Any, faults: list[str]) -> None:
    if request.failure != "net::ERR_ABORTED":  # as when the next page is opened before its end
        faults.append(f"failed: {request.url}: {request.failure}")


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a tab; at the end of the test, nothing in it may have failed."""
    contexts, faults = [], []

    def open_tab(**options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda said: said.type == "error" and faults.append(said.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("requestfailed", lambda request: note_failure(request, faults))
        tab.on(
            "response", lambda got: got.status < 400 or faults.append(f"{got.status}: {got.url}")
        )
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert not faults, "\n".join(faults)


def test_every_page_loads_with_its_pictures(open_page: Any, address: str) -> None:
    tab = open_page()
    broken = []
    for page in PAGES:
        tab.goto(address + page)
        broken += [f"{page}: {source}" for source in tab.evaluate(BROKEN_PICTURES)]
    assert not broken, "\n".join(broken)


def test_a_phone_scrolls_no_page_sideways(open_page: Any, address: str) -> None:
    tab = open_page(viewport=PHONE)
    wide = []
    for page in LOOKED_AT:
        tab.goto(address + page)
        width = tab.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            wide.append(f"{page}: {width}")
    assert not wide, "\n".join(wide)


def test_search_finds_a_function(open_page: Any, address: str) -> None:
    tab = open_page()
    tab.goto(address)
    tab.locator(".sidebar-search").fill("modality_jaccard")
    tab.locator(".sidebar-search").press("Enter")
    first = tab.locator("#search-results li a").first
    first.wait_for()
    assert "modality_jaccard" in first.inner_text()
    first.click()
    assert "/reference/generated/mabm.modality_jaccard.html" in tab.url
    assert tab.locator("h1").inner_text().startswith("modality_jaccard")


def test_dark_and_light(open_page: Any, address: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("light", "dark"):
        tab = open_page(color_scheme=theme)
        tab.goto(address)
        seen[theme] = tab.evaluate(background)
    assert brightness(seen["dark"]) < 64
    assert brightness(seen["light"]) > 192

    toggle = tab.locator(".theme-toggle").locator("visible=true").first
    reached = set()
    for _ in range(3):  # as the system has it, dark, light
        toggle.click()
        reached.add(tab.evaluate(background))
    assert reached == set(seen.values())


def brightness(color: str) -> float:
    """The mean of red, green and blue in ``rgb(...)``, in [0, 255]."""
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


class _Anchors(HTMLParser):
    """The links of a page, and what links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.targets = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.targets.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def test_every_link_within_the_site_leads_somewhere() -> None:
    pages = {page: _Anchors((SITE / page).read_text(encoding="utf-8")) for page in PAGES}
    broken = []
    for page, anchors in pages.items():
        for link in anchors.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
            target = Path(os.path.normpath(target))
            name = target.relative_to(SITE).as_posix()
            is_there = target.exists()
            if name in pages and is_there:
                is_there = unquote(parts.fragment) in pages[name].targets
            if not is_there:
                broken.append(f"{page}: {link}")
    assert not broken, "\n".join(broken)


def test_every_public_name_has_a_page() -> None:
    import mabm

    text = {page: (SITE / page).read_text(encoding="utf-8") for page in PAGES}
    described = "\n".join(text[page] for page in PAGES if page.startswith("reference/"))
    absent = [name for name in mabm.__all__ if f'id="mabm.{name}"' not in described]
    assert absent == []
