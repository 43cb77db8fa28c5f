"""The device that a name means: which GPU each process takes, and what is refused."""

import pytest
import torch

from mabm._core import devices
from mabm._core.devices import find_device


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 4, "cuda:3"),
        ("cuda", 4, "cuda:3"),
        ("cuda:1", 4, "cuda:1"),
        ("cpu", 4, "cpu"),
        ("cuda", 0, "device must be a device of this machine, got 'cuda': torch sees no GPU"),
        ("cuda", 2, r"one of the 2 available GPUs, got 'cuda' in the process of local rank 3"),
        ("cuda:5", 4, "one of the 4 available GPUs, got 'cuda:5'"),
        ("gpu", 4, "must be auto, cpu, cuda or cuda:NUMBER, got 'gpu'"),
        ("mps", 4, "must be auto, cpu, cuda or cuda:NUMBER, got 'mps'"),
    ],
)
def test_each_process_has_its_gpu(
    name: str, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if " " in expected:
        with pytest.raises(ValueError, match=expected):
            find_device(name)
    else:
        assert str(find_device(name)) == expected


def test_without_a_rank_it_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(find_device("auto")) == str(find_device("cuda")) == "cuda:0"


@pytest.mark.parametrize(("built_for", "found"), [(("cpu",), "cpu"), (("cpu", "cuda"), "cuda:0")])
def test_a_missing_op_is_an_error_when_it_is_needed(
    built_for: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "backends", lambda: built_for)
    assert str(find_device("auto", needs_ops=True)) == found
    assert str(find_device("auto")) == "cuda:0"
    if found == "cpu":
        with pytest.raises(ValueError, match="--device must be cpu with this build of mabm"):
            find_device("cuda", "--device", needs_ops=True)
