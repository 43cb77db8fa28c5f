"""Whole runs: what they leave, going on after a kill, and what stops them."""

import logging
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extras import needs_training
from training_cases import history_of, small_config, small_data, weights_of

from mabm import HybridMemory
from mabm.evaluation import SearchScores
from mabm.train import (
    TrainingError,
    TrainingStopped,
    distributed,
    inputs,
    progress,
    train,
    trainer,
)

pytestmark = [needs_training, pytest.mark.slow]

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    records = small_data()
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: records)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the runs in processes of their own: bits are those of one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a process of its own that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, str(SUPPORT / "training_cases.py"), str(folder)], check=True)
    return folder


def test_a_run_leaves_what_it_says(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if "checkpoint" not in path.name} == {
        "config.toml",
        "environment.json",
        "history.jsonl",
        "result.json",
        "stage1.pt",
        "weights.pt",
    }
    entries = history_of(finished)
    assert [(e["stage"], e["epoch"]) for e in entries] == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert ["evaluation" in entry for entry in entries] == [True, False, True, False, True]
    assert set(entries[1]["losses"]) == {"within visible", "within infrared"}
    assert {"across visible", "across infrared"} < set(entries[3]["losses"])
    assert set(entries[3]["clusters"]) == {"visible", "infrared", "global"}
    assert entries[3]["diagnostics"]["all"]["pair_recall"] is not None


def test_a_finished_run_is_left_as_it_is(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.iterdir() if path.name != "result.json"}
    result = train(small_config(), finished, progress=False)
    assert {path: path.read_bytes() for path in before} == before
    assert [type(scores) for scores in result.scores] == [SearchScores] * 2
    assert result.scores[0].to_dict() == result.history[-1]["evaluation"]["infrared-to-visible"]


def test_killed_ten_times_it_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SUPPORT / "killed_run.py"), str(tmp_path), "10"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) >= 10
    for folder in tmp_path.iterdir():
        expected, found = weights_of(finished), weights_of(folder)
        assert expected.keys() == found.keys()
        assert [name for name in expected if not expected[name].equal(found[name])] == []
        assert history_of(folder) == history_of(finished)


SHORT = ("run.precision='float32'", "batch.identities=2", "run.checkpoint_every=0")
SHORT += ("stage1.epochs=1", "stage1.iterations=2", "stage2.epochs=1", "stage2.iterations=1")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "read_data", lambda *_, **__: small_data())
        train(small_config(*SHORT), folder, progress=False)
    return folder


def test_processes_that_see_different_checkpoints_are_refused(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "share", lambda _: None)  # the first process has found none
    words = r"one folder that all processes share, got .*: the first process resumes from the start"
    with pytest.raises(ValueError, match=f"{words}, process 0 from the end of training"):
        train(small_config(*SHORT), short, progress=False)


# Its own killer, which no machine is too busy for to come in time.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from training_cases import small_config, use_small_data
from mabm.train import train

def stop():
    if (Path(sys.argv[2]) / "checkpoint-1-0000-000001.pt").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return False

