"""What setup.py decides on which machine, and what a build tells of itself."""

import doctest
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import torch
from fresh_interpreter import run_program
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
        "mabm: building CPU and CUDA ops, which takes minutes (CUDA 13.0, architectures sm_75 "
        "sm_80 sm_86 sm_89 sm_90 sm_100 sm_120 compute_120)"
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
        assert str(decision) == f"mabm: building the CPU ops only: {reason}"
    remedy = f"FORCE_CUDA=1, but {reason}: (install|set) .*, or unset FORCE_CUDA"
    with pytest.raises(BUILD.ImpossibleBuildError, match=remedy):
        BUILD.decide({"FORCE_CUDA": "1"}, *machine)


def test_cuda_can_be_declined() -> None:
    decision = BUILD.decide({"FORCE_CUDA": "0"}, "13.0", "/cuda", CUDA_13)
    assert str(decision) == "mabm: building the CPU ops only: FORCE_CUDA=0"
    with pytest.raises(BUILD.ImpossibleBuildError, match='FORCE_CUDA must be 0 or 1, got "yes"'):
        BUILD.decide({"FORCE_CUDA": "yes"}, "13.0", "/cuda", CUDA_13)


@pytest.mark.parametrize(
    ("wanted", "toolkit", "chosen"),
    [
        ("", CUDA_12, ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90"]),
        ("all", CUDA_12, ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90"]),
        ("9.0", CUDA_13, ["sm_90"]),
        ("8.0;9.0a+PTX", CUDA_13, ["sm_80", "sm_90a", "compute_90a"]),
        ("9.0+PTX 10.0 9.0;", CUDA_13, ["sm_90", "sm_100", "compute_90"]),
    ],
)
def test_architectures(wanted: str, toolkit: tuple[str, list[str]], chosen: list[str]) -> None:
    environ = {"TORCH_CUDA_ARCH_LIST": wanted}
    major = toolkit[0].split(".")[0]
    assert BUILD.decide(environ, f"{major}.0", "/cuda", toolkit).architectures == chosen


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        (["9.0"], ["sm_90"]),
        (["8.0", "9.0"], ["sm_80", "sm_90"]),
        (["10.3"], ["sm_100"]),  # nvcc does not know it, and it runs what is for 10.0
        (["13.0"], ["sm_121", "compute_121"]),  # nor any of its kind: by PTX
        (["6.1"], DEFAULT),  # too old for all that nvcc knows
        ([], DEFAULT),
    ],
)
def test_a_build_is_for_the_gpus_of_the_machine_unless_it_is_told_others(
    gpus: list[str], chosen: list[str]
) -> None:
    decision = BUILD.decide({}, "13.0", "/cuda", CUDA_13, gpus)
    assert decision.architectures == chosen
    assert ("TORCH_CUDA_ARCH_LIST=all for others" in str(decision)) == bool(gpus)
    for wanted, told in (("all", DEFAULT), ("8.6", ["sm_86"])):
        environ = {"TORCH_CUDA_ARCH_LIST": wanted}
        assert BUILD.decide(environ, "13.0", "/cuda", CUDA_13, gpus) == ("13.0", told, "")


@pytest.mark.parametrize("wanted", ["Hopper", "native", "90", "8.0,9.0", "all 9.0"])
def test_architectures_that_are_no_numbers(wanted: str) -> None:
    with pytest.raises(BUILD.ImpossibleBuildError, match=rf'"8.0;9.0\+PTX", got "{wanted}"'):
        BUILD.choose_architectures(wanted, CUDA_13.architectures)


def test_a_toolkit_that_knows_none_of_the_architectures() -> None:
    with pytest.raises(BUILD.ImpossibleBuildError, match="set TORCH_CUDA_ARCH_LIST to others"):
        BUILD.choose_architectures("", ["20.0"])


def test_a_toolkit_that_is_not_whole_stops_the_build_and_names_the_ways_out() -> None:
    for fault in ("has no cuda_runtime.h", "has no libcudart to link with"):
        broken = CUDA_13._replace(fault=fault)
        for force in ({}, {"FORCE_CUDA": "1"}):
            with pytest.raises(BUILD.ImpossibleBuildError) as caught:
                BUILD.decide(force, "13.0", "/cuda", broken)
            said = str(caught.value)
            assert said.startswith(f"the CUDA toolkit in /cuda {fault}: set CUDA_HOME to ")
            assert "FORCE_CUDA=0 for the CPU ops only" in said
            assert "\n" not in said
        assert BUILD.decide({"FORCE_CUDA": "0"}, "13.0", "/cuda", broken).cuda is None


