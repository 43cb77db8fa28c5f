"""Loads the compiled ops; tells how they were built, and what to type where they are missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import mabm

_INTERRUPTED = "interrupted by a signal"  # what csrc/common/interrupts.h says


def load() -> None:
    """Loads ``mabm._C``, which registers the ops under ``torch.ops.mabm``.

    Raises:
        ImportError: The ops were never built for this interpreter, or do not load with this torch.
    """
    try:
        importlib.import_module("mabm._C")
    except ImportError as error:
        raise ImportError(
            f"the compiled ops of mabm could not be loaded ({error}). Build and install them from "
            "the repository with `pip install --no-build-isolation .` (for work on the source "
            "itself: `pip install --no-build-isolation -e .`); they need torch >= 2.10, got "
            f"{torch.__version__}"
        ) from error


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C through, and what else a signal handler raises, from the midst of an op.

    An op runs Python's signal handlers while it works (``csrc/common/interrupts.h``). Where one
    raises, the op ends with an error of PyTorch's kind and keeps what was raised.

    Raises:
        BaseException: What the handler raised, such as KeyboardInterrupt.
    """
    try:
        yield
    except RuntimeError as error:
        if _INTERRUPTED not in str(error):
            raise
        interruption = importlib.import_module("mabm._C").take_interruption()
        if interruption is None:
            raise
        raise interruption from None


def backends() -> tuple[str, ...]:
    """Device types that this build has ops for: ``("cpu",)``, with CUDA also ``"cuda"``."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(
        name for name in ("cpu", "cuda") if has_kernel("mabm::jaccard_graph", name.upper())
    )


@dataclass(frozen=True, repr=False)
class BuildInfo:
    """How mabm was built and what it runs on: what a report of a fault begins with.

    Attributes:
        version: Version of mabm.
        torch: Version of the torch that it runs on.
        built_with_torch: Version of the torch that the ops were compiled against.
        cuda: Version of the CUDA toolkit that the ops were compiled with; None for the CPU alone.
        architectures: GPU architectures compiled in, by the names of
            ``torch.cuda.get_arch_list()``: ``"sm_90"`` is code for compute capability 9.0,
            ``"compute_90"`` is PTX, which later GPUs compile when they load it.
        backends: Device types that there are ops for, as :func:`backends` tells.
    """

    version: str
    torch: str
    built_with_torch: str
    cuda: str | None
    architectures: tuple[str, ...]
    backends: tuple[str, ...]

    def __repr__(self) -> str:
        cuda = "no CUDA"
        if self.cuda is not None:
            cuda = f"CUDA {self.cuda} for {' '.join(self.architectures)}"
        return (
            f"BuildInfo(mabm {self.version} on torch {self.torch}, built with torch "
            f"{self.built_with_torch} and {cuda}; ops for {' and '.join(self.backends)})"
        )


def build_info() -> BuildInfo:
    """Tells versions, device types and GPU architectures of this build.

    What was compiled in is read from the compiled ops themselves. Whether this machine has a GPU is
    another question, for ``torch.cuda.is_available()``.

    Example:
        >>> import mabm
        >>> info = mabm.build_info()
        >>> info.version == mabm.__version__
        True
        >>> (info.cuda is not None) == ("cuda" in info.backends)
        True
    """
    ops = importlib.import_module("mabm._C")
    return BuildInfo(
        version=mabm.__version__,
        torch=str(torch.__version__),
        built_with_torch=ops.TORCH_VERSION,
        cuda=ops.CUDA_VERSION or None,
        architectures=tuple(filter(None, ops.CUDA_ARCHITECTURES.split(","))),
        backends=backends(),
    )
