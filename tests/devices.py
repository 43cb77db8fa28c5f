"""The devices that tests run on: the CPU, and a GPU where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@contextmanager
def switched(settings: Any, name: str, value: object) -> Iterator[None]:
    """A setting of PyTorch is another meanwhile; pytest's monkeypatch cannot put these back."""
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)
