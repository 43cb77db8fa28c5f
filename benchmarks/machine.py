"""The machine that figures are measured on: processor, threads, libraries and their BLAS."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

import mabm

# Features of a processor that decide how fast products are, as Linux names them.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "sve",
)
_PACKAGES = ("scipy", "scikit-learn", "faiss-cpu")
# They change which kernels OpenBLAS takes, so that its figures would not be those of others.
_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


BUSY = 0.05
"""Share of the cores in use by others, from which times are not those of the benchmark alone."""


def pin(threads: int) -> None:
    """Fixes the number of threads of every library in the processes that are started next."""
    for name in _OVERRIDES:
        os.environ.pop(name, None)
    os.environ |= dict.fromkeys(_THREADS, str(threads))


def describe(threads: int) -> dict[str, Any]:
    """Everything that figures depend on but the data; call it in a process of its own."""
    with contextlib.suppress(ImportError):
        importlib.import_module("faiss")  # what BLAS it has is known once it is loaded
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return {
        "processor": _field(info, "model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "features": [name for name in _FEATURES if name in _field(info, "flags|Features").split()],
        "python": platform.python_version(),
        "mabm": mabm.__version__,
        "torch": f"{torch.__version__} ({_blas_of_torch()})",
        "numpy": f"{np.__version__} ({_blas_in('numpy')})",
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def use_by_others(seconds: float = 1.0) -> float:
    """Share of all cores that other work uses while this process waits."""
    before = _busy_and_all()
    time.sleep(seconds)
    busy, total = (after - first for after, first in zip(_busy_and_all(), before, strict=True))
    return busy / max(total, 1)


def _busy_and_all() -> tuple[int, int]:
    line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    user, nice, system, idle, waiting, *more = (int(part) for part in line.split()[1:9])
    total = user + nice + system + idle + waiting + sum(more)
    return total - idle - waiting, total


def _field(info: str, names: str) -> str:
    found = re.search(rf"^(?:{names})\s*: (.*)$", info, re.MULTILINE)
    return found[1] if found else ""


def _version(package: str) -> str | None:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"{version} ({_blas_in('faiss')})" if package.startswith("faiss") else version


def _blas_of_torch() -> str:
    config = torch.__config__.show()
    mkl = re.search(r"Math Kernel Library Version ([\w.]+)", config)
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    level = torch.backends.cpu.get_cpu_capability()
    name = f"MKL {mkl[1]}" if mkl else f"BLAS: {blas[1] if blas else 'unknown'}"
    return f"{name}, {level}"


def _blas_in(folder: str) -> str:
    """BLAS that a package brings, with the kernels it has chosen."""
    for library in threadpool_info():
        parent = Path(library["filepath"]).parent.name  # numpy.libs, faiss_cpu.libs
        if library["user_api"] == "blas" and parent.startswith(folder):
            kernels = library.get("architecture")
            name = {"openblas": "OpenBLAS", "mkl": "MKL"}.get(
                library["internal_api"], library["internal_api"]
            )
            return f"{name} {library['version']}" + (f", {kernels} kernels" if kernels else "")
    return "BLAS unknown"
