"""What is left of memory, on the machine and in a container."""

from pathlib import Path

import pytest
import torch

from mabm import _memory

CPU = torch.device("cpu")


def test_this_machine_has_some() -> None:
    available = _memory.available_bytes(CPU)
    assert available is None or available > 2**20


@pytest.mark.parametrize(
    ("names", "cache"),
    [
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
            "total_inactive_file",
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_leaves_its_limit_less_its_use_without_file_cache(
    names: tuple[str, str, str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path if cache == "inactive_file" else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    for name, text in zip(
        names, ("1000000\n", "900000\n", f"anon 5\n{cache} 300000\n"), strict=True
    ):
        (folder / name).write_text(text)
    monkeypatch.setattr(_memory, "_CGROUP_ROOT", tmp_path)
    assert _memory.available_bytes(CPU) == 400_000
    (folder / names[0]).write_text("max\n")  # no limit: what the machine has
    available = _memory.available_bytes(CPU)
    assert available is None or available > 2**20


def test_the_message_tells_need_and_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 2**30)
    _memory.check_fits(2**30, "this", "do that", CPU)
    with pytest.raises(
        MemoryError, match=r"this needs 2.0 GiB, and 1.0 GiB are available; do that"
    ):
        _memory.check_fits(2**31, "this", "do that", CPU)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore of it."),
        RuntimeError("out of memory: no room for near rows, 9216 MiB on the GPU"),
    ],
)
def test_work_that_runs_out_of_memory_says_what_to_lower(error: RuntimeError) -> None:
    first_line = str(error).splitlines()[0]
    with (
        pytest.raises(torch.OutOfMemoryError) as caught,
        _memory.naming_what_did_not_fit("ranking 9 samples", "lower k1"),
    ):
        raise error
    assert str(caught.value) == f"ranking 9 samples ran out of GPU memory ({first_line}); lower k1"


def test_other_errors_stay_as_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="something else"),
        _memory.naming_what_did_not_fit("this", "do that"),
    ):
        raise RuntimeError("something else")
