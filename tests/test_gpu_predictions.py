"""Predictions for GPUs: formulas and counts against slow loops, tables, their place in reports."""

import importlib
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mabm
from mabm.distance import candidates, reranking, whole_products
from mabm.distance.integer_products import IntegerProduct
from mabm.distance.list_layout import ListLayout
from mabm.distance.products import HalfProduct

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"
NAMES = ("calls", "cards", "counts", "microbenchmarks", "predictions", "stages", "work")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the benchmarks, by name."""
    monkeypatch.syspath_prepend(GPU)
    return SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})


def some_input(bench: Any, count: int = 300, dim: int = 24) -> Any:
    features = torch.nn.functional.normalize(
        torch.randn(count, dim, generator=torch.Generator().manual_seed(1)), dim=1
    )
    return bench.stages.Prepared.of(features, torch.arange(count) % 3 // 2)


def test_counts_are_those_of_slow_loops(bench: Any) -> None:
    given = some_input(bench)
    found, count = bench.counts.count_work(given), len(given.features)
    members = [set(given.neighbors.row(i).tolist()) for i in range(count)]
    lists = [set(row) for row in given.ranking.ranks.tolist()]
    rows = [given.expanded.row(i).tolist() for i in range(count)]
    columns = [sum(j in row for row in rows) for j in range(count)]
    averaged = [[j for part in given.ranking.lists(6) for j in part[i]] for i in range(count)]
    pairs = [(i, j) for i in range(count) for j in members[i]]
    expected = {
        "width": 30,
        "lists": 2,
        "members": len(pairs) / count,
        "listed": np.mean([j in lists[i] for i, j in pairs]),
        "known": np.mean([j in lists[i] or i in lists[j] for i, j in pairs]),
        "entries": len(given.encoding.indices) / count,
        "averaged": 12,
        "additions": sum(len(given.encoding.row(int(j))) for row in averaged for j in row) / count,
        "expanded": sum(map(len, rows)) / count,
        "pairs": sum(columns[j] for row in rows for j in row) / count,
        "near": len(given.graph.indices) / count,
        "crowded": 0.0,
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    # More candidates than neighbors, and no fewer of the coarser product.
    assert found.half_candidates >= found.width
    assert found.candidates >= found.half_candidates
    assert found.insertions >= found.candidates


def test_insertions_are_those_of_a_list_that_grows_one_by_one(bench: Any) -> None:
    width, gap, capacity = 5, 0.3, 30
    scores = torch.randn(20_000, generator=torch.Generator().manual_seed(2)).double()
    scores += torch.linspace(0, 5, 20_000)  # later ones are greater
    scores[::7] = -torch.inf  # columns of another list
    sampled = [r * 8192 // 64 + c for c in range(32) for r in range(64)]
    best = [max(float(scores[j]) for j in sampled[64 * c : 64 * c + 64]) for c in range(32)]
    threshold, kept, inserted = sorted(best)[-width] - gap, [], 0
    for score in scores.tolist():
        if score == -math.inf or score < threshold:
            continue
        kept.append(score)
        inserted += 1
        if len(kept) == capacity:
            threshold = max(threshold, sorted(kept)[-width] - gap)
            kept = [each for each in kept if each >= threshold]
    assert bench.counts._filled(scores, width, gap, capacity) == inserted
    assert inserted > 2 * capacity  # it was cut twice


@pytest.mark.parametrize("count", [1, 8192, 8193, 34_167])
def test_tiles_are_those_of_a_loop(bench: Any, count: int) -> None:
    size = bench.work.Size(count, 2048, some_counts(bench))
    starts = range(0, count, 8192)
    sides = [min(8192, count - start) for start in starts]
    above = [(a, b) for k, a in enumerate(sides) for b in sides[k:]]
    assert size.num_tiles == len(above)
    assert size.tile_area == sum(a * b for a, b in above)
    work = bench.work.multiply(size)
    assert work.operations == {"int8": 2 * 2048 * size.tile_area}


def some_counts(bench: Any, **changed: float) -> Any:
    return replace(bench.predictions.likely_size(34_167, 2048).counts, **changed)


def test_the_longest_of_bytes_and_operations_counts_and_launches_on_top(bench: Any) -> None:
    h100 = bench.cards.DEVICES[0]
    rates = h100.rates({})
    work = bench.work.Work(
        moved=rates["bytes"],  # a second
        reused=((rates["bytes"], 2 * h100.cache), (rates["cached bytes"], h100.cache)),
        operations={"int8": 2.4 * rates["int8"], "float64": rates["float64"]},
        launches=1000,
        calls=1000,
        waits=100,
    )
    half_cached = 500 + 500 * rates["bytes"] / rates["cached bytes"]
    found = bench.predictions.predicted_ms(work, h100)
    assert found == (pytest.approx(1000 + half_cached + 1000 + 9), "bytes")
    measured = {"copy": 2 * rates["bytes"], "int8": rates["int8"] / 2}
    found = bench.predictions.predicted_ms(work, h100, measured)
    assert found == (pytest.approx(4800 + 9), "int8")


def test_float16_comes_first_where_integers_prove_too_few(bench: Any) -> None:
    some = bench.work.Size(34_167, 2048, some_counts(bench, unproven=0.1))
    many = bench.work.Size(34_167, 2048, some_counts(bench, unproven=0.2))
    assert set(bench.work.multiply(some).operations) == {"int8"}
    assert set(bench.work.multiply(many).operations) == {"float16"}
    assert bench.work.multiply_left(some).operations["float16"] > 0
    assert bench.work.multiply_left(many) == bench.work.Work()


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("Tesla T4", None),
        ("x86_64", None),
    ],
)
def test_devices_are_known_by_name(bench: Any, name: str, device: str | None) -> None:
    found = bench.cards.device_of(name)
    assert (found and found.name) == device


def test_every_prediction_has_its_measurement(bench: Any) -> None:
    names = {stage.name for stage in bench.stages.STAGES}
    size = bench.work.Size(34_167, 2048, some_counts(bench))
    predicted = bench.predictions.predicted_stages(size, bench.cards.DEVICES[0])
    assert predicted.keys() <= names
    assert {name for name in names if "fast" not in name} == predicted.keys()


def test_the_tables_are_current(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails: python benchmarks/gpu/predictions.py."""
    monkeypatch.setattr(sys, "argv", ["predictions.py", "--check"])
    assert bench.predictions.main() == 0
    text = bench.predictions.RESULTS.read_text()
    predicted = text[text.index(bench.predictions.BEGIN) : text.index(bench.predictions.END)]
    for part in bench.work.PARTS:
        assert f"| {part.name} |" in predicted
    assert "does not fit" in predicted
    assert not re.search(r"\bnan\b|\binf\b", predicted)