NVCC = """#!/bin/sh
case "$*" in
  --version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
  --list-gpu-arch) printf 'compute_75\\ncompute_120\\n' ;;
  --dryrun*) echo '#$ TOP={home}/bin/..' >&2 ;;
  *-E*) {preprocess} ;;
esac
"""


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make_toolkit(
    home: Path, headers: str = "include", libraries: str = "lib64", preprocess: str = "true"
) -> Path:
    """A toolkit as its nvcc and its files describe it; no headers or libraries where empty."""
    write_script(home / "bin" / "nvcc", NVCC.format(home=home, preprocess=preprocess))
    for part in filter(None, (headers and f"{headers}/cuda_runtime.h", libraries)):
        name = part if part.endswith(".h") or ".so" in part else f"{part}/libcudart.so"
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home


TARGET = BUILD.target_folder("")


@pytest.mark.parametrize(
    ("headers", "libraries"),
    [
        ("include", "lib64"),
        ("include", "lib"),
        (f"{TARGET}include", f"{TARGET}lib"),  # conda
        ("include", "lib/libcudart.so.13"),  # pip
    ],
)
def test_a_toolkit_is_what_its_nvcc_and_its_files_say(
    headers: str, libraries: str, tmp_path: Path
) -> None:
    found = BUILD.find_toolkit(str(make_toolkit(tmp_path, headers, libraries)))
    library = tmp_path / (libraries if ".so" in libraries else f"{libraries}/libcudart.so")
    assert found == BUILD.Toolkit("13.0", ["7.5", "12.0"], library, "")


def test_a_toolkit_is_looked_at_before_anything_is_compiled(tmp_path: Path) -> None:
    assert BUILD.find_toolkit(None) is None
    assert BUILD.find_toolkit(str(tmp_path)) is None
    bare = make_toolkit(tmp_path / "bare", headers="", libraries="")
    assert BUILD.find_toolkit(str(bare)).fault == "has no cuda_runtime.h"
    half = make_toolkit(tmp_path / "half", libraries="")
    assert BUILD.find_toolkit(str(half)).fault == "has no libcudart to link with"
    complaint = "echo 'host_config.h:1: error: #error -- unsupported GNU version!' >&2; exit 1"
    broken = make_toolkit(tmp_path / "broken", preprocess=complaint)
    assert BUILD.find_toolkit(str(broken)).fault == (
        "does not work with this C++ compiler (host_config.h:1: error: #error -- unsupported GNU "
        "version!)"
    )
    write_script(broken / "bin" / "nvcc", "#!/bin/sh\nexit 1\n")
    assert BUILD.find_toolkit(str(broken)) is None


