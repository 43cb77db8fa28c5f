"""The report: complete in itself, safe against what is put into it, and true to its numbers."""

import base64
import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from page_parts import Page
from PIL import Image

import mabm
from mabm.report import page as report_page
from mabm.report import spreads
from mabm.report.figures import draw_curves, make_lines, read_tiles
from mabm.report.page import is_complete, write_report
from mabm.report.plots import pair_histogram
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.story import DataFacts
from mabm.report.tables import NONE, collect_results, describe_seconds, tabulate_epochs
from mabm.train.clusters import Clusters
from mabm.train.diagnostics import diagnose_epoch
from mabm.train.reporting import labels_shown

EVIL = "<script>alert(1)</script> & \"quotes\" 'too' {{ 7 * 7 }} $x^2$"


def scores(rank1: float, trials: int = 1) -> dict[str, Any]:
    mean = {"rank1": rank1, "rank5": 0.875, "mAP": rank1 / 2, "mINP": 0.1}
    return {"trials": list(range(trials)), "mean": mean, "std": dict.fromkeys(mean, 0.0123)}


def entry(stage: int, epoch: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, "seconds": 61.0, "warnings": [], **more}


HISTORY = [
    entry(1, 1, losses={"visible": 2.5, "infrared": None}, clusters={"visible": 11}),
    entry(1, 2, losses={"visible": 2.25}, warnings=["one cluster: " + EVIL]),
    entry(2, 1, losses={"visible": 1.5, "across": 3.125}, evaluation={"there": scores(0.625)}),
    entry(2, 2, losses={"visible": 1.25, "across": 3.0}, evaluation={"there": scores(0.5, 3)}),
]


def samples(count: int = 48) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    identity = np.arange(count) // 12
    features = np.eye(8)[identity] + 0.3 * rng.normal(size=(count, 8))
    arrays = features.astype(np.float32), identity, np.arange(count) % 2
    for array in arrays:  # as image sets keep theirs
        array.setflags(write=False)
    return arrays


def read(rows: list[int]) -> np.ndarray:
    images = np.zeros((len(rows), 3, 12, 6), dtype=np.uint8)
    images[:, 0] = np.array(rows, dtype=np.uint8)[:, None, None]
    return images


def snapshot(**changes: Any) -> ClusteringSnapshot:
    features, identity, modality = samples()
    labels = mabm.pseudo_labels(features, modality, k1=12, k2=3).labels
    fields = {"features": features, "labels": labels, "modality": modality, "read": read}
    return ClusteringSnapshot(**{**fields, "identity": identity, "k1": 12, "k2": 3, **changes})


def searches() -> RetrievalSnapshot:
    ranked = np.array([[1, 3, 5], [3, 1, -1]])
    right = np.array([[True, False, True], [False, True, True]])
    return RetrievalSnapshot("there", np.array([0, 2]), ranked, right, read, "Chosen so")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Page]:
    def write(**changes: Any) -> Page:
        options = {
            "title": "A run",
            "config_toml": '[data]\nname = "emoji_xm"\n',
            "environment": {"torch": "9.9"},
            "history": HISTORY,
            **changes,
        }
        path = write_report(tmp_path / "report.html", **options)
        assert list(tmp_path.iterdir()) == [path]
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>")
        assert "http" not in text
        page = Page(text)
        assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
        for name in ("src", "href", "xlink:href", "poster", "data"):
            for tag, attrs in page.tags:
                assert (attrs.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), tag
        assert "@import" not in text
        assert all(part.startswith("#") for part in text.split("url(")[1:])
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        used = [part.partition(")")[0][1:] for part in text.split("url(")[1:]]
        used += [value[1:] for value in page.attributes("use", "href")]
        assert set(used) <= set(ids)
        return page

    return write


