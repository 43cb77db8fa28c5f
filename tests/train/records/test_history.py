"""The history: what is read back, what is refused, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mabm.train.records.history import History, strict_json


def entry(stage: int, epoch: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, **more}


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


def filled(history: History) -> History:
    for stage, epoch in ((0, 0), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2)):
        history.append(entry(stage, epoch))
    return history


def positions(history: History) -> list[tuple[int, int]]:
    return [(line["stage"], line["epoch"]) for line in history.read()]


def test_no_file_has_no_entries(history: History) -> None:
    assert history.read() == []
    history.truncate(stage=-1, epoch=0)
    assert not history.path.exists()


def test_numbers_come_back_as_they_were(history: History) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 12345678901234567890, True, None]
    history.append(entry(1, 1, values=values, text="naïve\n“text” \u2028"))
    assert history.read() == [
        {"stage": 1, "epoch": 1, "values": values, "text": "naïve\n“text” \u2028"}
    ]
    assert str(history.read()[0]["values"][4]) == "-0.0"
    assert history.path.read_bytes().count(b"\n") == 1


def test_arrays_and_tensors_become_lists(history: History) -> None:
    history.append(
        entry(
            np.int64(1),  # type: ignore[arg-type]
            2,
            mix=np.array([[0.25, np.nan], [np.inf, 1]], dtype=np.float32),
            loss=torch.tensor(0.5, requires_grad=True),
            share=np.float32(0.1),
            pair=(1, 2),
        )
    )
    assert history.read() == [
        {
            "stage": 1,
            "epoch": 2,
            "mix": [[0.25, None], [None, 1.0]],
            "loss": 0.5,
            "share": float(np.float32(0.1)),
            "pair": [1, 2],
        }
    ]


def test_lines_are_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = strict_json({"a": float("nan"), "b": [-float("inf"), 1.5]})
    assert json.loads(text, parse_constant=refuse) == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({1: 2}, "keys must be str, got int: 1"),
        ({"path": Path("x")}, "values must be JSON-serializable, got PosixPath"),
        ({"set": {1}}, "values must be JSON-serializable, got set"),
    ],
)
def test_what_json_cannot_hold_is_refused(
    odd: dict[Any, Any], message: str, history: History
) -> None:
    history.append(entry(1, 1))
    with pytest.raises(TypeError, match=message):
        history.append(entry(1, 2, odd=odd))
    assert positions(history) == [(1, 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"stage": 1}, r"entry must have a 'epoch', got \['stage'\]"),
        ({"epoch": 1}, "entry must have a 'stage'"),
        ({"stage": 1, "epoch": -1}, "epoch of entry must be at least 0, got -1"),
    ],
)
def test_every_entry_has_its_place(line: dict[str, Any], message: str, history: History) -> None:
    with pytest.raises(ValueError, match=message):
        history.append(line)
    assert not history.path.exists()


@pytest.mark.parametrize("torn", [b'{"stage": 2, "ep', b'{"stage": 2, "epoch": 3}', b"\xff\xfe"])
def test_a_torn_last_line_is_no_entry(torn: bytes, history: History) -> None:
    whole = positions(filled(history))
    with history.path.open("ab") as stream:
        stream.write(torn)
    assert positions(history) == whole
    history.append(entry(2, 3, after="the kill"))
    assert positions(history) == [*whole, (2, 3)]
    assert history.read()[-1]["after"] == "the kill"


def test_a_broken_whole_line_is_named(history: History) -> None:
    filled(history)
    lines = history.path.read_text().splitlines()
    history.path.write_text("\n".join([*lines[:2], "{torn", *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 3 is not JSON"):
        history.read()
    history.path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1 must be a JSON object, got \[1\]"):
        history.read()


@pytest.mark.parametrize(
    ("stage", "epoch", "count"),
    [(-1, 0, 0), (0, 0, 1), (1, 0, 1), (1, 2, 3), (1, 9, 4), (2, 1, 5), (2, 2, 6), (3, 0, 6)],
)
def test_truncate_keeps_up_to_an_epoch(
    stage: int, epoch: int, count: int, history: History
) -> None:
    before = filled(history).path.read_bytes()
    history.truncate(stage=stage, epoch=epoch)
    assert len(history.read()) == count
    assert before.startswith(history.path.read_bytes())
    assert list(history.path.parent.iterdir()) == [history.path]
    history.append(entry(4, 1))
    assert len(history.read()) == count + 1


def test_truncate_removes_a_torn_line(history: History) -> None:
    whole = filled(history).path.read_bytes()
    with history.path.open("ab") as stream:
        stream.write(b'{"stage"')
    history.truncate(stage=9, epoch=9)
    assert history.path.read_bytes() == whole


def test_truncate_that_cannot_replace_leaves_the_file(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = filled(history).path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        history.truncate(stage=1, epoch=1)
    assert history.path.read_bytes() == whole


def test_a_kill_leaves_whole_entries(history: History) -> None:
    code = """
import sys
from mabm.train.records.history import History
history = History(sys.argv[1])
epoch = 0
while True:
    epoch += 1
    history.append({"stage": 1, "epoch": epoch, "text": "x" * (epoch * 997 % 20000)})
    if epoch == 20:
        print("going", flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(history.path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "going\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    entries = history.read()
    assert len(entries) >= 20
    assert [line["epoch"] for line in entries] == list(range(1, len(entries) + 1))
    assert all(len(line["text"]) == line["epoch"] * 997 % 20000 for line in entries)
    history.append(entry(1, len(entries) + 1))
    assert len(history.read()) == len(entries) + 1
