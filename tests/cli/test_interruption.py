"""Ctrl-C and SIGTERM: how soon a process ends, what it says, and what it leaves as it was."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Run

from mabm import train as training
from mabm.cli.command import INTERRUPTED, TERMINATED
from mabm.cli.interruption import ending_in_time
from mabm.train import TrainingStopped
from mabm.train.position import Position
from mabm.train.records.checkpoint import save_checkpoint

# Goes on whatever it hears, as long work in C++ does, with a child that has the same output. The
# patience at SIGTERM is half a second here.
DEAF = """
import multiprocessing, os, sys, time
from mabm.cli import interruption

def child():
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(60)

interruption._PATIENCE = {**interruption._PATIENCE, 15: 0.5}
with interruption.ending_in_time(lambda number: sys.stderr.write(f"told of {number}\\n")):
    multiprocessing.get_context("fork").Process(target=child, daemon=True).start()
    while not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()):
        time.sleep(0.01)
    for interruptions in range(2):
        try:
            if not interruptions:
                print("ready", flush=True)  # here, where an interruption is caught at once
            end = time.monotonic() + 60
            while time.monotonic() < end:
                time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Here and in the processes that are started, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)]
)
def test_a_process_that_hears_nothing_ends_in_time(
    number: int, status: int, tmp_path: Path
) -> None:
    file = tmp_path / "child"
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.send_signal(number)  # an impatient second one changes nothing
    # It hears nothing for a minute. Its child, which could write there, ends as well.
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (status, f"told of {number}\n")


def test_ctrl_c_raises_once() -> None:
    seen: list[Any] = []

    def unwind() -> None:
        with ending_in_time(seen.append):
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                seen.append("unwound")

    with pytest.raises(KeyboardInterrupt):
        unwind()
    assert seen == ["unwound"]


def test_sigterm_is_told_to_who_asks_and_all_is_put_back() -> None:
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in names]
    with ending_in_time(lambda _: None) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
    assert [signal.getsignal(number) for number in names] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As ``nohup`` and a shell's ``&`` have it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_in_time(lambda _: None):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def stopped(*_: Any, **__: Any) -> None:
    raise TrainingStopped


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [(interrupted, INTERRUPTED, "interrupted"), (stopped, TERMINATED, "stopped by SIGTERM")],
)
def test_a_run_that_is_ended_says_where_it_goes_on(
    act: Callable[..., None],
    status: int,
    words: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "train", act)
    command = ("train", "emoji_xm", "--output", str(tmp_path))
    begins = f"mabm train: {words} before the first checkpoint; the same command starts again\n"
    assert run(*command) == (status, "", begins)
    for position, place in (
        (Position(2, 3, 0), "stage 2 epoch 4"),
        (Position(2, 3, 17), "stage 2 epoch 4, after 17 iterations"),
        (Position(3, 0, 0), "the end of training"),
    ):
        save_checkpoint(tmp_path, position, {})
        goes_on = f"mabm train: {words}; the same command resumes from the checkpoint at {place}\n"
        assert run(*command) == (status, "", goes_on)
    monkeypatch.setenv("RANK", "1")
    assert run(*command) == (status, "", "")
