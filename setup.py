"""Builds the compiled ops; everything else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
# PyTorch's stable ABI as of 2.10: one build serves every later release.
TORCH_STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# Results are defined to the bit, so products and sums are not fused into each other.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]
MSVC_FLAGS = ["/std:c++17", "/O2", "/fp:precise"]


def extension() -> CppExtension:
    """Describes the extension: every source in csrc that this build can compile."""
    sources = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/ops/cpu/*.cpp")]
    return CppExtension(
        "mabm._C",
        sorted(str(path.relative_to(ROOT)) for path in sources),
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={
            "cxx": [TORCH_STABLE_ABI, *(MSVC_FLAGS if sys.platform == "win32" else FLAGS)]
        },
        py_limited_api=True,
    )


print("mabm: building the CPU ops (there are no CUDA sources yet)")
setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
