"""Kernels of screening for processors that this one is not: imitated, or run in an emulator.

Tests without their emulator are skipped. Debian has all of them: ``libsimde-dev`` (functions that
imitate the instructions of x86), ``qemu-user`` and ``g++-aarch64-linux-gnu`` (ARM), ``bochs`` (x86
processors with AVX-512).
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "csrc" / "ops" / "cpu" / "screening_kernels.cpp"
SOURCES = (HERE / "kernel_checks.cpp", KERNELS.parent / "screening_check.cpp")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", f"-I{ROOT / 'csrc'}")
SECTOR = 512

INSTANCES = {
    "float32 portable",
    "int8 portable",
    "float32 AVX2",
    "float32 AVX-512",
    "int8 AVX-512 VNNI",
    "int8 AVX-VNNI",
    "float32 NEON",
    "int8 NEON dot product",
}


def find(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here (Debian: {package})")
    return found


def compile_checks(compiler: str, out: Path, *options: str, kernels: Path = KERNELS) -> None:
    macro = f'-DKERNELS="{kernels}"'
    subprocess.run([compiler, *FLAGS, macro, *SOURCES, *options, "-o", out], check=True)


def run(*command: str | Path, cwd: Path | None = None, typed: str = "") -> str:
    done = subprocess.run(
        command, input=typed, capture_output=True, text=True, cwd=cwd, timeout=900, check=False
    )
    return done.stdout + done.stderr


def right_kernels(output: str) -> set[str]:
    """The kernels that were checked; nothing must be wrong with any of them."""
    counts = dict(re.findall(r"^(.*): (\d+) wrong", output, re.M))
    total = re.search(r"^(\d+) kernels checked, (\d+) wrong", output, re.M)
    assert total is not None, output[-2000:]
    assert set(counts.values()) == {"0"}, counts
    assert total.groups() == (str(len(counts)), "0")
    assert set(counts) <= INSTANCES
    return set(counts)


def test_kernels_of_this_processor(tmp_path: Path) -> None:
    compile_checks(find("g++", "g++"), tmp_path / "checks")
    assert {"float32 portable", "int8 portable"} <= right_kernels(run(tmp_path / "checks"))


def test_kernels_of_x86_with_imitated_instructions(tmp_path: Path) -> None:
    if not Path("/usr/include/simde/x86/avx512.h").is_file():
        pytest.skip("no SIMDe here (Debian: libsimde-dev)")
    text = KERNELS.read_text("utf-8")
    assert "#include <immintrin.h>" in text
    text = text.replace("<immintrin.h>", '"simde_intrinsics.h"')
    imitated = tmp_path / "imitated_kernels.cpp"
    imitated.write_text(re.sub(r"^#pragma GCC target.*\n", "", text, flags=re.M), "utf-8")
    options = (f"-I{HERE}", "-DIMITATED", "-O1", "-Wno-psabi")
    compile_checks(find("g++", "g++"), tmp_path / "checks", *options, kernels=imitated)
    x86 = {name for name in INSTANCES if "NEON" not in name}
    assert right_kernels(run(tmp_path / "checks")) == x86


def test_kernels_of_arm(tmp_path: Path) -> None:
    compiler = find("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    emulator = find("qemu-aarch64", "qemu-user")
    compile_checks(compiler, tmp_path / "checks", "-static")
    portable = {"float32 portable", "int8 portable"}
    output = run(emulator, "-cpu", "max", tmp_path / "checks")
    assert right_kernels(output) == portable | {"float32 NEON", "int8 NEON dot product"}
    assert "chosen: float32 NEON, int8 NEON dot product" in output
    older = run(emulator, "-cpu", "cortex-a57", tmp_path / "checks")
    assert right_kernels(older) == portable | {"float32 NEON"}
    assert "chosen: float32 NEON, int8 portable" in older


def build_disk(compiler: str, folder: Path) -> None:
    """A disk that boots into the checks, without an operating system."""
    options = (
        *("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fno-stack-protector"),
        *("-fno-pic", "-no-pie", "-mno-red-zone", "-fno-asynchronous-unwind-tables"),
        *("-fno-builtin-printf", "-fno-tree-loop-distribute-patterns", "-fcf-protection=none"),
        *("-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
        f"-Wl,-T{HERE / 'bare_machine.ld'}",
        *(str(HERE / "bare_machine.cpp"), "-lgcc"),
    )
    compile_checks(compiler, folder / "checks", *options)
    subprocess.run(
        ["objcopy", "-O", "binary", "-R", ".bss", folder / "checks", folder / "program"], check=True
    )
    program = (folder / "program").read_bytes()
    num_sectors = -(-len(program) // SECTOR)
    subprocess.run(
        [
            *(compiler, "-nostdlib", "-static", f"-DNUM_SECTORS={num_sectors}"),
            *("-Wl,-Ttext=0x7c00", "-Wl,--oformat=binary", "-Wl,--build-id=none"),
            *(HERE / "boot.S", "-o", folder / "boot"),
        ],
        check=True,
    )
    boot = (folder / "boot").read_bytes()
    assert len(boot) == SECTOR
    size = 4 * 16 * 63 * SECTOR  # cylinders, heads and sectors of bochsrc
    (folder / "disk.img").write_bytes((boot + program).ljust(size, b"\0"))


def test_kernels_of_a_processor_with_avx512(tmp_path: Path) -> None:
    emulator = find("bochs-bin", "bochs")
    compiler = find("g++", "g++")
    build_disk(compiler, tmp_path)
    # Its debugger waits for the command to continue.
    output = run(emulator, "-q", "-f", HERE / "bochsrc", cwd=tmp_path, typed="c\n")
    assert right_kernels(output) == {
        *("float32 portable", "int8 portable", "float32 AVX2"),
        *("float32 AVX-512", "int8 AVX-512 VNNI"),
    }
    assert "chosen: float32 AVX-512, int8 AVX-512 VNNI" in output
