"""TensorBoard: which scalars an entry has, and that the event file holds them."""

import sys
from pathlib import Path
from typing import Any

import pytest
from full_disk import most_bytes

from mabm.train.records.tensorboard import TensorBoardLog, epoch_scalars

ENTRY: dict[str, Any] = {
    "stage": 2,
    "epoch": 3,
    "seconds": 4.5,
    "losses": {"infrared": 1.25, "visible": float("nan"), "across": None},
    "clusters": {"global": 7},
    "diagnostics": {
        "global": {
            "num_noise": 3,
            "ari": None,
            "pair_recall": 0.25,
            "modalities": [0, 1],
            "neighbor_mix": [[0.75, 0.25], None],
        }
    },
    "warnings": ["few clusters", "few more"],
    "evaluation": {
        "infrared-to-visible": {"mean": {"rank1": 0.5, "mAP": 0.375}, "std": {"rank1": 0.125}}
    },
}
SCALARS = {
    "seconds": 4.5,
    "losses/infrared": 1.25,
    "clusters/global": 7,
    "diagnostics/global/num_noise": 3,
    "diagnostics/global/pair_recall": 0.25,
    "diagnostics/global/neighbor_mix/0_0": 0.75,
    "diagnostics/global/neighbor_mix/0_1": 0.25,
    "evaluation/infrared-to-visible/rank1": 0.5,
    "evaluation/infrared-to-visible/mAP": 0.375,
    "warnings": 2,
}


def points_of(file: Path) -> tuple[int, list[tuple[str, float, int]]]:
    """From what step on a file hides what came before it, and its points."""
    pytest.importorskip("tensorboard")  # one of the tests' packages, yet not of every GPU machine's
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    version, start, *events = LegacyEventFileLoader(str(file)).Load()
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == start.session_log.START
    values = [(event.summary.value[0], event.step) for event in events]
    return start.step, [(value.tag, value.simple_value, step) for value, step in values]


def test_scalars_are_the_finite_numbers() -> None:
    assert epoch_scalars(ENTRY) == SCALARS
    assert epoch_scalars({"stage": 1, "epoch": 1}) == {"warnings": 0}


def test_steps_count_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path / "new" / "folder") as log:
        log.append({"stage": 1, "epoch": 1, "seconds": 1.0})
        log.append({"stage": 2, "epoch": 1, "seconds": 2.0})
    (file,) = (tmp_path / "new" / "folder").iterdir()
    expected = [
        ("seconds", 1.0, 0),
        ("warnings", 0.0, 0),
        ("seconds", 2.0, 1),
        ("warnings", 0.0, 1),
    ]
    assert points_of(file) == (0, expected)


def test_a_resumed_run_hides_what_came_after(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path, first_step=5) as log:
        log.append({"stage": 2, "epoch": 1, "seconds": 2.0})
        (file,) = tmp_path.iterdir()
        hidden_from, points = points_of(file)  # on the disk before the log is closed
    assert hidden_from == 5
    assert points[0] == ("seconds", 2.0, 5)
    with pytest.raises(ValueError, match="first_step must be at least 0, got -1"):
        TensorBoardLog(tmp_path, first_step=-1)


@pytest.mark.parametrize("size", [0, 20, 60, 200])
def test_a_full_disk_is_an_error_that_names_the_file(
    size: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    with (
        most_bytes(size),
        pytest.raises(OSError, match="File too large") as caught,
        TensorBoardLog(tmp_path) as log,
    ):
        log.append(ENTRY)
    (file,) = tmp_path.iterdir()
    assert caught.value.filename == str(file)
    assert capfd.readouterr().err == ""  # no thread complains on its own


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r'pip install "mabm\[tensorboard\]"'):
        TensorBoardLog(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_event_file_holds_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")  # one of the tests' packages, yet not of every GPU machine's
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLog(tmp_path) as log:
        for entry in (ENTRY, ENTRY, ENTRY):
            log.append(entry)
    with TensorBoardLog(tmp_path, first_step=1) as log:  # as after a kill in the second epoch
        log.append({**ENTRY, "seconds": 9.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(SCALARS)
    assert [(p.step, p.value) for p in events.Scalars("seconds")] == [(0, 4.5), (1, 9.0)]
    for step in (2, 3, 4):  # a log of its own for every entry
        with TensorBoardLog(tmp_path, first_step=step) as log:
            log.append({**ENTRY, "seconds": 10.0 + step})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [p.value for p in events.Scalars("seconds")] == [4.5, 9.0, 12.0, 13.0, 14.0]
    with TensorBoardLog(tmp_path) as log:  # from the start, after a kill in the first epoch
        log.append(ENTRY)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [p.step for p in events.Scalars("seconds")] == [0]
    assert events.Scalars("evaluation/infrared-to-visible/mAP")[0].value == 0.375