def test_a_report_has_the_prediction_beside_the_measurement(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = {"copy": 1e10, "float16": 1e11, "float64": 1e11}
    monkeypatch.setattr(bench.microbenchmarks, "ceilings", lambda timer: rates)
    monkeypatch.setattr(bench.microbenchmarks, "_SEEDS", (0,))
    monkeypatch.setattr(bench.microbenchmarks, "peers", lambda device: ())
    monkeypatch.setattr(bench.microbenchmarks, "device_of", lambda name: bench.cards.DEVICES[1])
    options = ["--device", "cpu", "--sizes", "120x16", "--name", "both", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["microbenchmarks.py", *options, "--seconds", "60"])
    assert bench.microbenchmarks.main() == 0
    size = json.loads((tmp_path / "both.json").read_text())["sizes"][0]
    assert size["errors"] == {}
    assert size["predicted_for"] == "H200"
    assert size["counts"]["width"] == 30
    table = (tmp_path / "both-table.txt").read_text().splitlines()
    heading = next(line.split() for line in table if "median ms" in line)
    assert heading[:3] == ["median", "ms", "predicted"]
    for name in ("pseudo_labels", "rank_neighbors", "dbscan", "rerank"):
        line = next(line for line in table if line.startswith(f"  {name} "))
        measured, predicted = map(float, line[len(f"  {name}") :].split()[:2])
        assert measured == pytest.approx(size["stages"][name]["median_ms"], abs=1e-3)
        assert predicted == pytest.approx(size["predicted_ms"][name], abs=1e-3)
    assert any(line.startswith("  predicted for H200, ms: checks ") for line in table)


def test_calls_that_wait_are_found(bench: Any) -> None:
    numbers = torch.tensor([3, -1, 2])
    with bench.calls.CountCalls() as counted:
        doubled = numbers.view(3, 1)[:, 0] * 2
        assert int(doubled.max()) == 6
        assert doubled[doubled > 0].tolist() == [6, 4]
    # A product, the greatest, its value; a comparison and an index by it.
    assert counted.calls.number == 5
    assert sum(counted.calls.waits.values()) == 2
    # Read and written: 3 + 3; 3 + 1; 1; 3 numbers + 3 bool; 2 + 2 numbers + 3 bool.
    assert counted.calls.moved == 8 * (6 + 4 + 1 + 3 + 4) + 6


@pytest.mark.parametrize("product", [IntegerProduct, HalfProduct])
def test_predicted_bytes_of_preparation_are_those_that_are_counted(
    bench: Any, product: Any
) -> None:
    count, dim = 32_768, 128
    x, modality = bench.calls.make_features(count, dim)
    layout = ListLayout.of(x, modality, mabm.PRESETS["bmil"], 30)
    with bench.calls.as_on_a_gpu(), bench.calls.CountCalls() as counted:
        candidates.Proposals(x, layout, product(x), euclidean=False)
    by_integers = product is IntegerProduct
    size = bench.work.Size(count, dim, some_counts(bench, unproven=0.0), by_integers)
    sampled = 8 * by_integers * bench.work.SAMPLE * count  # products, which come after
    assert bench.work.prepare(size).moved - sampled == pytest.approx(counted.calls.moved, rel=0.05)


@pytest.mark.parametrize("in_digits", [False, True])
def test_predicted_bytes_and_calls_of_re_ranking_are_those_that_are_counted(
    bench: Any, in_digits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, dim = 10_240, 128  # 1,024 queries, and two parts of the columns
    x, _ = bench.calls.make_features(count, dim)
    distance = torch.zeros(count // bench.work.QUERY_SHARE, count - count // bench.work.QUERY_SHARE)
    monkeypatch.setattr(whole_products, "wants_digits", lambda x: in_digits)
    with bench.calls.as_on_a_gpu(), bench.calls.CountCalls() as counted:
        reranking._mix_in_euclidean(distance, x, 0.3, lambda done: None)
    part = bench.work.multiply_digits if in_digits else bench.work.multiply_whole
    work = part(bench.work.Size(count, dim, some_counts(bench)))
    moved = work.moved + sum(again for again, _ in work.reused)
    assert moved - 8 * x.numel() == pytest.approx(counted.calls.moved, rel=0.05)  # not joined here
    assert work.calls == pytest.approx(counted.calls.number, rel=0.1)
    assert not counted.calls.waits


def test_cards_multiply_in_digits_as_their_compute_capabilities_do(bench: Any) -> None:
    capabilities = ((9, 0), (9, 0), (8, 0), (8, 6), (8, 9))
    for device, capability in zip(bench.cards.DEVICES, capabilities, strict=True):
        assert device.slow_float64 == whole_products.has_slow_float64(capability)
        parts = bench.predictions.predict(bench.work.Size(9, 9, some_counts(bench)), device, {})
        found = [name for name in parts["predicted_parts_ms"] if "digits" in name]
        assert bool(found) == device.slow_float64


@pytest.mark.parametrize("count", [8_000, 34_167, 100_000])
def test_predicted_calls_and_waits_are_those_that_are_counted(bench: Any, count: int) -> None:
    stages = bench.stages
    found = bench.calls.count_calls(count, 32, 32)  # in blocks that are as much smaller
    size = bench.work.Size(count, 32, some_counts(bench, unproven=0.0))
    for name, most in ((stages.WHOLE, 400), (stages.RANKING, 300), ("expand_queries", 30)):
        calls = found[name]
        parts = [part.work(size) for part in bench.work.PARTS if name in part.stages]
        counted = calls.number - sum(calls.ops.values())
        assert counted < most * max(count / 34_167, 1)
        assert sum(work.calls for work in parts) == pytest.approx(counted, rel=0.1), name
    waits = sum(part.work(size).waits for part in bench.work.PARTS if stages.RANKING in part.stages)
    assert waits == sum(found[stages.RANKING].waits.values())
    # Tiles on and above the diagonal, those above twice, and a sample of rows.
    assert found[stages.RANKING].ops["collect_candidates_"] == size.num_sides * (size.num_sides + 1)
