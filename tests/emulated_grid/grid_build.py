"""Compiles kernels for the emulated grid into modules that tests can import, and into PyTorch ops.

Two environment variables choose how: MABM_KERNEL_TESTS=sanitized builds with AddressSanitizer and
UndefinedBehaviorSanitizer (.ci/kernels sets up what those need), MABM_KERNEL_SEED=N runs with that
one seed instead of two.
"""

import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SANITIZED = os.environ.get("MABM_KERNEL_TESTS") == "sanitized"
# Seeds for the order of threads and blocks; 0 is ascending. .ci/kernels runs 1 to 3.
SEEDS = [int(os.environ["MABM_KERNEL_SEED"])] if "MABM_KERNEL_SEED" in os.environ else [0, 1]

SORTED_AT_ONCE = 500
"""Entries of an encoding that the ops sort at a time on the grid: with more, in several parts."""

FLAGS = [
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",  # as the library itself: no product is fused into a sum
    "-fno-strict-aliasing",  # int64_t is long here, what CUDA's atomics take is long long
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wconversion",  # a number of 64 bits never becomes one of 32 unsaid
    "-Wno-sign-conversion",
    "-Wno-unknown-pragmas",  # those of nvcc
    "-DMABM_EMULATED",
]
SANITIZERS = [
    "-Werror",  # in the gate, not wherever a newer compiler may warn of more
    "-O1",  # instead of -O2: sanitized code takes long to compile
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g1",
]


@functools.cache
def load(
    name: str,
    sources: tuple[str, ...],
    *,
    defines: tuple[str, ...] = (),
    sanitize: bool = SANITIZED,
) -> ModuleType:
    """Compiles sources of this folder and the grid, once for each state of the code.

    Args:
        name: The name of the module, as in its PYBIND11_MODULE.
        sources: Files, relative to this folder.
        defines: Macros to define, NAME or NAME=VALUE.
        sanitize: Whether to build with the sanitizers.
    """
    pybind11 = pytest.importorskip("pybind11")
    options = [f"-D{define}" for define in defines] + ["-isystem", pybind11.get_include()]
    module = _compile(name, [HERE / source for source in sources], options, sanitize)
    # pybind11 and Python identify modules by name, so each build has its own name.
    spec = importlib.util.spec_from_file_location(f"{module.stem}.{name}", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def load_ops() -> object:
    """Compiles the ops for GPUs to run on the grid, with tensors on the CPU.

    Returns:
        Their namespace, with every op of ``torch.ops.mabm``. The sources are those of the library,
        with its name changed by ``-Dmabm=mabm_emulated``.
    """
    torch = pytest.importorskip("torch")
    cpp_extension = pytest.importorskip("torch.utils.cpp_extension")
    includes = [option for path in cpp_extension.include_paths() for option in ("-isystem", path)]
    libraries = Path(torch.__file__).parent / "lib"
    options = [
        "-Dmabm=mabm_emulated",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        f"-DMABM_SORTED_AT_ONCE={SORTED_AT_ONCE}",
        *includes,
        *(f"-L{libraries}", f"-Wl,-rpath,{libraries}"),
        *("-ltorch", "-ltorch_cpu", "-lc10"),
    ]
    files = [ROOT / "csrc" / "library.cpp", *sorted((ROOT / "csrc/ops/cuda").glob("*.cu"))]
    torch.ops.load_library(_compile("mabm_emulated", files, options, SANITIZED))
    return torch.ops.mabm_emulated


def _compile(name: str, sources: list[Path], options: list[str], sanitize: bool) -> Path:
    """Compiles sources and the grid into one shared library, unless that was done before."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if sys.platform != "linux":
        pytest.skip("the emulated grid needs Linux")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no compiler for the emulated grid: {compiler[0]}")
    files = [*sources, HERE / "emulator.cpp"]
    command = [
        *compiler,
        *FLAGS,
        *(SANITIZERS if sanitize else []),
        f"-I{ROOT / 'csrc'}",
        f"-I{HERE}",
        *("-isystem", sysconfig.get_path("include")),
        *("-shared", "-fPIC", "-x", "c++"),  # .cu files too
        *map(str, files),
        *options,
    ]
    folder = ROOT / "build" / ("kernels-sanitized" if sanitize else "kernels")
    module = folder / f"{name}-{_fingerprint(command, files)}.so"
    if not module.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{name}.lock"):
            if not module.exists():
                _run_compiler(command, module)
    return module


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Lets one process in at a time: others that want the same module wait."""
    import fcntl  # Linux alone comes here

    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _run_compiler(command: list[str], module: Path) -> None:
    """Compiles beside the module's place, then moves it there: a module is never half written."""
    with tempfile.TemporaryDirectory(dir=module.parent) as scratch:
        built = Path(scratch, module.name)
        result = subprocess.run(
            [*command, "-o", str(built)], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{result.stderr}")
        built.replace(module)


def _fingerprint(command: list[str], files: list[Path]) -> str:
    """Identifies the command, the compiler, and the state of the sources and their includes."""
    digest = hashlib.sha256(repr((command, sys.version)).encode())
    digest.update(subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout)
    found, pending = {}, list(files)
    while pending:
        path = pending.pop()
        if path not in found:
            found[path] = text = path.read_text()
            for name in re.findall(r'^ *# *include "(.+)"', text, re.MULTILINE):
                places = [folder / name for folder in (path.parent, ROOT / "csrc", HERE)]
                pending += [place for place in places if place.is_file()]
    digest.update(repr(sorted(found.items())).encode())
    return digest.hexdigest()[:16]