def test_the_toolkit_is_where_nvcc_itself_says(tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "cuda")
    wrapped = tmp_path / "wrapped" / "bin" / "nvcc"
    write_script(wrapped, f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    linked = tmp_path / "linked" / "bin" / "nvcc"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(home / "bin" / "nvcc")
    for nvcc in (home / "bin" / "nvcc", wrapped, linked):
        assert BUILD.find_cuda_home({"PATH": str(nvcc.parent)}) == str(home)
    named = {"PATH": str(wrapped.parent), "CUDA_HOME": "/named"}
    assert BUILD.find_cuda_home(named) == "/named"
    # Debian: the script is beside the headers and libraries, and the toolkit itself has neither.
    program = make_toolkit(tmp_path / "usr" / "lib" / "cuda", headers="", libraries="")
    usr = make_toolkit(tmp_path / "usr")
    write_script(usr / "bin" / "nvcc", f'#!/bin/sh\nexec {program}/bin/nvcc "$@"\n')
    assert BUILD.find_cuda_home({"PATH": str(usr / "bin")}) == str(usr)
    # One that cannot be asked is where it is.
    write_script(usr / "bin" / "nvcc", "#!/nowhere/at/all\n")
    assert BUILD.find_cuda_home({"PATH": str(usr / "bin")}) == str(usr)


def test_a_runtime_with_its_full_name_alone_is_linked_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/cuda")
    decision = BUILD.Decision("13.0", ["sm_90"])
    for name, linked in (("libcudart.so", "cudart"), ("libcudart.so.13", ":libcudart.so.13")):
        described = BUILD.extension(decision, Path("/cuda/somewhere", name))
        assert linked in described.libraries
        assert sum("cudart" in library for library in described.libraries) == 1
        assert described.library_dirs[0] == "/cuda/somewhere"


def refuse(check: str) -> str:
    """What a check of setup.py says, which must be one line."""
    with pytest.raises(BUILD.ImpossibleBuildError) as caught:
        getattr(BUILD, check)()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_what_a_build_needs_is_said_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = "require_python_packages"
    BUILD.require_python_packages()  # all are here
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 18))
        assert refuse(packages).startswith("Python >= 3.10 is needed, got ")
    for version in ("65.5.0", "76.1"):
        with monkeypatch.context() as patch:
            patch.setattr(setuptools, "__version__", version)
            said = f"setuptools >= 77 is needed, got {version}: `pip install 'setuptools>=77'`"
            assert refuse(packages).startswith(said)
    for version in ("2.9.1+cu128", "1.13.0"):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "__version__", version)
            said = f"torch >= 2.10 is needed, got {version}: `pip install 'torch>=2.10'`"
            assert refuse(packages).startswith(said)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        assert "torch is not installed in " in refuse(packages)
        assert "first `pip install torch`" in refuse(packages)


def test_ninja_is_found_beside_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "ninja is not installed: `pip install ninja`" in refuse("require_python_packages")
    write_script(tmp_path / "ninja", "#!/bin/sh\n")
    BUILD.require_python_packages()
    assert os.environ["PATH"].split(os.pathsep)[0] == str(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="setuptools looks for MSVC")
def test_the_compiler_is_tried_before_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_script(tmp_path / "good", "#!/bin/sh\ncat >/dev/null\n")
    write_script(tmp_path / "old", "#!/bin/sh\necho 'old: error: what is c++17?' >&2\nexit 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert f"there is no {tmp_path / 'Python.h'}: install the headers" in refuse("require_compiler")
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CXX", f"{tmp_path / 'good'} -m64")
    BUILD.require_compiler()
    monkeypatch.setenv("CXX", str(tmp_path / "old"))
    assert "/old does not compile C++17 (old: error: what is c++17?)" in refuse("require_compiler")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "there is no C++ compiler no-such-compiler: install" in refuse("require_compiler")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "g++ -pthread")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no C++ compiler g++: install one" in refuse("require_compiler")


def test_the_extension_of_a_build_for_the_cpu_alone() -> None:
    described = BUILD.extension(BUILD.Decision(None, [], "for a test"))
    assert {"csrc/library.cpp", "csrc/common/scores.cpp"} <= set(described.sources)
    assert not [source for source in described.sources if "cuda" in source]
    assert not [name for name in described.libraries if "cud" in name]
    assert described.py_limited_api