torch.set_num_threads(1)
use_small_data()
train(small_config(*sys.argv[3:]), sys.argv[2], progress=False, stop=stop)
"""


def test_killed_it_goes_on_in_another_interpreter(short: Path, tmp_path: Path) -> None:
    words = [str(tmp_path), *SHORT, "run.checkpoint_every=1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(SUPPORT), *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint-1-0000-000001.pt").exists()  # within an epoch
    assert not (tmp_path / "weights.pt").exists()
    command = [sys.executable, str(SUPPORT / "training_cases.py"), *words]
    subprocess.run(command, check=True)
    expected, found = weights_of(short), weights_of(tmp_path)
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    assert history_of(tmp_path) == history_of(short)


@pytest.mark.parametrize(
    ("asked", "position"),
    [
        (2, (1, 0, 0)),  # with features, before clusters
        (3, (1, 0, 0)),  # with clusters, which are kept
        (4, (1, 0, 1)),
        (5, (1, 0, 2)),  # before the epoch is evaluated
        (10, (3, 0, 0)),  # before the end
    ],
)
def test_asked_to_stop_it_goes_on_to_the_same_bits(
    asked: int, position: tuple[int, int, int], short: Path, tmp_path: Path
) -> None:
    answers = iter([False] * (asked - 1) + [True])
    with pytest.raises(TrainingStopped):
        train(small_config(*SHORT), tmp_path, progress=False, stop=lambda: next(answers))
    there = trainer.load_newest(tmp_path)
    assert there is not None
    assert there[0] == position
    assert (there[1]["epoch"] is not None) == (asked in (3, 4, 5))
    assert not (tmp_path / "weights.pt").exists()
    train(small_config(*SHORT), tmp_path, progress=False)
    expected, found = weights_of(short), weights_of(tmp_path)
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    assert history_of(tmp_path) == history_of(short)


def test_the_report_is_there_after_the_first_epoch_and_changes_no_bit(
    short: Path, tmp_path: Path
) -> None:
    config = small_config(*SHORT, "run.report=true")
    page = tmp_path / "report.html"
    seen: list[bool] = []

    def stop() -> bool:  # once the first epoch is in the history
        seen.append(page.exists())
        return len(history_of(tmp_path)) == 2

    with pytest.raises(TrainingStopped):
        train(config, tmp_path, progress=False, stop=stop)
    assert all(seen)  # from the start on
    text = page.read_text(encoding="utf-8")
    assert "This page shows the run after stage 1, epoch 1 of 1, at 20" in text
    assert 'http-equiv="refresh"' in text
    assert ">Losses<" in text
    assert 'id="clusters"' not in text
    train(config, tmp_path, progress=False)
    text = page.read_text(encoding="utf-8")
    assert "Training is not over" not in text
    assert 'http-equiv="refresh"' not in text
    assert 'id="clusters"' in text
    expected, found = weights_of(short), weights_of(tmp_path)
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    assert history_of(tmp_path) == history_of(short)
    train(config, tmp_path, progress=False)
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("every", [0, 2])
def test_checkpoints_change_nothing(every: int, finished: Path, tmp_path: Path) -> None:
    train(small_config(f"run.checkpoint_every={every}"), tmp_path, progress=False)
    found = weights_of(tmp_path)
    assert all(tensor.equal(found[name]) for name, tensor in weights_of(finished).items())


def test_a_resumed_run_must_be_the_same(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"clustering\.eps must be 0\.5 .*, got 0\.4"):
        train(small_config("clustering.eps=0.4"), finished, progress=False)
    with pytest.raises(ValueError, match="output must not contain a run"):
        train(small_config(), finished, resume=False, progress=False)
    records = small_data()
    other = type(records)("emoji_xm", records.train.select(np.arange(200)), records.test)
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: other)
    with pytest.raises(ValueError, match="training images differ from those"):
        train(small_config(), finished, progress=False)


@pytest.mark.parametrize("name", ["history.jsonl", "result.json", "stage1.pt", "weights.pt"])
def test_what_a_run_has_left_is_not_replaced(name: str, finished: Path, tmp_path: Path) -> None:
    content = (finished / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    (tmp_path / "checkpoint-2-0001-000000.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"checkpoints are missing or damaged, .* with {name}"):
        train(small_config(), tmp_path, progress=False)
    assert (tmp_path / name).read_bytes() == content


def test_going_on_needs_no_starting_weights(finished: Path, tmp_path: Path) -> None:
    """A checkpoint holds all: what the run began from may be gone."""
    start, folder = tmp_path / "start.pt", tmp_path / "run"
    start.write_bytes((finished / "weights.pt").read_bytes())
    config = small_config(*SHORT, f'model.weights="{start}"')
    train(config, folder, progress=False)
    start.unlink()
    for name in ("result.json", "weights.pt"):
        (folder / name).unlink()
    train(config, folder, progress=False)
    assert (folder / "weights.pt").exists()


def test_a_run_touches_no_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    config = small_config("stage1.epochs=1", "stage1.iterations=1", "stage2.epochs=0")
    train(config, tmp_path, progress=False)
    assert torch.get_rng_state().equal(before[0])
    assert (random.getstate(), numpy_state()) == before[1:]


@pytest.mark.parametrize("name", ["", "mabm"])
def test_a_message_is_shown_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    level = logging.getLogger("mabm").level
    logger.addHandler(handler)
    logging.getLogger("mabm").setLevel(logging.INFO)
    config = small_config("stage1.epochs=1", "stage1.iterations=1", "stage2.epochs=0")
    try:
        train(config, tmp_path, progress=True)
    finally:
        logging.getLogger("mabm").setLevel(level)
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("stage 1 epoch 1/1: loss ") == 1


def test_the_log_tells_how_far_a_run_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="mabm")
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    config = small_config(*SHORT, "stage1.epochs=2", "stage2.epochs=0")
    train(config, tmp_path, progress=False)
    records = small_data().train.modality
    counts = f"{(records == 0).sum()} visible and {(records == 1).sum()} infrared"
    lines = [record.message for record in caplog.records if record.name.startswith("mabm.train")]
    threads = torch.get_num_threads()
    words = f"{threads} thread{'s' if threads > 1 else ''}"
    assert lines[0].startswith(f"on the CPU, {words}: {counts} training images, ")
    assert lines[1:3] == [
        "stage 1: 2 epochs of 2 iterations",
        f"writing to {tmp_path}",  # without a report, as configured
    ]
    told = [re.sub(r"about \d+ s", "about X s", line.split(" s; ")[-1]) for line in lines[4:]]
    assert told == [
        "stage 1 epoch 1/2: clusters",
        "stage 1 epoch 1/2: training",
        "stage 1 epoch 1/2, iteration 1/2; about X s left of stage 1",
        "stage 1 epoch 1/2, iteration 2/2; about X s left of stage 1",
        "about X s left of stage 1",  # at the end of the line on the epoch
        "stage 1 epoch 2/2: clusters",
        "stage 1 epoch 2/2: training",
        "stage 1 epoch 2/2, iteration 1/2; about X s left of stage 1",
        "stage 1 epoch 2/2, iteration 2/2",
        "stage 1 epoch 2/2: evaluation",
        lines[-1],
    ]


@pytest.mark.parametrize(
    ("capability", "precision", "warned"),
    [("AVX2", "bfloat16", True), ("AVX512", "bfloat16", False), ("AVX2", "float32", False)],
)
def test_a_cpu_without_bfloat16_is_named(
    capability: str,
    precision: str,
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config = small_config(*SHORT, f"run.precision={precision}")
    with pytest.raises(TrainingStopped):  # the start says all there is to see here
        train(config, tmp_path, progress=False, stop=lambda: True)
    assert ("run.precision=float32" in caplog.text) == warned


def numpy_state() -> str:
    return str(np.random.get_state())  # noqa: NPY002 - the global one is what is asked about


def test_without_clusters_it_stops_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to learn from.*clustering\.eps \(now 0\)"):
        train(small_config("clustering.eps=0.0"), tmp_path, progress=False)
    assert trainer.load_newest(tmp_path) is not None  # the start is kept


def test_a_stage_can_be_left_out(tmp_path: Path) -> None:
    config = small_config("stage1.epochs=0", "stage2.epochs=1", "stage2.iterations=1")
    result = train(config, tmp_path, progress=False)
    assert [(e["stage"], e["epoch"]) for e in result.history] == [(0, 0), (2, 1)]


@pytest.mark.parametrize("association", ["off", "naive", "hungarian", "sinkhorn"])
def test_every_association_trains(association: str, tmp_path: Path) -> None:
    config = small_config(
        *SHORT,
        "stage1.epochs=0",
        f"clustering.association={association}",
        "contrast.split=false",
    )
    losses = train(config, tmp_path, progress=False).history[-1]["losses"]
    assert ("across visible" in losses) == (association != "off")


def test_modalities_that_share_a_prototype_move_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has the last word, which would weigh the other's images a tenth."""
    sizes: list[int] = []
    update = HybridMemory.update

    def record(self: HybridMemory, features: torch.Tensor, *args: Any, **options: Any) -> None:
        sizes.append(len(features))
        update(self, features, *args, **options)

    monkeypatch.setattr(HybridMemory, "update", record)
    config = small_config(
        "stage1.epochs=0", "stage2.epochs=1", "stage2.iterations=1", "contrast.split=false"
    )
    train(config, tmp_path, progress=False)
    visible, infrared = 2 * 16, 16  # 4 x 4 images, visible ones in two views
    assert sizes == [visible, infrared, visible + infrared]


