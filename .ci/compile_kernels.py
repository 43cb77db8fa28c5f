"""Compiles the CUDA ops for every GPU architecture and writes a table of each kernel's resources.

It needs nvcc and PyTorch's headers (a build without CUDA has them too), and no GPU. A warning is a
failure; so are a stack frame and spilled registers, which would make a kernel slow unnoticed.
"""
# ruff: noqa: T201  # a check reports by print

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "build" / "kernels" / "resources.txt"


class Resources(NamedTuple):
    """The resources of a kernel on an architecture: registers of a thread, and bytes of memory."""

    kernel: str
    architecture: int
    registers: int
    shared: int  # static; a launch may ask for more
    stack: int
    spilled: int


def load_setup() -> ModuleType:
    """The functions and flags of setup.py, so that this compiles what a build would."""
    spec = importlib.util.spec_from_file_location("mabm_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_resources(report: str) -> list[Resources]:
    """Reads the report of ``nvcc --resource-usage`` with demangled names.

    A function that a kernel calls without inlining is reported by itself, after the kernel; its
    stack and spills are added to those of the kernel.
    """
    rows: list[Resources] = []
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(.+)' for 'sm_(\d+)\w?'", line):
            rows.append(Resources(match[1], int(match[2]), 0, 0, 0, 0))
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, stores, loads = map(int, match.groups())
            last = rows[-1]
            rows[-1] = last._replace(
                stack=last.stack + stack, spilled=last.spilled + max(stores, loads)
            )
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            rows[-1] = rows[-1]._replace(
                registers=int(match[1]), shared=int(shared[1]) if shared else 0
            )
    return rows


def demangle(report: str) -> str:
    """The report with names as they are in the source, without arguments and namespace."""
    if shutil.which("c++filt") is None:
        return report
    filtered = subprocess.run(
        ["c++filt", "--no-params"], input=report, capture_output=True, text=True, check=True
    )
    return re.sub(r"\bmabm::|\(anonymous namespace\)::", "", filtered.stdout)


def format_table(rows: Iterable[Resources]) -> str:
    """One line for each kernel and architecture, sorted."""
    titles = ("kernel", "arch", "registers", "shared", "stack", "spilled")
    cells = [titles, *((row[0], f"sm_{row[1]}", *map(str, row[2:])) for row in sorted(rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + "\n"
        for line in cells
    )


def compile_file(command: Sequence[str], source: Path) -> str:
    """Compiles a source for all architectures and returns the report of nvcc, demangled."""
    with tempfile.TemporaryDirectory() as scratch:
        result = subprocess.run(
            [*command, str(source), "-o", str(Path(scratch, "object.o"))],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        lines = (result.stdout + result.stderr).splitlines()
        said = [line for line in lines if not line.startswith(("ptxas info", "    0 bytes stack"))]
        sys.exit("\n".join([*said, f"{source.relative_to(ROOT)} does not compile"]))
    return demangle(result.stderr)


def main() -> None:
    """Compiles, writes the table and prints a summary line."""
    setup = load_setup()
    home = setup.find_cuda_home(os.environ)
    toolkit = setup.find_toolkit(home)
    if toolkit is None:
        print("CUDA ops: not compiled, there is no nvcc on the PATH or under CUDA_HOME")
        return
    unknown = [number for number in setup.ARCHITECTURES if number not in toolkit.architectures]
    if unknown:
        print(f"CUDA ops: nvcc {toolkit.version} does not know {' '.join(unknown)}; left out")
    architectures = setup.choose_architectures("", toolkit.architectures)

    from torch.utils.cpp_extension import include_paths

    command = [
        str(Path(home, "bin", "nvcc")),
        *setup.NVCC_FLAGS,
        *setup.gencode(architectures),
        *("-Xcompiler", "-fPIC", "-Werror", "all-warnings", "--resource-usage"),
        f"-I{ROOT / 'csrc'}",
        *(option for path in include_paths() for option in ("-isystem", path)),
        "-c",
    ]
    sources = sorted(ROOT.glob("csrc/**/*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(lambda source: compile_file(command, source), sources))

    # A kernel of a header is compiled with each file that includes it, to the same code.
    rows = {row for report in reports for row in read_resources(report)}
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(format_table(rows))
    hungriest = max(sorted(rows), key=lambda row: row.registers)
    print(
        f"CUDA ops: {len(sources)} files, {len({row.kernel for row in rows})} kernels compiled for "
        f"{' '.join(architectures)}; at most {hungriest.registers} registers "
        f"({hungriest.kernel} on sm_{hungriest.architecture}); {TABLE.relative_to(ROOT)}"
    )
    slow = [row for row in rows if row.stack or row.spilled]
    if slow:
        sys.exit(f"These kernels have stack frames or spill registers:\n{format_table(slow)}")


if __name__ == "__main__":
    main()
