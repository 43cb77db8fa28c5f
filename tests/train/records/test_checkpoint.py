"""Checkpoints that are whole or not there, whatever happens to the disk or to the process."""

import hashlib
import logging
import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import most_bytes

from mabm._core.files import write_text
from mabm.train.position import Position
from mabm.train.records import checkpoint
from mabm.train.records.checkpoint import (
    clear_parts,
    load_newest,
    save_checkpoint,
    write_torch,
)

FIRST, SECOND, THIRD = Position(1, 0, 0), Position(1, 0, 40), Position(1, 1, 0)


def state_of(number: int) -> dict[str, Any]:
    return {"number": number, "tensor": torch.full((1000,), float(number))}


def number_there(folder: Path) -> int | None:
    newest = load_newest(folder)
    return None if newest is None else newest[1]["number"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "encoder": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plain": {"a": 1, "b": 0.1, "c": None, "d": [True, "word"], 5: (1, 2)},
        "empty": OrderedDict(),
        "nan": float("nan"),
    }
    path = save_checkpoint(tmp_path, SECOND, state)
    assert path == tmp_path / "checkpoint-1-0000-000040.pt"
    position, found = load_newest(tmp_path) or (None, {})
    assert position == SECOND
    assert found["plain"] == state["plain"]
    assert found["nan"] != found["nan"]
    assert found["encoder"]["weight"].equal(network.weight.detach())
    again = torch.optim.Adam(network.parameters(), lr=0.5)
    again.load_state_dict(found["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1
    assert again.state[network.weight]["exp_avg"].equal(optimizer.state[network.weight]["exp_avg"])


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, FIRST, state_of(1))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    line = (tmp_path / "checkpoint-1-0000-000000.pt.sha256").read_bytes()
    assert line == f"{digest}  checkpoint-1-0000-000000.pt\n".encode()
    assert names(tmp_path) == [path.name, f"{path.name}.sha256"]


def test_two_are_kept(tmp_path: Path) -> None:
    for number, position in enumerate((FIRST, SECOND, THIRD)):
        save_checkpoint(tmp_path, position, state_of(number))
    kept = ["checkpoint-1-0000-000040.pt", "checkpoint-1-0001-000000.pt"]
    assert names(tmp_path) == sorted([*kept, *(f"{name}.sha256" for name in kept)])
    assert number_there(tmp_path) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80  # of a checksum, no longer UTF-8
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("", truncate),
        ("", flip),
        ("", empty),
        (".sha256", flip),
        (".sha256", empty),
        (".sha256", Path.unlink),
        (".sha256", lambda path: path.write_text(f"{'0' * 64}  {path.name[:-7]}\n")),
    ],
)
def test_a_damaged_one_gives_way_to_the_one_before(
    suffix: str, damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))
    newest = save_checkpoint(tmp_path, SECOND, state_of(2))
    damage(newest.with_name(newest.name + suffix))
    with caplog.at_level(logging.WARNING, "mabm"):
        position, found = load_newest(tmp_path) or (None, {})
    assert (position, found["number"]) == (FIRST, 1)
    assert f"{newest.name} is damaged or incomplete" in caplog.text
    # The run goes on from there with other moments to save at. What is damaged is no second copy.
    for number, iteration in ((3, 10), (4, 20), (5, 30)):
        save_checkpoint(tmp_path, Position(1, 0, iteration), state_of(number))
        assert number_there(tmp_path) == number
    assert len(list(tmp_path.glob("*.pt"))) == len(list(tmp_path.glob("*.sha256"))) == 2
    truncate(tmp_path / "checkpoint-1-0000-000030.pt")
    assert number_there(tmp_path) == 4


def test_all_damaged_is_none_at_all(tmp_path: Path) -> None:
    for number, position in enumerate((FIRST, SECOND)):
        truncate(save_checkpoint(tmp_path, position, state_of(number)))
    assert load_newest(tmp_path) is None


def test_stopped_between_data_and_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, SECOND, state_of(2))
    assert (tmp_path / "checkpoint-1-0000-000040.pt").exists()
    assert number_there(tmp_path) == 1
    save_checkpoint(tmp_path, THIRD, state_of(3))
    assert names(tmp_path)[::2] == ["checkpoint-1-0000-000000.pt", "checkpoint-1-0001-000000.pt"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))
    before = names(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, SECOND, state_of(2))
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "config.toml", "new")
    assert names(tmp_path) == before
    assert number_there(tmp_path) == 1


def test_an_old_file_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_text(file, "älter\n")
    write_torch(tmp_path / "tensor.pt", torch.ones(3))

    def stop(*_: object) -> None:
        assert file.read_text("utf-8") == "älter\n"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_text(file, "newer\n")
        with pytest.raises(KeyboardInterrupt):
            write_torch(tmp_path / "tensor.pt", torch.zeros(3))
    assert file.read_text("utf-8") == "älter\n"
    assert torch.load(tmp_path / "tensor.pt", weights_only=True).sum() == 3
    write_text(file, "newer\n")
    assert file.read_text("utf-8") == "newer\n"


