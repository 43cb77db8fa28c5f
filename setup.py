"""Builds the compiled ops; everything else about the package is in pyproject.toml.

They are built with CUDA if this torch is a CUDA build and a toolkit for it is found, and for the
CPU only otherwise; whether the machine has a GPU does not matter. If something is missing, one
line says so before anything is compiled. Environment variables:

    FORCE_CUDA            1: with CUDA, or fail and say what is missing; 0: for the CPU only
    TORCH_CUDA_ARCH_LIST  GPU architectures such as "8.0;9.0+PTX", or "all" for ARCHITECTURES below;
                          unless set, the GPUs of this machine, or "all" if it has none
    CUDA_HOME             the folder of the toolkit; unless set, that of the nvcc on the PATH
    CXX, CC               the C++ compiler, and the one that nvcc takes for the code around kernels
"""

from __future__ import annotations  # so that an old Python reaches the line that refuses it

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from setuptools import Extension

ROOT = Path(__file__).resolve().parent
# PyTorch's stable ABI as of 2.10: one build works with every later release.
TORCH_STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# Results are defined to the bit, so products and sums are not fused into each other.
HOST_FLAGS = [
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]
FLAGS = ["-std=c++17", "-O3", *HOST_FLAGS]
MSVC_FLAGS = ["/std:c++17", "/O2", "/fp:precise"]
NVCC_FLAGS = [
    TORCH_STABLE_ABI,
    "-DUSE_CUDA",  # declares the CUDA-only part of PyTorch
    "-std=c++17",
    "-O3",
    "-fmad=false",
    *([] if sys.platform == "win32" else ["-Xcompiler", ",".join(HOST_FLAGS)]),
]
# From Turing to Blackwell. A GPU also runs code for an earlier minor version of its major one (10.3
# that for 10.0), and GPUs to come compile the PTX of the newest.
ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 10)  # the first with the whole of the stable ABI that the ops use
OLDEST_SETUPTOOLS = (77, 0)  # the first that reads the license of pyproject.toml
CPP_PROBE = """
#include <optional>
#include <string_view>
template <typename T> constexpr int size() {
  if constexpr (sizeof(T) == 4) { return 4; } else { return 8; }
}
static_assert(__cplusplus >= 201703L && size<int>() == 4);
std::optional<std::string_view> text;
"""


class Toolkit(NamedTuple):
    """A CUDA toolkit, as its nvcc describes it."""

    version: str  # such as 13.0
    architectures: list[str]  # that it compiles for, such as 9.0
    cudart: Path | None = None  # the runtime library that the ops are linked with
    fault: str = ""  # why nothing can be built with it, empty if something can


class Decision(NamedTuple):
    """What is built, and why."""

    cuda: str | None  # version of the toolkit; None for the CPU only
    architectures: list[str]  # such as sm_90, or compute_90 for PTX
    reason: str = ""  # for building for the CPU only, or for these architectures

    def __str__(self) -> str:
        if self.cuda is None:
            return f"mabm: building the CPU ops only: {self.reason}"
        names = " ".join(self.architectures)
        because = f": {self.reason}" if self.reason else ""
        return (
            f"mabm: building CPU and CUDA ops, which takes minutes (CUDA {self.cuda}, "
            f"architectures {names}{because})"
        )


class ImpossibleBuildError(Exception):
    """What was asked for cannot be built."""