def test_all_parts_are_there(written: Callable[..., Page]) -> None:
    features, identity, modality = samples()
    labels = mabm.pseudo_labels(features, modality, k1=12, k2=3).labels
    told = diagnose_epoch(features, modality, alone=labels, together=labels, identity=identity)
    history = [*HISTORY, entry(2, 3, diagnostics=told, clusters={"global": 4})]
    page = written(
        history=history,
        clustering=snapshot(),
        retrieval=[searches()],
        data=DataFacts({"visible": 5, "infrared": 7}),
        note="Drawings, not photos.",
    )
    heads = [
        "Summary Trained",
        "Scores before training and after each stage",
        "What changed in each stage",
        "Results",
        "Warnings stage 1, epoch 2",
        "Epoch by epoch Losses",
        "Retrieval",
        "Clusters",
        "Agreement of clusters with identities",
        "Noise and spanning clusters",
        "Neighbors in another modality",
        "Modality of the nearest neighbors (stage 2, epoch 3)",
        "How far apart are two images of one identity?",
        "Images of some clusters",
        "Searches: there",
        "All epochs time",
        "Environment torch",
        "Configuration [data]",
    ]
    starts = [0]
    for head in heads:  # each after the one before
        starts.append(page.text.find(head, starts[-1] + 1))
        assert starts[-1] > 0, head
    linked = [link[1:] for link in page.attributes("a", "href")]
    assert set(linked) <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    labels_of_figures = page.attributes("svg", "aria-label")
    assert labels_of_figures[:2] == ["Losses", "Retrieval"]
    assert len(labels_of_figures) == 8
    assert page.text.count("Drawings, not photos.") == 4  # once above, and under each figure
    assert 'name = "emoji_xm"' in page.text
    assert "torch 9.9" in page.text
    mix = told["all"]["neighbor_mix"]
    assert f"visible {100 * mix[0][0]:.1f} {100 * mix[0][1]:.1f}" in page.text


def test_last_epoch_is_the_result(written: Callable[..., Page]) -> None:
    page = written()
    assert "Last epoch (stage 2, epoch 2): there R1 50.0 %, mAP 25.0 %" in page.text
    assert (
        "For reference only: selected on the test set, stage 2, epoch 1 is best: "
        "there R1 62.5 %, mAP 31.2 %" in page.text
    )
    assert page.text.index("Last epoch") < page.text.index("For reference only")
    assert "there stage 2, epoch 2 50.0 ± 1.2 87.5 ± 1.2 25.0 ± 1.2 10.0 ± 1.2" in page.text
    reference = "stage 2, epoch 1 for reference only: selected on the test set 62.5 87.5 31.2 10.0"
    assert reference in page.text
    assert "4 epochs in 4 min 4 s, evaluation included. Warnings: 1" in page.text


def test_best_epoch_is_left_out_where_it_is_the_last(written: Callable[..., Page]) -> None:
    page = written(history=HISTORY[:3])
    assert "Last epoch (stage 2, epoch 1): there R1 62.5 %" in page.text
    assert "reference only" not in page.text
    later = collect_results([*HISTORY[:3], entry(2, 2)])
    assert later.line.startswith("Last evaluated epoch (stage 2, epoch 1)")


def test_numbers_of_every_epoch(written: Callable[..., Page]) -> None:
    page = written()
    assert f"1 1 61.0 {NONE} {NONE} 2.500 {NONE} 11" in page.text
    assert f"2 1 61.0 62.5 31.2 1.500 3.125 {NONE}" in page.text
    table = tabulate_epochs(HISTORY)
    assert table.groups == (("time", 1), ("there, %", 2), ("losses", 2), ("clusters", 1))
    assert table.heads == ("seconds", "R1", "mAP", "visible", "across", "visible")
    assert table.starts == {2, 3, 5, 7}
    assert {len(row) for row in table.rows} == {8}


def test_what_is_put_in_is_escaped(written: Callable[..., Page]) -> None:
    history = [
        entry(
            1,
            1,
            losses={EVIL: 1.0},
            clusters={EVIL: 3},
            warnings=[EVIL],
            evaluation={EVIL: scores(0.5)},
            diagnostics={EVIL: {"num_samples": 2, "num_noise": 1, "num_clusters": 1, "ari": 0.5}},
        )
    ]
    shown = searches()
    two = [EVIL, EVIL]
    page = written(
        title=EVIL,
        note=EVIL,
        config_toml=EVIL,
        environment={EVIL: EVIL},
        history=history,
        clustering=snapshot(
            identity_names=lambda identity: EVIL, image_names=lambda row: f"{EVIL} {row}"
        ),
        retrieval=[
            replace(
                shown, task=EVIL, caption=EVIL, group=two, facts=two, image_names=lambda _: EVIL
            )
        ],
        data=DataFacts({EVIL: 1}),
        modality_names={0: EVIL, 1: EVIL},
    )
    evil = " ".join(EVIL.split())
    assert page.text.count(evil) > 30
    assert f"{EVIL} 0" in page.attributes("span", "title")
    assert f"query: {EVIL}" in page.attributes("img", "alt")


