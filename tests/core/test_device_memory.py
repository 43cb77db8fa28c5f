"""What is left of memory, on the machine, in a container and on a GPU; and words for its end."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from devices import Device

import mabm
from mabm._core import device_memory

CPU = torch.device("cpu")


def test_this_machine_has_available_memory(device: Device) -> None:
    available = device_memory.available_bytes(device.torch)
    assert available is None or available > 2**20


def test_a_gpu_has_what_is_free_and_what_pytorch_holds_in_reserve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert device_memory.available_bytes(torch.device("cuda")) == 900


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
    monkeypatch.setattr(device_memory, "_CGROUP_ROOT", tmp_path)
    assert device_memory.available_bytes(CPU) == 400_000
    (folder / names[0]).write_text("max\n")  # no limit: what the machine has
    available = device_memory.available_bytes(CPU)
    assert available is None or available > 2**20


def test_the_message_tells_need_and_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "available_bytes", lambda device: 2**30)
    device_memory.check_fits(2**30, "this", "do that", CPU)
    with pytest.raises(
        MemoryError, match=r"this needs 2.0 GiB, and 1.0 GiB are available; do that"
    ):
        device_memory.check_fits(2**31, "this", "do that", CPU)
    with pytest.raises(MemoryError, match=r"1.0 GiB are available on cuda:1; do that"):
        device_memory.check_fits(2**31, "this", "do that", torch.device("cuda:1"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore of it."),
        RuntimeError("make, on_device.h:48, out of memory: no room for near rows, 9216 MiB"),
    ],
)
def test_work_that_runs_out_of_memory_says_what_to_lower(error: RuntimeError) -> None:
    line = str(error).splitlines()[0]
    reason = line[line.index("out of memory") :]  # without the place in the source of an op
    with (
        pytest.raises(torch.OutOfMemoryError) as caught,
        device_memory.running_ops("ranking 9 samples", "lower k1"),
    ):
        raise error
    assert str(caught.value) == f"ranking 9 samples ran out of GPU memory ({reason}); lower k1"


def test_other_errors_stay_as_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="something else"),
        device_memory.running_ops("this", "do that"),
    ):
        raise RuntimeError("something else")


def prune(x: torch.Tensor) -> object:
    return mabm.prune_distances(mabm.encode_samples(x))


STAGES: list[tuple[str, Callable[[torch.Tensor], object], str, str]] = [
    ("rank_candidates", mabm.rank_neighbors, "ranking 20 samples of 4 dimensions", "lower k1,"),
    ("rank_candidates", mabm.pseudo_labels, "ranking 20 samples of 4 dimensions", "lower k1,"),
    ("reciprocal_mask", mabm.encode_samples, "finding the neighbors of 20 samples", "lower k1"),
    ("expand_neighbors", mabm.pseudo_labels, "finding the neighbors of 20 samples", "lower k1"),
    ("encode_neighbors", mabm.jaccard_graph, "encoding 20 samples", "lower k1"),
    ("average_encodings", mabm.pseudo_labels, "averaging the rows of 20 samples", "lower k2 or k1"),
    ("dbscan", mabm.pseudo_labels, "clustering 20 samples", "lower max_distance,"),
    ("jaccard_distance", mabm.modality_jaccard, r"the dense \(20, 20\) distance", "fewer rows"),
    ("jaccard_graph", mabm.pseudo_labels, "the graph of 20 samples", "lower max_distance,"),
    ("jaccard_graph", prune, "the graph of 20 samples", "lower max_distance,"),
]


@pytest.mark.parametrize(
    ("op", "call", "what", "instead"), STAGES, ids=[f"{op}-{f.__name__}" for op, f, *_ in STAGES]
)
def test_every_stage_says_what_did_not_fit_and_what_to_lower(
    device: Device,
    op: str,
    call: Callable[[torch.Tensor], object],
    what: str,
    instead: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_out(*args: object) -> NoReturn:
        raise RuntimeError("out of memory: no room for this or that, 9 MiB on the GPU")

    monkeypatch.setattr(torch.ops.mabm, op, run_out)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=f"^{what} ran out of GPU memory .*no room for this or that, 9 MiB.*; .*{instead}",
    ):
        call(device.put(torch.randn(20, 4)))


def test_memory_that_runs_out_in_the_midst_is_named(gpu: Device) -> None:
    features = torch.randn(40_000, 32, device=gpu.torch)
    encoding = mabm.encode_samples(features[:8192])
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    try:  # 64 MiB more than there is in use, where a tile of the ranking takes 256
        leave = torch.cuda.memory_reserved() + (64 << 20)
        torch.cuda.set_per_process_memory_fraction(leave / total)
        with pytest.raises(
            torch.OutOfMemoryError,
            match=r"^ranking 40000 samples of 32 dimensions ran out of GPU memory \(.*; lower k1,",
        ):
            mabm.pseudo_labels(features)
        with pytest.raises(
            torch.OutOfMemoryError,
            match=r"^the dense \(8192, 8192\) distance ran out of GPU memory \(.*no room for the "
            r"dense distance, 256 MiB on the GPU\); compute fewer rows",
        ):
            mabm.jaccard_distance(encoding)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert mabm.jaccard_distance(encoding).shape == (8192, 8192)  # there is nothing broken
    assert free > 1 << 30  # or this has shown nothing
