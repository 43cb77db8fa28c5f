"""The page in a browser: nothing fails, nothing is wider than a phone, dark differs from light."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mabm.report.comparison import ComparedRun, write_comparison
from mabm.report.page import write_report
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot

PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}
NAME = "cam1/a_rather_long_name_without_any_space_in_it/0001_c1s1_001051_00.jpg"


def history() -> list[dict[str, Any]]:
    entries = []
    for stage, epoch in ((0, 0), (1, 1), (2, 1), (2, 2)):
        mean = {"rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "rank20": 0.8, "mAP": 0.4, "mINP": 0.1}
        scores = {"mean": mean, "std": mean, "trials": list(range(10))}
        tasks = {"infrared-to-visible": scores, "visible-to-infrared": scores}
        entry: dict[str, Any] = {"stage": stage, "epoch": epoch, "seconds": 60, "evaluation": tasks}
        if stage:
            entry["losses"] = {"within visible": 2 / epoch, "within infrared": 1.0}
            entry["warnings"] = ["3 clusters have fewer than 2 images"]
        entries.append(entry)
    return entries


def write_pages(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    identity, modality = np.arange(80) // 20, np.arange(80) % 2
    features = (np.eye(8)[identity] + 0.2 * rng.normal(size=(80, 8))).astype(np.float32)

    def read(rows: list[int]) -> np.ndarray:
        return np.full((len(rows), 3, 32, 16), 128, dtype=np.uint8)

    def name(row: int) -> str:
        return NAME

    ranked = np.arange(20).reshape(2, 10)
    report = write_report(
        folder / "report.html",
        title="sysu_mm01, modality-aware association, seed 0",
        config_toml='[data]\nname = "sysu_mm01"\n' + "key = 1\n" * 50,
        environment={"compiled ops": "for cpu and cuda; " + "built " * 20},
        history=history(),
        clustering=ClusteringSnapshot(
            features, identity, modality, read, identity=identity, k1=8, k2=2, image_names=name
        ),
        retrieval=[
            RetrievalSnapshot(
                "all-search", np.arange(2), ranked, ranked > 5, read, image_names=name
            )
        ],
    )
    runs = [ComparedRun(word, history(), {"data": {"name": word}}) for word in ("one", "two")]
    return [report, write_comparison(folder / "comparison.html", runs)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("which", [0, 1], ids=["report", "comparison"])
@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_pages_load_without_errors_and_fit(
    browser: Any, pages: list[Path], which: int, size: dict[str, int]
) -> None:
    page = browser.new_page(viewport=size)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(pages[which].as_uri())
    assert errors == []
    # The names of all images unfold too.
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    if which == 0:
        images = "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
        assert page.evaluate(images)
    page.close()


def test_dark_screens_get_dark_paper(browser: Any, pages: list[Path]) -> None:
    lightness = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(pages[0].as_uri())
        color = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        lightness[scheme] = sum(int(part) for part in color[4:-1].split(","))
        page.close()
    assert lightness["dark"] < 150  # of 765
    assert lightness["light"] > 600


def test_a_tap_shows_the_name_of_an_image(browser: Any, pages: list[Path]) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(pages[0].as_uri())
    tile = page.locator(".tile[title]").first
    shown = "each => getComputedStyle(each, '::after').content"
    assert tile.evaluate(shown) == "none"
    tile.tap()
    assert NAME in tile.evaluate(shown)
    context.close()


def test_names_are_printed(browser: Any, pages: list[Path]) -> None:
    page = browser.new_page(viewport=WIDE)
    page.goto(pages[0].as_uri())
    names = page.locator(".names p").first
    assert not names.is_visible()
    page.emulate_media(media="print")
    assert names.is_visible()
    assert not page.locator("nav").is_visible()
    page.close()