def as_numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def require_python_packages() -> None:
    """Looks for the Python, setuptools, torch and ninja that a build needs.

    Raises:
        ImpossibleBuildError: One is missing or too old.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise ImpossibleBuildError(
            f"Python >= 3.10 is needed, got {platform.python_version()} ({sys.executable})"
        )
    then = "then again `pip install --no-build-isolation .`"
    setuptools = import_package("setuptools", f"`pip install 'setuptools>=77' ninja numpy`, {then}")
    if as_numbers(setuptools.__version__) < OLDEST_SETUPTOOLS:
        raise ImpossibleBuildError(
            f"setuptools >= 77 is needed, got {setuptools.__version__}: `pip install "
            f"'setuptools>=77'`, {then}"
        )
    torch = import_package(
        "torch", f"`pip install torch` (any build >= 2.10 that suits this machine), {then}"
    )
    if as_numbers(torch.__version__) < OLDEST_TORCH:
        raise ImpossibleBuildError(
            f"torch >= 2.10 is needed, got {torch.__version__}: `pip install 'torch>=2.10'`, {then}"
        )
    scripts = sysconfig.get_path("scripts")
    if shutil.which("ninja") is None:  # pip may have put it where no PATH leads
        if shutil.which("ninja", path=scripts) is None:
            raise ImpossibleBuildError(f"ninja is not installed: `pip install ninja`, {then}")
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])


def import_package(name: str, remedy: str) -> Any:
    """Imports a package that a build needs, or raises what to type."""
    try:
        return __import__(name)
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        trouble = "is not installed" if missing else f"does not load ({error})"
        raise ImpossibleBuildError(f"{name} {trouble} in {sys.prefix}: first {remedy}") from error


def require_compiler() -> None:
    """Looks for a C++17 compiler and the headers of Python; MSVC is left to setuptools to find.

    Raises:
        ImpossibleBuildError: There is none, it does not compile C++17, or the headers are missing.
    """
    if sys.platform == "win32":
        return
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.is_file():
        version = ".".join(platform.python_version_tuple()[:2])
        raise ImpossibleBuildError(
            f"there is no {headers}: install the headers of Python {version} (Debian and Ubuntu: "
            f"`apt install python{version}-dev`)"
        )
    chosen = os.environ.get("CXX")
    # The names by which setuptools and PyTorch call the compiler.
    for name in [chosen] if chosen else [sysconfig.get_config_var("CXX") or "c++", "c++"]:
        command = shlex.split(name)
        try:
            subprocess.run(
                [*command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
                input=CPP_PROBE,
                capture_output=True,
                text=True,
                check=True,
            )
        except OSError as error:
            raise ImpossibleBuildError(
                f"there is no C++ compiler {command[0]}: install one (Debian and Ubuntu: `apt "
                "install g++`), or set CXX to the one to take"
            ) from error
        except subprocess.CalledProcessError as error:
            raise ImpossibleBuildError(
                f"the C++ compiler {name} does not compile C++17 ({first_error(error.stderr)}): "
                "install g++ >= 9 or clang >= 9 and set CXX to it"
            ) from error


def first_error(output: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")


def find_cuda_home(environ: Mapping[str, str]) -> str | None:
    """The folder of the CUDA toolkit; None if none is found.

    The nvcc on the PATH may be a link to the one of the toolkit, or a script that calls it: nvcc
    itself is asked.
    """
    named = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    if named:
        return named
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    if nvcc is None:
        return "/usr/local/cuda" if Path("/usr/local/cuda").is_dir() else None
    try:
        command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
        plan = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    except OSError:
        plan = ""
    top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    folders = [
        *([Path(top[1].strip()).resolve()] if top else []),
        Path(nvcc).resolve().parents[1],
        # As Debian has it: a script in /usr/bin, headers in /usr/include.
        Path(nvcc).absolute().parents[1],
    ]
    whole = [folder for folder in folders if find_cudart(folder) and has_headers(folder)]
    return str([*whole, *folders][0])


def target_folder(part: str) -> str:
    """The folder in which conda and the toolkit itself keep a part for this machine."""
    machine = platform.machine()
    return f"targets/{'sbsa' if machine == 'aarch64' else machine}-linux/{part}"


def has_headers(cuda_home: Path) -> bool:
    """Whether a toolkit has the headers of the CUDA runtime."""
    folders = ("include", target_folder("include"))
    return any(Path(cuda_home, folder, "cuda_runtime.h").is_file() for folder in folders)


def find_cudart(cuda_home: Path) -> Path | None:
    """The CUDA runtime of a toolkit to link with; in pip packages only under its full name."""
    multiarch = f"lib/{platform.machine()}-linux-gnu"
    folders = ("lib64", "lib", target_folder("lib"), multiarch, "lib/x64")
    for name in ("libcudart.so", "cudart.lib", "libcudart.so.[0-9]*"):
        for folder in folders:
            found = sorted(Path(cuda_home, folder).glob(name))
            if found:
                return found[0]
    return None


def find_toolkit(cuda_home: str | None) -> Toolkit | None:
    """The toolkit in a folder, or None if there is no nvcc that runs."""
    if cuda_home is None:
        return None
    nvcc = str(Path(cuda_home, "bin", "nvcc"))
    try:
        version, listed = (
            subprocess.run([nvcc, option], capture_output=True, text=True, check=True).stdout
            for option in ("--version", "--list-gpu-arch")
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    release = re.search(r"release (\d+\.\d+)", version)
    if release is None:
        return None
    numbers = re.findall(r"compute_(\d+)(\d)", listed)
    cudart = find_cudart(Path(cuda_home))
    fault = ""
    if not has_headers(Path(cuda_home)):
        fault = "has no cuda_runtime.h"
    elif cudart is None:
        fault = "has no libcudart to link with"
    elif sys.platform != "win32":
        host = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []
        asked = subprocess.run(
            [nvcc, *host, "-std=c++17", "-E", "-x", "cu", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode != 0:
            fault = f"does not work with this C++ compiler ({first_error(asked.stderr)})"
    architectures = [f"{major}.{minor}" for major, minor in numbers]
    return Toolkit(release[1], architectures, cudart, fault)


def find_gpus() -> list[str]:
    """Compute capabilities of the GPUs of this machine, such as 9.0."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_capability(n) for n in range(torch.cuda.device_count())]
    return [f"{major}.{minor}" for major, minor in sorted(set(found))]


