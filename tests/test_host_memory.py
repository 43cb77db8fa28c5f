"""What is left of memory, on the machine and in a container."""

from pathlib import Path

import pytest

from mabm import _host_memory


def test_this_machine_has_some() -> None:
    available = _host_memory.available_bytes()
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
    monkeypatch.setattr(_host_memory, "_CGROUP_ROOT", tmp_path)
    assert _host_memory.available_bytes() == 400_000
    (folder / names[0]).write_text("max\n")  # no limit: what the machine has
    available = _host_memory.available_bytes()
    assert available is None or available > 2**20


def test_the_message_tells_need_and_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host_memory, "available_bytes", lambda: 2**30)
    _host_memory.check_fits(2**30, "this", "do that")
    with pytest.raises(
        MemoryError, match=r"this needs 2.0 GiB, and 1.0 GiB are available; do that"
    ):
        _host_memory.check_fits(2**31, "this", "do that")
