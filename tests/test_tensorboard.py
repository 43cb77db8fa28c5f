"""TensorBoard: which scalars an entry has, and that the event file holds them."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mabm.train.tensorboard import TensorBoardLog, epoch_scalars

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


class FakeWriter:
    """Stands for torch's, and remembers what it is asked to do."""

    made: "list[FakeWriter]"

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.points: list[tuple[str, float, int]] = []
        self.done: list[str] = []
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.points.append((tag, value, step))

    def flush(self) -> None:
        self.done.append("flush")

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    module = types.ModuleType("torch.utils.tensorboard")
    FakeWriter.made = []
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return FakeWriter.made


def test_scalars_are_the_finite_numbers() -> None:
    assert epoch_scalars(ENTRY) == SCALARS
    assert epoch_scalars({"stage": 1, "epoch": 1}) == {"warnings": 0}


def test_steps_count_on(writers: list[FakeWriter], tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        log.append({"stage": 1, "epoch": 1, "seconds": 1.0})
        log.append({"stage": 2, "epoch": 1, "seconds": 2.0})
    assert (writers[0].folder, writers[0].purge_step) == (str(tmp_path), 0)
    assert writers[0].points == [
        ("seconds", 1.0, 0),
        ("warnings", 0.0, 0),
        ("seconds", 2.0, 1),
        ("warnings", 0.0, 1),
    ]
    assert writers[0].done == ["flush", "flush", "close"]


def test_a_resumed_run_hides_what_came_after(writers: list[FakeWriter], tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, first_step=5)
    log.append({"stage": 2, "epoch": 1, "seconds": 2.0})
    assert writers[0].purge_step == 5
    assert writers[0].points[0] == ("seconds", 2.0, 5)
    with pytest.raises(ValueError, match="first_step must be at least 0, got -1"):
        TensorBoardLog(tmp_path, first_step=-1)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
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