def find_obstacle(
    torch_cuda: str | None, cuda_home: str | None, toolkit: Toolkit | None
) -> tuple[str, str] | None:
    """What keeps this machine from building with CUDA, and what to do about it; None if nothing.

    Args:
        torch_cuda: The CUDA version that torch was built with, None for a build without CUDA.
        cuda_home: Where PyTorch looks for the toolkit, None if it knows of none.
        toolkit: The toolkit in that place.
    """
    if torch_cuda is None:
        return "this torch is a build without CUDA", "install a CUDA build of torch"
    if toolkit is None:
        place = "on the PATH or under CUDA_HOME" if cuda_home is None else f"in {cuda_home}/bin"
        return (
            f"there is no nvcc {place}",
            f"install the toolkit of CUDA {torch_cuda} and set CUDA_HOME to its folder",
        )
    if toolkit.version.split(".")[0] != torch_cuda.split(".")[0]:
        return (
            f"nvcc is that of CUDA {toolkit.version} and this torch is built with {torch_cuda}",
            f"set CUDA_HOME to the folder of a toolkit of CUDA {torch_cuda}",
        )
    return None


def nearest_architecture(gpu: str, known: Sequence[str]) -> str | None:
    """The architecture to compile for a GPU: its own, or the nearest earlier one of nvcc."""
    earlier = [number for number in known if as_numbers(number) <= as_numbers(gpu)]
    if not earlier:
        return None
    newest = max(earlier, key=as_numbers)
    return newest if as_numbers(newest)[0] == as_numbers(gpu)[0] else f"{newest}+PTX"


def choose_architectures(wanted: str, known: Sequence[str], gpus: Iterable[str] = ()) -> list[str]:
    """What to compile for, in the names of nvcc and ``torch.cuda.get_arch_list()``.

    PyTorch's own reading of the variable is not used: it does not say what it chose, and where the
    variable is not set it fails on a machine without a GPU.

    Args:
        wanted: TORCH_CUDA_ARCH_LIST, empty where it is not set.
        known: What nvcc compiles for: the default goes without the rest.
        gpus: Compute capabilities to compile for where the variable is not set.
    """
    numbers = wanted.replace(";", " ").split()
    if not numbers:
        numbers = list(filter(None, (nearest_architecture(gpu, known) for gpu in gpus)))
    if not numbers or wanted == "all":
        numbers = [number for number in ARCHITECTURES if number in known]
        numbers[-1:] = [f"{number}+PTX" for number in numbers[-1:]]
    if not numbers:
        raise ImpossibleBuildError(
            f"nvcc knows none of the architectures {' '.join(ARCHITECTURES)}; set "
            "TORCH_CUDA_ARCH_LIST to others"
        )
    binaries: list[str] = []
    portable: list[str] = []
    for number in numbers:
        match = re.fullmatch(r"(\d+)\.(\d[a-z]?)(\+PTX)?", number)
        if match is None:
            raise ImpossibleBuildError(
                'TORCH_CUDA_ARCH_LIST must be "all" or numbers, with +PTX where wanted, such as '
                f'"8.0;9.0+PTX", got "{wanted}"'
            )
        binaries.append(f"sm_{match[1]}{match[2]}")
        if match[3]:
            portable.append(f"compute_{match[1]}{match[2]}")
    return [*dict.fromkeys(binaries), *dict.fromkeys(portable)]