def test_learning_rate_and_search_within_a_modality_have_curves(
    written: Callable[..., Page],
) -> None:
    history = [
        entry(1, 1, learning_rate=3.5e-4, within_modality={"visible": {"rank1": 0.75}}),
        entry(1, 2, learning_rate=3.5e-5),
        entry(1, 3, learning_rate=3.5e-5, within_modality={"visible": {"rank1": 0.5, "mAP": 0.25}}),
    ]
    page = written(history=history)
    assert page.attributes("svg", "aria-label") == ["Retrieval within a modality", "Learning rate"]
    assert "visible R1 visible mAP" in page.text
    assert "3.5e-5" in page.text
    assert "3.5e-4" in page.text
    assert "1 3 61.0 50.0 25.0 3.5e-05" in page.text
    constant = written(history=[entry(1, 1, learning_rate=0.1), entry(1, 2, learning_rate=0.1)])
    assert "0.1" in constant.text
    frozen = written(history=[entry(1, 1, learning_rate=0.0)])
    assert frozen.attributes("svg", "aria-label") == ["Learning rate"]


def test_a_page_with_a_status_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    options = {"title": EVIL, "config_toml": "", "environment": {}, "history": HISTORY}
    assert not is_complete(path)
    write_report(path, **options, status="Training goes on: " + EVIL, refresh=7)
    page = Page(path.read_text(encoding="utf-8"))
    assert not is_complete(path)
    again = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "refresh"]
    assert again == ["7"]
    assert "Training goes on: " + " ".join(EVIL.split()) in page.text
    assert "So far (stage 2, epoch 2): there R1 50.0 %" in page.text
    write_report(path, **options)
    assert is_complete(path)
    assert "refresh" not in path.read_text(encoding="utf-8")


def test_nothing_but_a_title(written: Callable[..., Page]) -> None:
    page = written(history=[], environment={}, config_toml="")
    assert "No epoch has been evaluated." in page.text
    assert not page.attributes("svg", "aria-label")
    for head in ("Results", "Warnings", "Epoch by epoch", "Searched", "All epochs"):
        assert head not in page.text


def test_start_before_training_is_the_first_point(written: Callable[..., Page]) -> None:
    start = {"stage": 0, "epoch": 0, "evaluation": {"there": scores(0.25)}}
    page = written(history=[start, *HISTORY])
    assert "4 epochs in 4 min 4 s" in page.text
    only = written(history=[start])
    assert "Last epoch (before training): there R1 25.0 %" in only.text


def test_clusters_are_shown_with_right_and_wrong(written: Callable[..., Page]) -> None:
    _, identity, _ = samples()
    labels = np.array([0] * 12 + [1] * 11 + [0] + [2] * 12 + [-1] * 12)
    page = written(clustering=snapshot(labels=labels, identity_names=lambda i: f"person {i}"))
    assert identity[23] == 1  # the stray in cluster 0
    assert page.tiles("wrong") == 1
    assert page.tiles("right") == 6 + 6 + 6 + 5 + 6 + 6
    assert page.tiles("plain") == 0
    # The purest first, of equally pure ones the larger: 2 (12 images), 1 (11), 0 (12 of 13).
    assert "person 2 12 images 100 % one identity" in page.text
    assert "person 1 11 images 100 % one identity" in page.text
    assert "person 0 13 images 92 % one identity" in page.text
    assert page.text.index("person 2") < page.text.index("person 1") < page.text.index("person 0")
    assert "3 of 3 clusters, evenly spaced from the purest cluster to the least pure" in page.text


def test_large_clusters_are_cut_to_size(written: Callable[..., Page]) -> None:
    page = written(clustering=snapshot(labels=np.zeros(48, dtype=np.int64)))
    assert page.tiles("right") + page.tiles("wrong") == 16
    assert page.text.count("+16") == 2


@pytest.mark.parametrize("unknown", [None, np.full(48, -1)])
def test_without_identities_nothing_is_right_or_wrong(
    written: Callable[..., Page], unknown: np.ndarray | None
) -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 18])
    page = written(clustering=snapshot(identity=unknown, labels=labels))
    assert page.tiles("right") == page.tiles("wrong") == 0
    assert page.tiles("plain") == 5 + 5 + 8 + 8 + 8 + 8
    assert "from the largest cluster to the smallest" in page.text
    assert (
        page.text.index("cluster 1") < page.text.index("cluster 2") < page.text.index("cluster 0")
    )
    assert "How far apart are two images?" in page.text
    assert "of pairs" in page.text
    assert "identity" not in page.text