def test_a_run_can_normalize_halves(tmp_path: Path) -> None:
    options = ("stage1.epochs=1", "stage1.iterations=1", "stage2.epochs=0")
    train(small_config(*options), tmp_path / "whole", progress=False)
    for name, more in (("halves", ()), ("parts", ("batch.micro_batches=2",))):
        config = small_config(*options, "batch.normalization=halves", *more)
        train(config, tmp_path / name, progress=False)
    whole, halves, parts = (weights_of(tmp_path / name) for name in ("whole", "halves", "parts"))
    moved = {name for name in whole if not whole[name].equal(halves[name])}
    assert any(name.endswith("running_mean") for name in moved)
    for name, value in halves.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)


def test_one_process_cannot_hold_part_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.distributed, "world_size", lambda: 3)
    with pytest.raises(
        ValueError, match=r"batch\.identities must be a multiple of 3, the number of process"
    ):
        train(small_config(), tmp_path, progress=False)
    config = small_config("batch.identities=3", "batch.infrared_identities=4")
    with pytest.raises(ValueError, match=r"batch\.infrared_identities must be a multiple of 3, "):
        train(config, tmp_path, progress=False)
    config = small_config(
        "batch.identities=3",
        "batch.infrared_identities=6",
        "batch.instances=2",
        "batch.micro_batches=3",
    )
    with pytest.raises(ValueError, match=r"must divide 2, the visible images per process"):
        train(config, tmp_path, progress=False)
    config = small_config("batch.identities=3", "batch.normalization=halves")
    with pytest.raises(ValueError, match=r"batch\.normalization must be 'whole' with 3 processes"):
        train(config, tmp_path, progress=False)
