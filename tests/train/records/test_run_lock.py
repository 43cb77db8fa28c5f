"""One run in a folder at a time: who is refused, what stays, and when the folder is free."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_cases import history_of, small_config, small_data

from mabm.train import RunInUseError, inputs, train
from mabm.train.records import run_lock
from mabm.train.records.files import LOCK
from mabm.train.records.run_lock import locked
from mabm.train.workers import begin_worker

# Holds the lock of a folder, by itself and with a child as a data loader has them, until it is
# killed or told to end.
HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from mabm.train.records.run_lock import locked
from mabm.train.workers import begin_worker

def work():
    begin_worker(0)
    Path(sys.argv[1], "worker").touch()
    time.sleep(60)

with locked(Path(sys.argv[1])):
    if len(sys.argv) > 2:
        multiprocessing.get_context("fork").Process(target=work, daemon=True).start()
    else:
        Path(sys.argv[1], "worker").touch()
    sys.stdin.read()
"""


def hold(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *words], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (folder / "worker").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_another_process_is_refused_by_name_and_touches_nothing(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    (tmp_path / "checkpoint-1-0000-000001.pt.9.part").write_bytes(b"being written")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        with pytest.raises(
            RunInUseError, match=rf"in use by another run, got process {holder.pid} on .+, "
        ):
            train(small_config(), tmp_path, progress=False)
    finally:
        holder.communicate()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path in before} == {
        path: content for path, content in before.items() if path.name != LOCK
    }


@pytest.mark.parametrize("words", [(), ("with a worker",)])
def test_a_killed_process_leaves_the_folder_at_once(words: tuple[str], tmp_path: Path) -> None:
    holder = hold(tmp_path, *words)
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
        assert str(holder.pid) not in (tmp_path / LOCK).read_text()


def test_one_process_is_refused_likewise(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run")
    with locked(tmp_path / "run"):
        for folder in (tmp_path / "run", link):
            with (
                pytest.raises(RunInUseError, match=f"got process {os.getpid()} on "),
                locked(folder),
            ):
                pass
        with locked(tmp_path / "other"):
            pass
    with locked(link):
        pass


def test_nothing_is_left_of_a_lock_nor_of_a_folder_that_stayed_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "above" / "run"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "history.jsonl").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["history.jsonl"]


def test_a_file_that_went_as_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends between another's opening of the file and its locking."""
    taken = []
    take = run_lock._take

    def remove_then_take(descriptor: int, path: Path) -> None:
        if not taken:
            path.unlink()
        taken.append(descriptor)
        take(descriptor, path)

    monkeypatch.setattr(run_lock, "_take", remove_then_take)
    with locked(tmp_path):
        assert len(taken) == 2
        monkeypatch.undo()
        with pytest.raises(RunInUseError), locked(tmp_path):
            pass


def test_without_locks_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked(tmp_path):
        pass
    assert "cannot be locked (Function not implemented): do not start a second run" in caplog.text


def test_where_there_is_no_fcntl_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on Windows, which has neither of these."""
    monkeypatch.setattr(run_lock, "fcntl", None)
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "pwrite")
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert "cannot be locked here: do not start a second run" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as caught, locked(tmp_path):
        pass
    tmp_path.chmod(0o700)
    assert caught.value.filename == str(tmp_path / LOCK)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"mine")
    with pytest.raises(FileExistsError) as caught, locked(tmp_path / "run"):
        pass
    assert caught.value.filename == str(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == b"mine"


def test_a_worker_leaves_the_signals_that_its_parent_handles() -> None:
    """As forked: the parent's own handlers are not run there; usual ones stay."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, lambda *_: None)
        begin_worker(0)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_within_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = small_data()
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: records)
    refused = []

    def stop() -> bool:
        if not refused:
            with pytest.raises(RunInUseError):
                train(small_config(), tmp_path, progress=False)
            refused.append(True)
        return False

    config = small_config("stage1.epochs=1", "stage1.iterations=1", "stage2.epochs=0")
    train(config, tmp_path, progress=False, stop=stop)
    assert refused
    assert [entry["epoch"] for entry in history_of(tmp_path)] == [0, 1]
    train(config, tmp_path, progress=False)
    assert not (tmp_path / LOCK).exists()