def test_without_clusters(written: Callable[..., Page]) -> None:
    page = written(clustering=snapshot(labels=np.full(48, -1)))
    assert "There are no clusters: every image is noise." in page.text
    assert "How far apart" in page.text
    assert not page.attributes("img", "src")


def test_one_modality(written: Callable[..., Page]) -> None:
    page = written(clustering=snapshot(modality=np.zeros(48, dtype=np.int64), preset="spcl"))
    figures = page.attributes("svg", "aria-label")
    assert "Number of pairs within a modality by their Jaccard distance" in figures
    assert "Number of pairs across modalities by their Jaccard distance" not in figures
    assert "several modalities" not in page.text


def test_clusters_of_one_modality_each(written: Callable[..., Page]) -> None:
    _, _, modality = samples()
    page = written(clustering=snapshot(labels=modality))
    assert "2 of 2 clusters" in page.text
    assert "none has several modalities" in page.text


def test_no_samples(written: Callable[..., Page]) -> None:
    none = np.zeros(0, dtype=np.int64)
    empty = {"labels": none, "modality": none, "identity": none}
    page = written(clustering=snapshot(features=np.zeros((0, 8), dtype=np.float32), **empty))
    assert "There are no clusters" in page.text
    assert "How far apart" not in page.text


def test_searches_are_marked(written: Callable[..., Page]) -> None:
    page = written(retrieval=[searches()])
    assert page.tiles("query") == 2
    assert page.tiles("right") == 3
    assert page.tiles("wrong") == 2  # where a gallery ends there is no tile
    assert page.text.count("✓") == 3 + 1  # and in the legend
    assert page.text.count("✗") == 2 + 1
    caption = "The query is on the left, its nearest images on the right, nearest first. Chosen so."
    assert caption in page.text
    nothing = RetrievalSnapshot(
        "there", np.zeros(0, int), np.zeros((0, 3), int), np.zeros((0, 3), bool), read
    )
    assert "No query has a match." in written(retrieval=[nothing]).text


def test_every_image_has_its_name_to_point_at_and_to_read(written: Callable[..., Page]) -> None:
    names = "a/{}.jpg".format
    one = replace(searches(), image_names=names, facts=["AP 1", "AP 2"], group=["Best", "Worst"])
    page = written(clustering=snapshot(image_names=names), retrieval=[one])
    titles = page.attributes("span", "title")
    assert len(titles) == len(page.attributes("img", "src"))
    assert titles[-7:] == [*map(names, (0, 1, 3, 5)), *map(names, (2, 3, 1))]
    assert page.attributes("img", "alt")[-3:] == [
        "query: a/2.jpg",
        "wrong: a/3.jpg",
        "right: a/1.jpg",
    ]
    assert "a/0.jpg. 1 ✓ a/1.jpg; 2 ✗ a/3.jpg; 3 ✓ a/5.jpg." in page.text
    assert "Best a/0.jpg : AP 1" in page.text
    assert page.text.count("These images by name") == 2
    without = written(clustering=snapshot(), retrieval=[searches()])
    assert "These images by name" not in without.text
    assert not without.attributes("span", "title")


def test_no_folder_of_the_machine_is_shown(written: Callable[..., Page]) -> None:
    text = '[data]\nroot = "/home/ada/sets/RegDB"\ncache = "~/cache"\nweights = "w.pth"\n'
    page = written(config_toml=text)
    assert 'root = "…/RegDB" cache = "…/cache" weights = "w.pth"' in page.text
    assert "ada" not in page.text
    assert "Of absolute paths only the last part is shown." in page.text
    assert "Of absolute paths" not in written().text


def test_tiles_are_the_images_that_were_asked_for() -> None:
    asked: list[list[int]] = []

    def once(rows: list[int]) -> torch.Tensor:
        asked.append(rows)
        return torch.from_numpy(read(rows))

    tile = read_tiles(once, np.array([200, -1, 7, 200]))
    assert asked == [[7, 200]]
    for row in (7, 200):
        with Image.open(io.BytesIO(base64.b64decode(tile(row).partition(",")[2]))) as picture:
            assert picture.size == (6, 12)
            assert np.abs(np.asarray(picture, dtype=int) - [row, 0, 0]).max() < 6
    big = read_tiles(lambda rows: np.zeros((1, 3, 640, 320), np.uint8), np.array([0]))
    with Image.open(io.BytesIO(base64.b64decode(big(0).partition(",")[2]))) as picture:
        assert picture.size == (80, 160)
    with pytest.raises(ValueError, match=r"read must return \(1, 3, H, W\) uint8 images, got"):
        read_tiles(lambda rows: np.zeros((1, 4, 4, 3), np.uint8), np.array([0]))