class _Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_executed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trap = tmp_path / "executed"
    path = save_checkpoint(tmp_path, FIRST, state_of(1))
    torch.save({"number": _Trap(trap)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()  # whoever puts it there knows sums too
    write_text(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")
    assert load_newest(tmp_path) is None
    assert "could execute code" in caplog.text
    assert not trap.exists()


def sign(path: Path) -> None:
    """Whoever changes a checkpoint can make its checksum too."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_text(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")


def itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["position"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"number": 2}, r"its position is None, not \[1, 0, 40\]"),
        ({"number": 2, "position": [1, 0, 41]}, r"position is \[1, 0, 41\]"),
        ({"number": 2, "position": "here"}, "position is 'here'"),
        (itself(), "position is "),
        ({"position": [torch.ones(2), 0, 40]}, "position is "),
        ({"position": [1, 0, 40], "version": torch.ones(2)}, "has version tensor"),
        ({"position": [1, 0, 40]}, "it has no 'number'"),
        ({"position": [1, 0, 40], "number": "two"}, "its 'number' is a str"),
        ({"position": [1, 0, 40], "number": 2, "version": 2}, "format has version 2, not 1"),
        (torch.ones(3), "it contains a Tensor"),
        ([1, 2], "it contains a list"),
        (None, "it contains a NoneType"),
    ],
)
def test_other_content_gives_way_to_the_one_before(
    content: object, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))
    newest = save_checkpoint(tmp_path, SECOND, state_of(2))
    torch.save(content, newest)
    sign(newest)
    position, found = load_newest(tmp_path, {"number": int}) or (None, {})
    assert (position, found["number"]) == (FIRST, 1)
    assert re.search(
        rf"{re.escape(newest.name)} is not a checkpoint of this run: .*{message}", caplog.text
    )


def test_no_file_of_torch_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))
    newest = save_checkpoint(tmp_path, SECOND, state_of(2))
    for content in (b"", b"text", newest.read_bytes()[:-100]):
        newest.write_bytes(content)
        sign(newest)
        assert number_there(tmp_path) == 1
    newest.unlink()
    newest.mkdir()
    assert number_there(tmp_path) == 1
    assert len(caplog.records) == 4


def test_a_renamed_one_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = save_checkpoint(tmp_path, FIRST, state_of(1))
    later = tmp_path / "checkpoint-2-0000-000000.pt"
    later.write_bytes(first.read_bytes())
    sign(later)
    position, _ = load_newest(tmp_path) or (None, {})
    assert position == FIRST
    assert "its position is [1, 0, 0], not [2, 0, 0]" in caplog.text


def test_one_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, FIRST, state_of(1))
    content = torch.load(path, weights_only=True)
    del content["version"]
    torch.save(content, path)
    sign(path)
    assert number_there(tmp_path) == 1


@pytest.mark.parametrize("size", [0, 1000, 4096])
def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path, size: int) -> None:
    save_checkpoint(tmp_path, FIRST, state_of(1))
    before = names(tmp_path)
    with most_bytes(size), pytest.raises(OSError, match="File too large") as caught:
        save_checkpoint(tmp_path, SECOND, state_of(2))
    assert caught.value.filename == str(tmp_path / "checkpoint-1-0000-000040.pt")
    assert names(tmp_path) == before
    assert number_there(tmp_path) == 1
    save_checkpoint(tmp_path, SECOND, state_of(2))
    assert number_there(tmp_path) == 2


def test_a_state_that_holds_itself_is_not_written(tmp_path: Path) -> None:
    state = state_of(1)
    state["more"] = [state]
    with pytest.raises(ValueError, match="nested at most 64 deep; does it contain itself"):
        save_checkpoint(tmp_path, FIRST, state)
    assert names(tmp_path) == []


def test_only_what_can_be_read_again_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"state\['a'\]\[1\] must be tensors and plain .*, got PosixPath"
    ):
        save_checkpoint(tmp_path, FIRST, {"a": [1, tmp_path]})
    assert names(tmp_path) == []
    numbers = {
        "float": np.float64(0.1),
        "half": np.float32(0.5),
        "int": np.int64(3),
        np.int64(4): 1,
    }
    save_checkpoint(tmp_path, FIRST, {"numbers": numbers})
    _, found = load_newest(tmp_path) or (None, {})
    assert found["numbers"] == {"float": 0.1, "half": 0.5, "int": 3, 4: 1}
    assert type(found["numbers"]["float"]) is float


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    others = ["checkpoint-best.pt", "weights.pt", "film.mkv.part", "scores.json.12.part"]
    left = [
        f"{name}.1.part"
        for name in (
            "checkpoint-1-0000-000000.pt",
            "checkpoint-1-0000-000000.pt.sha256",
            *("stage1.pt", "weights.pt", "report.html", "history.jsonl"),
            *("config.toml", "environment.json", "result.json"),
        )
    ]
    for name in (*others, *left):
        (tmp_path / name).write_text("something")
    for number, position in enumerate((FIRST, SECOND, THIRD)):
        save_checkpoint(tmp_path, position, state_of(number))
    assert {*others, *left} < set(names(tmp_path))
    clear_parts(tmp_path)
    assert {*others, *left} - set(names(tmp_path)) == set(left)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from mabm.train.position import Position
from mabm.train.records.checkpoint import load_newest, save_checkpoint

torch.set_num_threads(1)  # a fork has none of the threads, and waits for them
folder, moments, number = Path(sys.argv[1]), random.Random(0), 0
for _ in range(15):
    read, write = os.pipe()
    child = os.fork()
    while child == 0:
        number += 1
        state = {"number": number, "tensor": torch.full((200_000,), float(number))}
        save_checkpoint(folder, Position(1, 0, number), state)
        os.write(write, number.to_bytes(8, "little"))
    heard = os.read(read, 8)
    time.sleep(moments.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    told = int.from_bytes((heard + os.read(read, 2**16))[-8:], "little")
    position, found = load_newest(folder)
    number = found["number"]
    assert number in (told, told + 1), (told, number)
    assert position == (1, 0, number) and bool((found["tensor"] == number).all())
"""


def test_a_process_killed_while_it_writes_leaves_a_good_one(tmp_path: Path) -> None:
    # What it told of is there, or the next, which it had no time to tell of.
    subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], check=True, timeout=300)
    assert number_there(tmp_path) is not None
