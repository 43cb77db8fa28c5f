"""Builds the compiled ops; everything else about the package is in pyproject.toml.

With CUDA where this torch is a CUDA build and its toolkit is there, for the CPU alone otherwise;
whether the machine has a GPU does not matter. Two environment variables have a say:

    FORCE_CUDA            1: with CUDA, or fail and say what is missing; 0: for the CPU alone
    TORCH_CUDA_ARCH_LIST  GPU architectures such as "8.0;9.0+PTX"; unless set, ARCHITECTURES below
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

ROOT = Path(__file__).resolve().parent
# PyTorch's stable ABI as of 2.10: one build serves every later release.
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
    "-DUSE_CUDA",  # declares what PyTorch offers for CUDA alone
    "-std=c++17",
    "-O3",
    "-fmad=false",
    *([] if sys.platform == "win32" else ["-Xcompiler", ",".join(HOST_FLAGS)]),
]
# From Turing to Blackwell. A GPU also runs code for an earlier minor version of its major one (10.3
# that for 10.0), and GPUs to come compile the PTX of the newest.
ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]


class Toolkit(NamedTuple):
    """A CUDA toolkit, as its nvcc describes it."""

    version: str  # such as 13.0
    architectures: list[str]  # that it compiles for, such as 9.0


class Decision(NamedTuple):
    """What is built, and for the CPU alone why."""

    cuda: str | None  # version of the toolkit; None for the CPU alone
    architectures: list[str]  # such as sm_90, or compute_90 for PTX
    reason: str = ""

    def __str__(self) -> str:
        if self.cuda is None:
            return f"mabm: building the CPU ops alone: {self.reason}"
        names = " ".join(self.architectures)
        return f"mabm: building CPU and CUDA ops (CUDA {self.cuda}, architectures {names})"


class ImpossibleBuildError(Exception):
    """What was asked for cannot be built."""


def find_toolkit(cuda_home: str | None) -> Toolkit | None:
    """The toolkit in a folder, or None if there is no nvcc that runs."""
    if cuda_home is None:
        return None
    try:
        version, listed = (
            subprocess.run(
                [Path(cuda_home, "bin", "nvcc"), option], capture_output=True, text=True, check=True
            ).stdout
            for option in ("--version", "--list-gpu-arch")
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    release = re.search(r"release (\d+\.\d+)", version)
    if release is None:
        return None
    numbers = re.findall(r"compute_(\d+)(\d)", listed)
    return Toolkit(release[1], [f"{major}.{minor}" for major, minor in numbers])


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


def choose_architectures(wanted: str, known: Sequence[str]) -> list[str]:
    """What to compile for, in the names of nvcc and ``torch.cuda.get_arch_list()``.

    PyTorch's own reading of the variable is not used: it does not say what it chose, and where the
    variable is not set it takes the GPUs of the machine alone, and fails where there are none.

    Args:
        wanted: TORCH_CUDA_ARCH_LIST, empty where it is not set.
        known: What nvcc compiles for: the default goes without the rest.
    """
    numbers = wanted.replace(";", " ").split()
    if not numbers:
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
                "TORCH_CUDA_ARCH_LIST must be numbers, with +PTX where wanted, such as "
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
) -> Decision:
    """Decides what is built; the last three arguments are those of ``find_obstacle``.

    Raises:
        ImpossibleBuildError: FORCE_CUDA=1 cannot be honoured, or a variable is not understood.
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
                f"FORCE_CUDA=1, but {reason}: {remedy}, or unset FORCE_CUDA for the CPU ops alone "
                "(without --no-build-isolation, pip builds against a torch of its own)"
            )
        return Decision(None, [], reason)
    assert toolkit is not None  # or it would have been the obstacle
    wanted = environ.get("TORCH_CUDA_ARCH_LIST", "")
    return Decision(toolkit.version, choose_architectures(wanted, toolkit.architectures))


def gencode(architectures: Sequence[str]) -> list[str]:
    """Options of nvcc for names of ``choose_architectures``; PyTorch then adds none of its own."""
    return [f"-gencode=arch=compute_{name.partition('_')[2]},code={name}" for name in architectures]


def extension(decision: Decision) -> Extension:
    """Describes the extension: every source in csrc that this build can compile, and how."""
    sources = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/ops/cpu/*.cpp")]
    flags = {"cxx": [TORCH_STABLE_ABI, *(MSVC_FLAGS if sys.platform == "win32" else FLAGS)]}
    kind: Any = CppExtension
    if decision.cuda is not None:
        kind = CUDAExtension
        sources += ROOT.glob("csrc/ops/cuda/*.cu")
        flags["nvcc"] = [*NVCC_FLAGS, *gencode(decision.architectures)]
        flags["cxx"] += [  # csrc/library.cpp keeps them for mabm.build_info()
            f"-DMABM_CUDA_VERSION={decision.cuda}",
            f"-DMABM_CUDA_ARCHITECTURES={','.join(decision.architectures)}",
        ]
    described: Extension = kind(
        "mabm._C",
        sorted(str(path.relative_to(ROOT)) for path in sources),
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=flags,
        py_limited_api=True,
    )
    return described


def main() -> None:
    """Decides, says so in a line, and builds."""
    try:
        decision = decide(os.environ, torch.version.cuda, CUDA_HOME, find_toolkit(CUDA_HOME))
    except ImpossibleBuildError as error:
        sys.exit(f"mabm: {error}")
    print(decision)
    setup(
        ext_modules=[extension(decision)],
        cmdclass={"build_ext": BuildExtension},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )


if __name__ == "__main__":  # it is so for pip as well; the tests import the rest
    main()
