"""Several GPUs on paper: formulas against slow loops, and the page against the formulas."""

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import regions
import torch

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(GPU)
    return importlib.import_module("processes")


@pytest.fixture
def scale(formulas: Any) -> Any:
    return importlib.import_module("scale")


def case(formulas: Any, processes: int, count: int = 4_180_000, dim: int = 256) -> Any:
    predictions = importlib.import_module("predictions")
    return formulas.Case(predictions.likely_size(count, dim), processes)


@pytest.mark.parametrize("processes", range(1, 10))
def test_the_half_ring_compares_every_pair_once(formulas: Any, processes: int) -> None:
    """Each process hosts the following shards; of two that are half the ring apart, parts."""
    rows, pairs, sent, most = 4, set(), 0, 0
    shard = [{(p, row) for row in range(rows)} for p in range(processes)]
    for p in range(processes):
        hosted = 0
        for step in range(1, processes // 2 + 1):
            q = (p + step) % processes
            own, visiting = shard[p], shard[q]
            if 2 * step == processes and p < q:
                own = {row for row in own if row[1] < rows // 2}
            elif 2 * step == processes:
                visiting = {row for row in visiting if row[1] >= rows // 2}
            hosted += len(visiting)
            found = {frozenset((a, b)) for a in own for b in visiting}
            assert not found & pairs
            pairs |= found
        sent, most = sent + hosted, max(most, hosted)
    assert len(pairs) == processes * (processes - 1) // 2 * rows**2
    given = case(formulas, processes)
    mean = replace(given, last_step=formulas._MEAN_OF_LAST_STEP)
    assert mean.steps * rows * processes == sent
    assert given.steps * rows == most


def test_neighbors_come_to_lists_as_often_as_is_said(formulas: Any) -> None:
    """A list of the own shard, whole shards that its process meets, and the row's own visits."""
    width, rows, met, tries = 20, 100, 4, 500
    scores = torch.rand(tries, 3, met, rows, generator=torch.Generator().manual_seed(0))
    own, hosts, met_later = scores[:, 0, 0], scores[:, 1], scores[:, 2]

    def worst(*parts: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([part.reshape(tries, -1) for part in parts], dim=1)
        return joined.topk(width).values[:, -1:]

    def better(part: torch.Tensor, threshold: torch.Tensor) -> float:
        return float((part.reshape(tries, -1) > threshold).sum(1).float().mean()) / width

    first = better(hosts, worst(own))
    second = better(hosts, worst(own, met_later[:, :, : rows // 2]))
    given = case(formulas, 2 * met + 1)
    assert given.sent_home == pytest.approx((first + second) / 2, rel=0.05)

    entered = 1 + sum(
        better(met_later[:, step], worst(own, met_later[:, :step])) for step in range(met)
    )
    assert given.growth - given.sent_home == pytest.approx(entered, rel=0.05)


def test_rows_of_others_are_counted_once(formulas: Any) -> None:
    count, processes, asked = 6000, 4, 3
    given = case(formulas, processes, count)
    drawn = torch.randint(count, (count // processes * asked,), generator=torch.Generator())
    foreign = drawn.unique()
    foreign = foreign[foreign >= count // processes]
    assert given.foreign(asked) == pytest.approx(len(foreign), rel=0.03)


def test_one_process_sends_nothing_and_takes_what_is_predicted_for_one(formulas: Any) -> None:
    one = case(formulas, 1)
    assert {name: part(one) for name, part in formulas.WIRE.items()} == dict.fromkeys(
        formulas.WIRE, 0
    )
    assert formulas.whole_wire(one) == 0
    for device in formulas.devices():
        predicted = importlib.import_module("predictions").predicted_stages(one.size, device)
        taken = sum(formulas.computing(one, device))
        assert taken * 1e3 == pytest.approx(predicted[formulas.WHOLE])
        assert formulas.seconds(one, device) == pytest.approx(taken)


def test_sums_and_maxima(formulas: Any) -> None:
    given = case(formulas, 8)
    parts = [part(given) for part in formulas.WIRE.values()]
    assert all(parts)
    assert formulas.wire(given) == pytest.approx(sum(parts))
    assert sum(parts) < formulas.whole_wire(given)
    few, many = (replace(given, processes=n) for n in (64, 256))
    assert formulas.memory(many) < formulas.memory(few) < formulas.memory(given)
    assert formulas.memory(given) < sum(part(given) for part in formulas.MEMORY.values())


def test_machines_are_slower_to_reach_than_the_gpus_of_one(formulas: Any) -> None:
    for device in formulas.devices():
        assert formulas.link(case(formulas, 8), device) > formulas.link(case(formulas, 9), device)
    assert {device.name for device in formulas.devices()} == set(formulas.LINKS)


@pytest.mark.parametrize(
    ("taken", "words"), [(0.5, "0.50 s"), (89, "89.0 s"), (90, "1.50 min"), (2e5, "2.31 days")]
)
def test_durations_have_a_fitting_unit(scale: Any, taken: float, words: str) -> None:
    assert scale._duration(taken) == words


def test_the_page_is_current(scale: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If this fails: python benchmarks/gpu/scale.py."""
    monkeypatch.setattr(sys, "argv", ["scale.py", "--check"])
    assert scale.main() == 0
    text = scale.PAGE.read_text("utf-8")
    assert {*scale.tables(), "processes"} == set(regions.names(text))
    assert "does not fit" in text
    assert not re.search(r"\b(nan|inf)\b", text)
    # What is written by hand states no figure of a table.
    prose = regions.REGION.sub("", text)
    assert re.findall(r"\d[\d.,]* (?:s|ms|min|h|days|GB|TB|MB)\b", prose) == []

    stale = tmp_path / "scale.md"
    shutil.copy(scale.PAGE.with_name(scale.FIGURES), tmp_path)
    stale.write_text(text.replace("| 4,180,000 |", "| 4 |"))
    monkeypatch.setattr(scale, "PAGE", stale)
    assert scale.main() == 1
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    assert scale.main() == 0
    assert stale.read_text() == text


def test_measured_figures_stand_beside_the_formulas(
    scale: Any, formulas: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scale, "PAGE", tmp_path / "scale.md")
    assert scale.tables()["compared"] == ["*Not measured yet.*"]

    def record(sent: int) -> dict[str, Any]:
        return {"peak": 3_000_000 + sent, "sent": {"ranking": sent, "other": 1_000_000}}

    rounds = [{"one": [record(0)], "two": [record(7_000_000), record(9_000_000)]}]
    cells = [{"samples": 5000, "dim": 16, "rounds": rounds}]
    (tmp_path / "scale.json").write_text(json.dumps({"cells": cells}))
    two = case(formulas, 2, 5000, 16)
    lines = scale.tables()["compared"]
    assert lines[0] == "| measured, by formula | N = 5,000, R = 2 |"
    expected = {
        "ranking": (9, formulas.ranking(two)),
        "graph": (0, formulas.graph(two)),
        "**sent in all**": (18, formulas.whole_wire(two)),
        "**memory**": (12, formulas.memory_on_cpu(two)),
    }
    for name, (measured, formula) in expected.items():
        found = next(line for line in lines if line.startswith(f"| {name} |"))
        numbers = [float(each) for each in re.findall(r"[\d.]+", found.rpartition("|")[0])]
        assert numbers == pytest.approx([measured, formula / 1e6], rel=0.05)


def test_a_region_that_is_not_there_is_an_error() -> None:
    page = "a\n<!-- figures: b -->\nold\n<!-- end of figures -->\nc\n"
    assert regions.names(page) == ["b"]
    new = "a\n<!-- figures: b -->\n\nnew\n\n<!-- end of figures -->\nc\n"
    assert regions.fill(page, {"b": ["new"]}) == new
    assert regions.fill(page, {}) == page
    with pytest.raises(KeyError, match="no region named d"):
        regions.fill(page, {"d": []})


def test_formulas_hold_against_what_was_measured(formulas: Any, scale: Any) -> None:
    """Counts per row are those of other inputs: bytes are near, and memory is an upper end."""
    cells = json.loads(scale.PAGE.with_name(scale.FIGURES).read_text(encoding="utf-8"))["cells"]
    compared = 0
    for cell in cells:
        for found in cell["rounds"][0].values():
            if len(found) == 1:
                continue
            given = case(formulas, len(found), cell["samples"], cell["dim"])
            most = {
                stage: max(record["sent"][stage] for record in found) for stage in formulas.WIRE
            }
            for stage, part in formulas.WIRE.items():
                assert most[stage] <= 1.2 * part(given), stage
            sent = sum(sum(record["sent"].values()) for record in found)
            assert 0.7 * formulas.whole_wire(given) < sent < 1.2 * formulas.whole_wire(given)
            peak = max(record["peak"] for record in found)
            assert peak <= formulas.memory_on_cpu(given)
            compared += 1
    assert compared == 4
