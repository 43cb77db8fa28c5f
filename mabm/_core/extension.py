"""Loads the compiled ops, and reports how they were built or what to do if they are missing."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from mabm._core.version import __version__

_INTERRUPTED: Final = "interrupted by a signal"  # as in csrc/common/interrupts.h
_REBUILD: Final = (
    "from the repository: `pip install --no-build-isolation .` (for work on the source itself: "
    "`pip install --no-build-isolation -e .`)"
)


def load() -> None:
    """Loads ``mabm._C``, which registers the ops under ``torch.ops.mabm``.

    Warns (``RuntimeWarning``) if they load but do not match the running torch.

    Raises:
        ImportError: The ops were never built for this interpreter, or do not load with this torch.
    """
    try:
        ops = importlib.import_module("mabm._C")
    except ImportError as error:
        never_built = isinstance(error, ModuleNotFoundError) and error.name == "mabm._C"
        remedy = f"Build and install them {_REBUILD}; they need torch >= 2.10, got {_running()}"
        if not never_built:
            remedy = (
                f"This torch is {_running()}: if it replaced the one that they were built with, "
                f"rebuild and install them {_REBUILD}; they need torch >= 2.10"
            )
        raise ImportError(
            f"the compiled ops of mabm could not be loaded ({error}). {remedy}"
        ) from error
    misfit = find_misfit(ops.CUDA_VERSION or None, str(torch.__version__), torch.version.cuda)
    if misfit is not None:
        warnings.warn(misfit, RuntimeWarning, stacklevel=3)


def _running() -> str:
    cuda = torch.version.cuda
    return f"{torch.__version__} ({'no CUDA' if cuda is None else f'CUDA {cuda}'})"


def find_misfit(built_cuda: str | None, torch_version: str, torch_cuda: str | None) -> str | None:
    """Why loaded ops may still fail with a torch, and what to do; None if they match.

    CPU-only ops work with every torch from 2.10 on, with or without CUDA, whichever torch they were
    built with. Ops with CUDA work with every such torch of the same major version of CUDA.

    Args:
        built_cuda: Version of CUDA that the ops were built with; None for CPU only.
        torch_version: Version of the running torch.
        torch_cuda: Version of CUDA that this torch was built with; None without CUDA.
    """
    if tuple(int(number) for number in re.findall(r"\d+", torch_version)[:2]) < (2, 10):
        return (
            f"the compiled ops of mabm need torch >= 2.10, got {torch_version}: "
            "`pip install 'torch>=2.10'`"
        )
    if built_cuda is None:
        return None
    if torch_cuda is None or torch_cuda.split(".")[0] != built_cuda.split(".")[0]:
        return (
            f"the compiled ops of mabm were built with CUDA {built_cuda} and torch "
            f"{torch_version} with {torch_cuda or 'none'}: install a torch of CUDA {built_cuda}, "
            f"or rebuild and install the ops {_REBUILD}"
        )
    return None


@contextmanager
def interruptible() -> Iterator[None]:
    """Re-raises what a signal handler raised during an op, such as KeyboardInterrupt on Ctrl-C.

    An op runs Python's signal handlers while it works (``csrc/common/interrupts.h``). If one
    raises, the op ends with a RuntimeError and keeps the exception, which is raised here instead.

    Raises:
        BaseException: The exception of the handler.
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
    """Returns the device types with ops in this build: ``("cpu",)``, with CUDA also ``"cuda"``.

    Example:
        >>> import mabm
        >>> mabm.backends()[0]
        'cpu'
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(
        name for name in ("cpu", "cuda") if has_kernel("mabm::jaccard_graph", name.upper())
    )


@dataclass(frozen=True, repr=False)
class BuildInfo:
    """How mabm was built and what it runs on, for bug reports.

    Attributes:
        version: Version of mabm.
        torch: Version of the running torch.
        built_with_torch: Version of the torch that the ops were compiled against.
        cuda: Version of the CUDA toolkit that the ops were compiled with; None for CPU only.
        architectures: GPU architectures that the ops were compiled for, named as in
            ``torch.cuda.get_arch_list()``: ``"sm_90"`` is code for compute capability 9.0,
            ``"compute_90"`` is PTX, which later GPUs compile when they load it.
        backends: Device types that this build has ops for: ``("cpu",)``, with CUDA also ``"cuda"``.

    Example:
        >>> import mabm
        >>> mabm.BuildInfo("0.1.0", "2.13.0", "2.13.0", None, (), ("cpu",))
        BuildInfo(mabm 0.1.0 on torch 2.13.0, built with torch 2.13.0 and no CUDA; ops for cpu)
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
    """Returns the versions, device types and GPU architectures of this build.

    They are read from the compiled ops. Use ``torch.cuda.is_available()`` to find out whether this
    machine has a GPU.

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
        version=__version__,
        torch=str(torch.__version__),
        built_with_torch=ops.TORCH_VERSION,
        cuda=ops.CUDA_VERSION or None,
        architectures=tuple(filter(None, ops.CUDA_ARCHITECTURES.split(","))),
        backends=backends(),
    )