def decide(
    environ: Mapping[str, str],
    torch_cuda: str | None,
    cuda_home: str | None,
    toolkit: Toolkit | None,
    gpus: Sequence[str] = (),
) -> Decision:
    """Decides what is built; the arguments are those of the functions above.

    Raises:
        ImpossibleBuildError: FORCE_CUDA=1 cannot be honored, the toolkit for this torch is not
            whole, or a variable is not understood.
    """
    force = environ.get("FORCE_CUDA", "")
    if force not in ("", "0", "1"):
        raise ImpossibleBuildError(f'FORCE_CUDA must be 0 or 1, got "{force}"')
    if force == "0":
        return Decision(None, [], "FORCE_CUDA=0")
    obstacle = find_obstacle(torch_cuda, cuda_home, toolkit)
    if obstacle is not None:
        reason, remedy = obstacle
        if force == "1":
            raise ImpossibleBuildError(
                f"FORCE_CUDA=1, but {reason}: {remedy}, or unset FORCE_CUDA for the CPU ops only "
                "(without --no-build-isolation, pip builds against a torch of its own)"
            )
        return Decision(None, [], reason)
    assert toolkit is not None  # or it would have been the obstacle
    if toolkit.fault:
        raise ImpossibleBuildError(
            f"the CUDA toolkit in {cuda_home} {toolkit.fault}: set CUDA_HOME to the folder of a "
            f"whole toolkit of CUDA {torch_cuda} (CC and CXX to a compiler that it works with), or "
            "FORCE_CUDA=0 for the CPU ops only"
        )
    wanted = environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    chosen = choose_architectures(wanted, toolkit.architectures, gpus)
    reason = (
        ""
        if wanted or not gpus
        else ("the GPU of this machine; TORCH_CUDA_ARCH_LIST=all for others too")
    )
    return Decision(toolkit.version, chosen, reason)


def gencode(architectures: Sequence[str]) -> list[str]:
    """Options of nvcc for names of ``choose_architectures``; PyTorch then adds none of its own."""
    return [f"-gencode=arch=compute_{name.partition('_')[2]},code={name}" for name in architectures]


def extension(decision: Decision, cudart: Path | None = None) -> Extension:
    """Describes the extension: every source in csrc that this build can compile, and how.

    Args:
        decision: What is built.
        cudart: The CUDA runtime to link with, for a build with CUDA.
    """
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    sources = list(ROOT.glob("csrc/**/*.cpp"))
    # What an earlier torch left in build/ would be taken for this one's: its name makes it stale.
    common = [TORCH_STABLE_ABI, f"-DMABM_TORCH={torch.__version__}"]
    flags = {"cxx": [*common, *(MSVC_FLAGS if sys.platform == "win32" else FLAGS)]}
    kind: Any = CppExtension
    folders: list[str] = []
    if decision.cuda is not None:
        kind = CUDAExtension
        sources += ROOT.glob("csrc/**/*.cu")
        flags["nvcc"] = [*common[1:], *NVCC_FLAGS, *gencode(decision.architectures)]
        flags["cxx"] += [  # csrc/module.cpp keeps them for mabm.build_info()
            f"-DMABM_CUDA_VERSION={decision.cuda}",
            f"-DMABM_CUDA_ARCHITECTURES={','.join(decision.architectures)}",
        ]
        folders = [str(cudart.parent)] if cudart is not None else []
    described: Extension = kind(
        "mabm._C",
        sorted(str(path.relative_to(ROOT)) for path in sources),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=folders,
        extra_compile_args=flags,
        py_limited_api=True,
    )
    if cudart is not None and cudart.suffix not in (".so", ".lib"):
        at = described.libraries.index("cudart")
        described.libraries[at] = f":{cudart.name}"  # by its full name
    return described


def main() -> None:
    """Looks for what a build needs, decides, says so in a line, and builds."""
    try:
        require_python_packages()
        require_compiler()
        import torch

        home = None if torch.version.cuda is None else find_cuda_home(os.environ)
        toolkit = find_toolkit(home)
        decision = decide(os.environ, torch.version.cuda, home, toolkit, find_gpus())
    except ImpossibleBuildError as error:
        sys.exit(f"mabm: {error}")
    print(decision)
    if decision.cuda is not None and home is not None:
        os.environ["CUDA_HOME"] = home  # PyTorch reads it once, at the following import
    from setuptools import setup
    from torch.utils.cpp_extension import BuildExtension

    cudart = toolkit.cudart if toolkit is not None and decision.cuda is not None else None
    setup(
        ext_modules=[extension(decision, cudart)],
        cmdclass={"build_ext": BuildExtension},
        options={
            "bdist_wheel": {"py_limited_api": "cp310"},
            # setuptools takes what lies in build/ for up to date, whichever torch it is of; ninja,
            # which does the compiling, sees what has changed.
            "build_ext": {"force": True},
        },
    )


if __name__ == "__main__":  # also when pip runs this; the tests import the rest
    main()