def test_distances_are_those_of_the_clustering(
    written: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, identity, modality = samples()
    distance = mabm.modality_jaccard(features, modality, k1=12, k2=3)
    seen: list[tuple[np.ndarray, ...]] = []

    def record(*arrays: Any, eps: float) -> Any:
        seen.append(arrays)
        return pair_histogram(*arrays, eps=eps)

    monkeypatch.setattr(spreads, "pair_histogram", record)
    assert "All 1,128 pairs of the 48 images." in written(clustering=snapshot()).text
    assert np.array_equal(seen[0][0], distance)

    page = written(clustering=snapshot(), max_samples=10)
    assert "Sampled: the 45 pairs of 10 images, evenly spaced among 48." in page.text
    rows = np.linspace(0, 47, 10).round().astype(int)
    assert np.array_equal(seen[1][0], distance[np.ix_(rows, rows)])
    assert np.array_equal(seen[1][1], identity[rows])
    assert np.array_equal(seen[1][2], modality[rows])

    partly = np.where(np.arange(48) < 20, identity, -1)
    page = written(clustering=snapshot(identity=partly))
    assert "All 190 pairs of the 20 images whose identity is known." in page.text
    assert np.array_equal(seen[2][0], distance[:20, :20])


def test_curves_hold_their_points() -> None:
    columns = {"one": [1.0, None, 3.0], "none": [None, None, None], "two": [0.5, 0.5, 0.5]}
    lines = make_lines(columns, {"two": "dashed"})
    assert [line.name for line in lines] == ["one", "two"]
    assert math.isnan(lines[0].values[1])
    text = draw_curves(lines, [1, 2, 3], {0.5: "stage 1", 2.5: "stage 2"}, label="Some label")
    page = Page(text)
    assert len(page.attributes("use", "href")) == 2 + 3  # marks of the finite points
    assert "stage 1" in page.text
    assert "stage 2" in page.text
    assert page.attributes("svg", "aria-label") == ["Some label"]
    assert "#0072b2" not in text.lower()  # the page says what colors are
    assert text == draw_curves(
        lines, [1, 2, 3], {0.5: "stage 1", 2.5: "stage 2"}, label="Some label"
    )


@pytest.mark.parametrize(("epochs", "ticks"), [([0], "0"), ([4], "4"), ([0, 1], "0 1")])
def test_epochs_are_whole_numbers_on_the_axis(epochs: list[int], ticks: str) -> None:
    text = draw_curves(make_lines({"R1": [0.5] * len(epochs)}), epochs, {}, label="x", percent=True)
    assert Page(text).text.startswith(f"{ticks} epochs trained 0%")


def test_negative_values_are_in_sight() -> None:
    text = draw_curves(make_lines({"ARI": [-0.5, 0.5]}), [1, 2], {}, label="x", percent=True)
    assert "50% 0% 50%" in Page(text).text.replace("\N{MINUS SIGN}", "").replace("-", "")


def test_report_is_the_same_each_time(tmp_path: Path) -> None:
    options = {"title": "A", "config_toml": "", "environment": {}, "history": HISTORY}
    style = dict(mpl.rcParams)
    one, two = (
        write_report(tmp_path / name, **options, clustering=snapshot()).read_bytes()
        for name in ("one.html", "two.html")
    )
    assert one == two
    assert dict(mpl.rcParams) == style


def test_failure_leaves_the_older_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Callable[..., Page]
) -> None:
    written()
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        written(title="Another")
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib", "PIL"])
def test_missing_extra_is_named(
    missing: str,
    remove_package: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    remove_package(missing)
    monkeypatch.setattr(report_page, "collect_results", None)  # nothing is done before
    with pytest.raises(ImportError, match=r'pip install "mabm\[train\]"'):
        write_report(tmp_path / "r.html", title="", config_toml="", environment={}, history=HISTORY)
    assert not list(tmp_path.iterdir())


def test_clusters_of_each_modality_alone_are_numbered_side_by_side() -> None:
    alone, modality = torch.tensor([0, 1, -1, 0, 1, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    found = labels_shown(Clusters(alone, None), modality)
    assert found.tolist() == [0, 1, -1, 2, 3, 4, 5]
    assert labels_shown(Clusters(alone, alone + 1), modality).equal(alone + 1)


def test_seconds_in_words() -> None:
    words = [describe_seconds(value) for value in (0.4, 59.4, 59.6, 3599, 3600, 90061)]
    assert words == ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 1 min"]
