"""Files are written whole or not at all, and an error says which one and why."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from full_disk import most_bytes

from mabm._core.files import moved_into, write_text

CONTENT = np.zeros(1 << 16)
WRITERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "write": lambda stream: stream.write(CONTENT.tobytes()),
    "np.save": lambda stream: np.save(stream, CONTENT),
    "np.savez": lambda stream: np.savez(stream, CONTENT),
    "torch.save": lambda stream: torch.save(torch.from_numpy(CONTENT), stream),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [0, 100, 1 << 16])
def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, writer: str, size: int
) -> None:
    path = tmp_path / "values"
    path.write_bytes(b"before")
    with (
        most_bytes(size),
        pytest.raises(OSError, match="File too large") as caught,
        moved_into(path) as stream,
    ):
        WRITERS[writer](stream)
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["values"]


def test_a_write_that_only_fails_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "values"
    with most_bytes(3), pytest.raises(OSError, match="File too large") as caught:
        write_text(path, "more")  # it stays in the buffer until the file is flushed
    assert caught.value.filename == str(path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_written_file_is_complete(tmp_path: Path, writer: str) -> None:
    with moved_into(tmp_path / "values") as stream:
        WRITERS[writer](stream)
    with (tmp_path / "direct").open("wb") as stream:
        WRITERS[writer](stream)
    if writer == "torch.save":  # which puts the name of the file into it
        read = torch.load(tmp_path / "values")
        torch.testing.assert_close(read, torch.from_numpy(CONTENT))
    elif writer == "np.savez":  # and this the time
        np.testing.assert_array_equal(np.load(tmp_path / "values")["arr_0"], CONTENT)
    else:
        assert (tmp_path / "values").read_bytes() == (tmp_path / "direct").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["direct", "values"]


def test_other_errors_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, moved_into(tmp_path / "values"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "values"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "more")
    assert caught.value.filename == str(path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("before")
    (tmp_path / "link").symlink_to("kept")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept").read_text() == "after"


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="Not a regular file"):
        write_text(tmp_path / "pipe", "more")
    with pytest.raises(IsADirectoryError, match="Not a regular file"):
        write_text(tmp_path, "more")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(("code", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synchronized_has_the_file(
    code: int, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems say EINVAL, and every file of theirs would count as not written."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "values"
    with pytest.raises(OSError, match="values") if is_told else nullcontext():
        write_text(path, "more")
    assert path.read_text() == "more"
