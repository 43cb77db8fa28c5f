"""The devices that tests run on: the CPU, and a GPU where there is one."""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mabm


class Inputs(Protocol):
    """What has features and a modality: a drawn case or a golden file."""

    features: NDArray[np.float32]
    modality: NDArray[np.int64]


@dataclass(frozen=True)
class Device:
    """Where a test puts what it passes, and how it looks at what comes of that."""

    torch: torch.device

    def __str__(self) -> str:
        return self.torch.type

    def put(self, value: Any) -> Any:
        """What a user would pass there: an array or tensor itself, or a tensor on the GPU."""
        if self.torch.type == "cpu":
            return value
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy())  # of any strides, and not read-only
        return value.to(self.torch)

    def inputs(self, of: Inputs) -> tuple[Any, Any]:
        """The features and the modality of a case, put there."""
        return self.put(of.features), self.put(of.modality)

    def get(self, result: Any) -> NDArray[Any]:
        """A result as a NumPy array; it must lie where what was passed did."""
        if isinstance(result, np.ndarray):
            assert self.torch.type == "cpu"
            return result
        assert result.device.type == self.torch.type
        return result.detach().cpu().numpy()


CPU = Device(torch.device("cpu"))


def obstacle(name: str) -> str | None:
    """Why no test can run on a device of this type, or ``None`` where it can."""
    if name == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no GPU here"
    if name not in mabm.backends():
        return f"this build has no ops for CUDA: {mabm.build_info()}"
    return None


def find(name: str) -> Device:
    """The device of this type, or else the test is skipped with the reason."""
    if reason := obstacle(name):
        pytest.skip(reason)
    return Device(torch.device(name))


FIXTURES = ("device", "gpu")
"""By these alone a test comes to a device; both are in conftest.py."""

MOST_TELLING = "test_devices.py"
"""What runs before all other tests of a GPU, which may not have time for all of them."""


@functools.cache
def names_a_device(path: Path) -> bool:
    """Whether a file of tests can have one that takes a device: it must name the fixture."""
    return re.search(rf"\b({'|'.join(FIXTURES)}): Device\b", path.read_text("utf-8")) is not None


def takes_a_gpu(item: pytest.Item) -> bool:
    """Whether a test runs on a GPU: by its fixture, or by the parameter of one."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return "gpu" in getattr(item, "fixturenames", ()) or params.get("device") == "cuda"


def lost() -> str | None:
    """What PyTorch says of a GPU that a kernel has brought down, ``None`` while it works.

    Whatever this process asks of it from then on fails alike.
    """
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


@contextmanager
def switched(settings: Any, name: str, value: object) -> Iterator[None]:
    """A setting of PyTorch is another meanwhile; pytest's monkeypatch cannot put these back."""
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch, and with it every op, works on this many threads of the CPU meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
