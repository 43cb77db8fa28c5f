"""The speed page: its routes give the library's labels, and its command measures and writes all."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dense_route
import numpy as np
import pytest
import rankings
import regions
import routes
import sparse_route
import speed_page
import speed_tables
import torch
from features import KINDS, make_features

import mabm

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "speed.md"


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_every_kind_are_unit_vectors_that_the_seed_decides(kind: str) -> None:
    features, modality = make_features(120, 70, kind=kind)
    assert features.shape == (120, 70)
    assert modality.tolist() == [0] * 78 + [1] * 42
    torch.testing.assert_close(features.norm(dim=1), torch.ones(120))
    assert torch.equal(features, make_features(120, 70, kind=kind)[0])
    assert not torch.equal(features, make_features(120, 70, seed=1, kind=kind)[0])


@pytest.mark.parametrize(("kind", "fewest", "most"), [("clear", 10, 10), ("noise", 0, 0)])
def test_clear_features_have_their_clusters_and_noise_has_none(
    kind: str, fewest: int, most: int
) -> None:
    found = mabm.pseudo_labels(*make_features(400, 128, kind=kind))
    assert fewest <= found.num_clusters <= most


def test_singular_values_decay_as_they_say() -> None:
    values = torch.linalg.svdvals(make_features(2000, 64, kind="decaying")[0])
    level = values[3:16] * torch.arange(4, 17)  # rows of length 1 have less of the first ones
    torch.testing.assert_close(level, level.mean().expand(13), rtol=0.2, atol=0)


@pytest.mark.parametrize("ranking", rankings.RANKINGS)
@pytest.mark.parametrize("preset", routes.PRESETS)
@pytest.mark.parametrize("k2", [1, 3])
def test_routes_give_distances_and_labels_of_the_library(
    ranking: str, preset: str, k2: int
) -> None:
    if reason := rankings.missing(ranking):
        pytest.skip(reason)
    features, modality = make_features(400, 64)
    options: dict[str, Any] = {"k1": 20, "k2": k2, "preset": preset}
    expected = mabm.modality_jaccard(features, modality, **options)
    labels = mabm.pseudo_labels(features, modality, **options).labels
    assert labels.max() > 0

    lists = rankings.RANKINGS[ranking](features, rankings.group_rows(modality, preset), 20)
    distance = dense_route.dense_jaccard(features, lists, 20, k2)
    np.testing.assert_allclose(distance, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(dense_route.cluster(distance), labels)

    encoding = sparse_route.sparse_encoding(features, lists, 20, k2)
    graph = sparse_route.sparse_jaccard(encoding)
    kept = graph.tocoo()
    assert kept.nnz == (expected <= 0.6).sum()
    np.testing.assert_allclose(kept.data, expected[kept.row, kept.col], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(sparse_route.cluster(graph), labels)


def test_duplicates_keep_their_zeros_on_the_sparse_route() -> None:
    features = torch.eye(8).repeat(10, 1)
    modality = torch.arange(80) % 2
    lists = rankings.rank_by_torch(features, rankings.group_rows(modality, "bmil"), 10)
    graph = sparse_route.sparse_jaccard(sparse_route.sparse_encoding(features, lists, 10, 2))
    assert (graph.diagonal() == 0).all()
    labels = mabm.pseudo_labels(features, modality, k1=10, k2=2).labels
    np.testing.assert_array_equal(sparse_route.cluster(graph), labels)


def test_equality_is_checked_against_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "SMALL", 150)
    threads = torch.get_num_threads()
    routes.check_equality("usual", "bmil", threads)
    right = dense_route.dense_jaccard
    monkeypatch.setattr(
        dense_route, "dense_jaccard", lambda *given: right(*given) + np.float32(2e-5)
    )
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        routes.check_equality("usual", "bmil", threads)


def test_a_route_runs_in_a_process_of_its_own() -> None:
    assert routes.run_apart(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError, match=r"process of _exit 3 died"):
        routes.run_apart(os._exit, 3)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Runs the command on very little, in this process, and returns what it asked for."""
    asked: list[str] = []

    def run_here(function: Callable[..., Any], *arguments: Any) -> Any:
        asked.append(" ".join([function.__name__, *map(str, arguments[:1])]))
        return function(*arguments)

    def use_by_others() -> float:
        asked.append("use_by_others")
        return next(uses)

    def run(*arguments: str) -> list[str]:
        asked.clear()
        few = ["--samples", "320", "--dim", "16", "--rounds", "2", "--kinds", "noise"]
        few += ["--sizes", "200", "400", "--sizes-dim", "8", "--threads", threads]
        monkeypatch.setattr(
            "sys.argv", ["speed_page.py", *few, "--docs", str(tmp_path), *arguments]
        )
        speed_page.main()
        return list(asked)

    threads = str(torch.get_num_threads())
    uses = iter([0.01, 0.5, 0.02, 0.03])  # of the processor, while commands measure
    monkeypatch.setattr(speed_page, "run_apart", run_here)
    monkeypatch.setattr(speed_page.machine, "use_by_others", use_by_others)
    monkeypatch.setattr(speed_page, "check_equality", lambda *_: None)
    monkeypatch.setattr(routes, "_WARM_UP", 100)
    step = {"batch": 16, "instances": 4, "dim": 8, "clusters": 8, "rounds": 2}
    measure = speed_page.losses.measure
    monkeypatch.setattr(speed_page.losses, "measure", lambda **options: measure(**step))
    before = dict(os.environ)
    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.needs("matplotlib")