def test_the_extension_of_a_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/cuda")
    cpu = BUILD.extension(BUILD.Decision(None, [], "for a test"))
    described = BUILD.extension(BUILD.Decision("13.0", ["sm_90", "compute_90"]))
    kernels = set(described.sources) - set(cpu.sources)
    on_cpu = [source for source in cpu.sources if source.startswith("csrc/ops/cpu/")]
    on_cpu = [source for source in on_cpu if "/screening" not in source]  # GPUs rank by tiles
    assert kernels == {
        source.replace("/cpu/", "/cuda/").replace(".cpp", ".cu") for source in on_cpu
    }
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
    monkeypatch.setattr(setuptools, "setup", lambda **options: built.update(options))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delenv("FORCE_CUDA", raising=False)
    BUILD.main()
    said = "mabm: building the CPU ops only: this torch is a build without CUDA\n"
    assert capsys.readouterr().out == said
    assert [described.name for described in built["ext_modules"]] == ["mabm._C"]
    monkeypatch.setitem(os.environ, "FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="mabm: FORCE_CUDA=1, but this torch is a build without"):
        BUILD.main()


FITTING = [
    # built with CUDA, torch, its CUDA
    (None, "2.10.0", None),
    (None, "2.14.1+cu130", "13.0"),  # slower than need be, not wrong
    ("13.0", "2.11.0+cu130", "13.0"),
    ("13.0", "3.0.0+cu132", "13.2"),
]
MISFITS = [
    (None, "2.9.1+cpu", None, "need torch >= 2.10, got 2.9.1+cpu: `pip install 'torch>=2.10'`"),
    ("13.0", "2.10.0+cu128", "12.8", "built with CUDA 13.0 and torch 2.10.0+cu128 with 12.8"),
    ("12.8", "2.14.1+cu130", "13.0", "built with CUDA 12.8 and torch 2.14.1+cu130 with 13.0"),
    ("13.0", "2.13.0+cpu", None, "built with CUDA 13.0 and torch 2.13.0+cpu with none: install"),
]


def import_with(torch_version: str, torch_cuda: str | None) -> subprocess.CompletedProcess[str]:
    """Imports mabm, and asks for info, where torch says that it is another; warnings are shown."""
    code = (
        "import sys, torch\n"
        f"torch.__version__, torch.version.cuda = {torch_version!r}, {torch_cuda!r}\n"
        "import mabm.cli\n"
        "sys.exit(mabm.cli.main(['info']))\n"
    )
    result = run_program(code)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize(("built_cuda", "torch_version", "torch_cuda"), FITTING)
def test_a_torch_that_fits_is_no_reason_to_warn(
    built_cuda: str | None, torch_version: str, torch_cuda: str | None
) -> None:
    assert mabm._core.extension.find_misfit(built_cuda, torch_version, torch_cuda) is None


@pytest.mark.parametrize(("built_cuda", "torch_version", "torch_cuda", "said"), MISFITS)
def test_a_torch_that_does_not_fit_is_named(
    built_cuda: str | None, torch_version: str, torch_cuda: str | None, said: str
) -> None:
    found = mabm._core.extension.find_misfit(built_cuda, torch_version, torch_cuda)
    assert said in found
    assert "\n" not in found


def test_import_and_info_warn_where_torch_does_not_fit() -> None:
    result = import_with("2.9.1", None)
    assert "RuntimeWarning: the compiled ops of mabm need torch >= 2.10, got 2.9.1" in result.stderr
    assert "advice  " in result.stdout
    fitting = import_with("2.99.0", mabm.build_info().cuda)
    assert (fitting.stderr, "advice  " in fitting.stdout) == ("", False)


@pytest.mark.skipif("cuda" in mabm.backends(), reason="this build has ops for GPUs")
def test_info_says_that_ops_for_the_gpu_are_missing_and_import_does_not() -> None:
    result = import_with("2.14.1+cu130", "13.0")
    assert result.stderr == ""
    assert "the ops are built for the CPU only, but this torch has CUDA 13.0" in result.stdout


def test_ops_that_do_not_load_ask_to_be_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(mabm._core.extension.importlib, "import_module", fail)
    error = ImportError("/x/mabm/_C.abi3.so: undefined symbol: aoti_torch_new")
    with pytest.raises(ImportError, match="undefined symbol") as caught:
        mabm._core.extension.load()
    assert "if it replaced the one that they were built with, rebuild and install them" in str(
        caught.value
    )
    error = ModuleNotFoundError("No module named 'mabm._C'", name="mabm._C")
    with pytest.raises(ImportError, match="Build and install them from the repository") as caught:
        mabm._core.extension.load()
    assert "rebuild" not in str(caught.value)


def test_build_info_tells_what_is_loaded() -> None:
    info = mabm.build_info()
    assert (info.version, info.torch) == (mabm.__version__, torch.__version__)
    assert info.backends == mabm.backends()
    assert [int(part) for part in info.built_with_torch.split(".")] >= [2, 10]
    assert (info.cuda is None) == (info.architectures == ()) == ("cuda" not in info.backends)
    assert doctest.testmod(mabm._core.extension).failed == 0


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


def test_an_nvcc_in_the_current_folder_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "nvcc").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert BUILD.find_cuda_home({"PATH": "."}) == str(tmp_path.parent)
