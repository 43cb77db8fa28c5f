"""The benchmark of several processes: what it counts, compares and writes; never its times."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import torch
from thread_team import run_as_team

from mabm.distributed.exchange import gather_all


@pytest.fixture
def same_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_bytes_are_those_that_teams_send() -> None:
    def act(team: Any) -> None:
        with team.stage("ranking"):
            gather_all(team, torch.zeros(5, 2))
        gather_all(team, torch.zeros(3, dtype=torch.int64))

    run_as_team(2, act)  # before, which does not count
    with distributed.counted_bytes() as sent:
        run_as_team(3, act)
    # Each of three sends its rows, and their number, to two others.
    assert dict(sent) == {"ranking": 3 * 2 * (40 + 8), "": 3 * 2 * (24 + 8)}


@pytest.mark.parametrize("count", [7, 8, 400])
def test_every_row_has_one_process(count: int) -> None:
    for processes in (1, 2, 3):
        setup = distributed.Setup(processes, 1)
        rows = [range(count)[setup.rows(rank, count)] for rank in range(processes)]
        assert [row for part in rows for row in part] == list(range(count))


def test_labels_that_differ_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(setup: distributed.Setup, folder: Path) -> list[dict[str, Any]]:
        for rank in range(setup.processes):
            labels = np.arange(4)[setup.rows(rank, 4)] + (rank == wrong)
            np.save(setup.labels_file(folder, rank), labels)
        return [{}] * setup.processes

    monkeypatch.setattr(distributed, "run", fake)
    setups = [distributed.Setup(1, 2, plain=True), distributed.Setup(2, 1)]
    wrong = -1
    assert [len(each) for each in distributed.measure_round(setups, tmp_path, "").values()] == [
        1,
        2,
    ]
    wrong = 1
    with pytest.raises(AssertionError, match="2 processes, 1 thread"):
        distributed.measure_round(setups, tmp_path, "")


@pytest.mark.slow
def test_the_command_measures_processes_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_environment: None
) -> None:
    few = ["--samples", "300", "--dim", "16", "--processes", "2", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["distributed.py", *few, "--docs", str(tmp_path)])
    monkeypatch.setattr(distributed.machine, "use_by_others", lambda: 0.5)
    distributed.main()

    (cell,) = json.loads((tmp_path / "evidence" / "scale.json").read_text())["cells"]
    (measured,) = cell["rounds"]
    one, two = measured.values()
    assert (len(one), len(two)) == (1, 2)
    assert one[0]["sent"] == {}
    assert one[0]["features"] == sum(record["features"] for record in two) == 300 * 16 * 4
    assert all(record["seconds"] > 0 and record["peak"] >= 0 for record in one + two)

    page = (tmp_path / "evidence" / "scale.md").read_text("utf-8")
    assert "other work used 50% of the processor: **times are too high" in page
    assert "N = 300, D = 16, rounds: 1" in page
    for name in measured:
        assert f"| {name} |" in page


def test_tables_have_the_most_of_processes_and_the_sum_of_their_bytes() -> None:
    def record(seconds: float, peak: int, **sent: int) -> dict[str, Any]:
        return {"seconds": seconds, "peak": peak, "features": 2_000_000, "sent": sent}

    rounds = [
        {
            "one": [record(2.0, 9_000_000)],
            "two": [record(s, 4_000_000, ranking=5_000_000), record(1.0, 3_000_000, graph=20_000)],
        }
        for s in (3.0, 4.0, 8.0)
    ]
    cell = {"samples": 1000, "dim": 16, "rounds": rounds, "summary": {"clusters": 5, "noise": 7}}
    conditions = {"processor": "P", "cores": 2, "python": "3", "mabm": "0", "torch": "2"}
    figures = {"conditions": conditions, "use_by_others": 0.01, "cells": [cell]}
    lines = distributed.tables(figures)
    assert lines[0].endswith("other work used 1% of the processor.")
    assert "| one | 2.00 | 1 | 9.00 MB | 2.00 MB | - | - |" in lines
    times = "4.00 (3.00 to 8.00) | 2.00 (1.50 to 4.00)"
    assert f"| two | {times} | 4.00 MB | 2.00 MB | 5.00 MB | 5.02 MB |" in lines
    assert lines[-2:] == ["| ranking | 5.00 MB |", "| graph | 0.02 MB |"]