def test_the_command_writes_the_page_and_measures_nothing_twice(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    asked = command()
    assert {"run_here dense", "run_here sparse", "run_here stages", "run_here NumPy"} <= set(asked)
    assert asked.index("use_by_others") < asked.index("run_here mabm")
    page = (tmp_path / "evidence" / "speed.md").read_text("utf-8")
    assert "Not measured yet" not in page
    assert "it used 1% of the processor" in page
    assert "all labels equal (SciPy-sparse route, dense route)" in page
    for target in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
        assert (tmp_path / "evidence" / target).exists()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3

    assert [each for each in command() if not each.startswith("describe")] == []
    assert command("--parts") == []
    assert (tmp_path / "evidence" / "speed.md").read_text("utf-8") == page

    saved = tmp_path / "evidence" / "speed.json"
    figures = json.loads(saved.read_text())
    saved.write_text(json.dumps(figures | {"cells": figures["cells"] | {"of another size": {}}}))
    again = command("--parts", "classic", "--again")
    assert json.loads(saved.read_text())["cells"].keys() == figures["cells"].keys()
    assert again.count("run_here mabm") == 2
    assert again.count("run_here dense") == 1
    assert "it used 50% of the processor" in (tmp_path / "evidence" / "speed.md").read_text("utf-8")

    # The machine is another one: its figures are not mixed with those of this one.
    figures = json.loads(saved.read_text())
    assert figures["cells"]
    figures["conditions"]["processor"] = "another one"
    saved.write_text(json.dumps(figures))
    command("--parts", "step")
    assert json.loads(saved.read_text())["cells"] == {}


def test_the_page_tells_what_differs_and_what_failed(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(given: routes.Inputs) -> routes.Outcome:
        found = routes.by_sparse(given)
        found.labels[:3] = found.labels.max() + 1
        return found

    def failing(given: routes.Inputs) -> routes.Outcome:
        raise MemoryError("too little")

    monkeypatch.setitem(routes.ROUTES, "sparse", wrong)
    monkeypatch.setitem(routes.ROUTES, "dense", failing)
    command("--parts", "classic")
    page = (tmp_path / "evidence" / "speed.md").read_text("utf-8")
    assert "labels of the SciPy-sparse route differ for 3 of 160 samples" in page
    assert "dense failed: MemoryError: too little" in page
    assert page.count("Not measured yet") == len(speed_tables.REGIONS) - 2

    monkeypatch.setitem(routes.ROUTES, "mabm", failing)
    with pytest.raises(MemoryError):
        command("--parts", "kinds")


def test_all_figures_of_the_page_are_written_by_the_command() -> None:
    text = PAGE.read_text("utf-8")
    assert sorted(regions.names(text)) == sorted(speed_tables.REGIONS)
    prose = regions.REGION.sub("", text)
    assert re.findall(r"\d[\d.,]* (?:s|ms|GB|MB|%|times|seconds|minutes)\b", prose) == []
    assert re.findall(r"\d\.\d+", prose) == ["0.6"]  # eps
