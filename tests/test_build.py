"""What setup.py decides on which machine, and what a build tells of itself."""

import doctest
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils import cpp_extension

import mabm

ROOT = Path(__file__).parents[1]
DEFAULT = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_120"]


def load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load("mabm_setup", "setup.py")
KERNELS = load("mabm_compile_kernels", ".ci/compile_kernels.py")
CUDA_13 = BUILD.Toolkit("13.0", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0", "12.1"])
CUDA_12 = BUILD.Toolkit("12.4", ["5.0", "7.5", "8.0", "8.6", "8.9", "9.0"])


def test_cuda_is_built_where_torch_and_a_toolkit_have_it() -> None:
    decision = BUILD.decide({}, "13.0", "/cuda", CUDA_13)
    assert decision == BUILD.Decision("13.0", DEFAULT)
    assert str(decision) == (
        "mabm: building CPU and CUDA ops (CUDA 13.0, architectures sm_75 sm_80 sm_86 sm_89 sm_90 "
        "sm_100 sm_120 compute_120)"
    )
    assert BUILD.decide({"FORCE_CUDA": "1"}, "13.1", "/cuda", CUDA_13) == decision


OBSTACLES = [
    (None, "/cuda", CUDA_13, "this torch is a build without CUDA"),
    ("13.0", None, None, "there is no nvcc on the PATH or under CUDA_HOME"),
    ("13.0", "/cuda", None, "there is no nvcc in /cuda/bin"),
    ("13.0", "/cuda", CUDA_12, "nvcc is that of CUDA 12.4 and this torch is built with 13.0"),
]


@pytest.mark.parametrize(("torch_cuda", "home", "toolkit", "reason"), OBSTACLES)
def test_what_is_missing_is_said_and_fatal_only_where_cuda_was_asked_for(
    torch_cuda: str | None, home: str | None, toolkit: tuple[str, list[str]] | None, reason: str
) -> None:
    machine = (torch_cuda, home, toolkit)
    for force in ({}, {"FORCE_CUDA": ""}):
        decision = BUILD.decide(force, *machine)
        assert str(decision) == f"mabm: building the CPU ops alone: {reason}"
    remedy = f"FORCE_CUDA=1, but {reason}: (install|set) .*, or unset FORCE_CUDA"
    with pytest.raises(BUILD.ImpossibleBuildError, match=remedy):
        BUILD.decide({"FORCE_CUDA": "1"}, *machine)


def test_cuda_can_be_declined() -> None:
    decision = BUILD.decide({"FORCE_CUDA": "0"}, "13.0", "/cuda", CUDA_13)
    assert str(decision) == "mabm: building the CPU ops alone: FORCE_CUDA=0"
    with pytest.raises(BUILD.ImpossibleBuildError, match='FORCE_CUDA must be 0 or 1, got "yes"'):
        BUILD.decide({"FORCE_CUDA": "yes"}, "13.0", "/cuda", CUDA_13)


@pytest.mark.parametrize(
    ("wanted", "toolkit", "chosen"),
    [
        ("", CUDA_12, ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90"]),
        ("9.0", CUDA_13, ["sm_90"]),
        ("8.0;9.0a+PTX", CUDA_13, ["sm_80", "sm_90a", "compute_90a"]),
        ("9.0+PTX 10.0 9.0;", CUDA_13, ["sm_90", "sm_100", "compute_90"]),
    ],
)
def test_architectures(wanted: str, toolkit: tuple[str, list[str]], chosen: list[str]) -> None:
    environ = {"TORCH_CUDA_ARCH_LIST": wanted}
    major = toolkit[0].split(".")[0]
    assert BUILD.decide(environ, f"{major}.0", "/cuda", toolkit).architectures == chosen


@pytest.mark.parametrize("wanted", ["Hopper", "native", "90", "8.0,9.0"])
def test_architectures_that_are_no_numbers(wanted: str) -> None:
    with pytest.raises(BUILD.ImpossibleBuildError, match=rf'"8.0;9.0\+PTX", got "{wanted}"'):
        BUILD.choose_architectures(wanted, CUDA_13.architectures)


def test_a_toolkit_that_knows_none_of_the_architectures() -> None:
    with pytest.raises(BUILD.ImpossibleBuildError, match="set TORCH_CUDA_ARCH_LIST to others"):
        BUILD.choose_architectures("", ["20.0"])


def test_a_toolkit_is_what_its_nvcc_says(tmp_path: Path) -> None:
    assert BUILD.find_toolkit(None) is None
    assert BUILD.find_toolkit(str(tmp_path)) is None
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        "#!/bin/sh\n"
        "case $1 in\n"
        "  --version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;\n"
        "  --list-gpu-arch) printf 'compute_75\\ncompute_120\\n' ;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    assert BUILD.find_toolkit(str(tmp_path)) == BUILD.Toolkit("13.0", ["7.5", "12.0"])
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    assert BUILD.find_toolkit(str(tmp_path)) is None


def test_the_extension_of_a_build_for_the_cpu_alone() -> None:
    described = BUILD.extension(BUILD.Decision(None, [], "for a test"))
    assert "csrc/library.cpp" in described.sources
    assert not [source for source in described.sources if "cuda" in source]
    assert not [name for name in described.libraries if "cud" in name]
    assert described.py_limited_api


def test_the_extension_of_a_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/cuda")
    cpu = BUILD.extension(BUILD.Decision(None, [], "for a test"))
    described = BUILD.extension(BUILD.Decision("13.0", ["sm_90", "compute_90"]))
    kernels = set(described.sources) - set(cpu.sources)
    assert kernels == {f"csrc/ops/cuda/{path.name}" for path in ROOT.glob("csrc/ops/cuda/*.cu")}
    assert described.py_limited_api
    assert {"cudart", "torch_cuda"} <= set(described.libraries)
    assert "torch_python" not in described.libraries  # it is not of the stable ABI
    flags = described.extra_compile_args
    assert flags["nvcc"][-2:] == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert {"-fmad=false", "-DUSE_CUDA", BUILD.TORCH_STABLE_ABI} <= set(flags["nvcc"])
    assert flags["cxx"][-1] == "-DMABM_CUDA_ARCHITECTURES=sm_90,compute_90"


def test_a_build_says_in_one_line_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = {}
    monkeypatch.setattr(BUILD, "setup", lambda **options: built.update(options))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delenv("FORCE_CUDA", raising=False)
    BUILD.main()
    said = "mabm: building the CPU ops alone: this torch is a build without CUDA\n"
    assert capsys.readouterr().out == said
    assert [described.name for described in built["ext_modules"]] == ["mabm._C"]
    monkeypatch.setitem(os.environ, "FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="mabm: FORCE_CUDA=1, but this torch is a build without"):
        BUILD.main()


def test_build_info_tells_what_is_loaded() -> None:
    info = mabm.build_info()
    assert (info.version, info.torch) == (mabm.__version__, torch.__version__)
    assert info.backends == mabm.backends()
    assert [int(part) for part in info.built_with_torch.split(".")] >= [2, 10]
    assert (info.cuda is None) == (info.architectures == ()) == ("cuda" not in info.backends)
    assert doctest.testmod(mabm._extension).failed == 0


def test_build_info_reads_well() -> None:
    cpu = mabm.BuildInfo("0.1.0", "2.13.0+cpu", "2.10.0", None, (), ("cpu",))
    assert repr(cpu) == (
        "BuildInfo(mabm 0.1.0 on torch 2.13.0+cpu, built with torch 2.10.0 and no CUDA; "
        "ops for cpu)"
    )
    both = mabm.BuildInfo(
        "0.1.0", "2.13.0", "2.10.0", "13.0", ("sm_90", "compute_90"), ("cpu", "cuda")
    )
    assert repr(both) == (
        "BuildInfo(mabm 0.1.0 on torch 2.13.0, built with torch 2.10.0 and CUDA 13.0 for sm_90 "
        "compute_90; ops for cpu and cuda)"
    )


REPORT = """\
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function 'fill_kernel' for 'sm_90'
ptxas info    : Function properties for fill_kernel
    880 bytes stack frame, 1220 bytes spill stores, 1428 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 64 bytes smem, 880 bytes cumulative stack size
ptxas info    : Compile time = 23.561 ms
ptxas info    : Compiling entry function 'add_kernel<true>' for 'sm_100'
ptxas info    : Function properties for add_kernel<true>
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compile time = 1.454 ms
"""


def test_what_kernels_take_is_read_from_the_report_of_nvcc() -> None:
    rows = KERNELS.read_resources(REPORT)
    assert rows == [("fill_kernel", 90, 32, 64, 880, 1428), ("add_kernel<true>", 100, 8, 0, 0, 0)]
    assert KERNELS.format_table(rows) == (
        "kernel              arch  registers  shared  stack  spilled\n"
        "add_kernel<true>  sm_100          8       0      0        0\n"
        "fill_kernel        sm_90         32      64    880     1428\n"
    )
