"""The command for a visit to a GPU: steps with limits, what is selected for it, its table."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import devices
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
GPU = ROOT / "benchmarks" / "gpu"


def run_steps(folder: Path, script: str, seconds: int = 60) -> tuple[str, str]:
    """Runs a few steps as run.sh does; what was written down, and the log."""
    settings = f"OUT={folder} PART=part PART_SECONDS={seconds}"
    subprocess.run(
        ["bash", "-uc", f"{settings}; source {GPU / 'steps.sh'}; {script}"],
        check=True,
        timeout=200,
        capture_output=True,
    )
    return (folder / "part.txt").read_text(), (folder / "part.log").read_text()


needs_timeout = pytest.mark.skipif(sys.platform != "linux", reason="the GPU run needs Linux")


@needs_timeout
def test_a_step_that_hangs_is_cut_off_and_the_rest_go_on(tmp_path: Path) -> None:
    # It hears no interrupt, and neither does what it started.
    hang = "trap '' INT; echo begun; sleep 300 & wait; sleep 300"
    written, log = run_steps(
        tmp_path,
        f"""GRACE=1
        step first 3 bash -c "{hang}"; say first "$took, $status, $(output | grep -c begun)"
        step second 9 echo spoken; say second "$status, $(output | head -n 1)" """,
    )
    assert re.fullmatch(r"first: CUT OFF after \d+ s, 137, 1\nsecond: 0, spoken\n", written)
    assert "==== first, at most 3 s" in log


@needs_timeout
def test_no_step_outlasts_its_part(tmp_path: Path) -> None:
    written, _ = run_steps(
        tmp_path,
        """GRACE=1
        step first 50 sleep 40; say first "$took"
        step second 50 touch "$OUT/begun" || true """,
        seconds=6,
    )
    assert re.fullmatch(r"first: CUT OFF after \d+ s\nsecond: not run: no time left\n", written)
    assert not (tmp_path / "begun").exists()


@needs_timeout
def test_a_log_stays_small(tmp_path: Path) -> None:
    written, log = run_steps(
        tmp_path,
        """MOST_BYTES=2000
        step one 20 echo before; step two 20 seq 100000; output | tail -n 2 | head -n 1 | quote
        step three 20 false; [ $status = 1 ] && fail three "as it should"; say all "$failed" """,
    )
    assert written == "    100000\nthree: FAILED: as it should\nall: 1\n"
    assert len(log) < 4000
    assert "before" in log
    assert "bytes left out" in log


TEST_THAT_HANGS = """
import time
import pytest

@pytest.mark.parametrize("number", range(6))
def test_one(number):
    if number == 2:
        time.sleep(300)
"""


def test_a_test_that_hangs_costs_its_own_time_alone(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    pytest.importorskip("pytest_timeout", reason="needs pytest-timeout")
    (tmp_path / "test_hang.py").write_text(TEST_THAT_HANGS)
    options = re.search(r"-p pytest_timeout (--timeout) 60 (--timeout-method \w+)", run_script())
    assert options is not None
    command = f"-p xdist -n 2 -p pytest_timeout {options[1]} 6 {options[2]} -p no:cacheprovider -vv"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command.split(), "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "1 failed, 5 passed" in done.stdout
    assert re.search(r"crashed while running .*test_one\[2\]", done.stdout)


def run_script() -> str:
    return (GPU / "run.sh").read_text().replace("\\\n", "")


def collected(*words: str) -> list[str]:
    """Tests that pytest selects, in its order."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_the_marker_selects_what_takes_a_gpu_and_nothing_else() -> None:
    files = (
        "tests/distance/test_products.py",
        "tests/distance/test_reranking.py",
        "tests/test_devices.py",
    )
    marked = collected("-m", "gpu", *files)
    others = collected("-m", "not gpu", *files)
    first = [name for name in marked if "test_devices.py" in name]
    assert first
    assert marked[: len(first)] == first
    assert (
        "tests/distance/test_reranking.py::test_query_and_gallery_on_two_devices_are_refused"
        in marked
    )
    assert [name for name in marked if re.search(r"[\[-]cpu[\]-]", name)] == []
    assert [name for name in others if re.search(r"[\[-]cuda[\]-]", name)] == []
    assert [name for name in others if "test_devices.py" in name] == []
    assert any("[cpu]" in name for name in others)


def test_files_that_are_left_out_have_no_test_of_a_gpu(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        if devices.takes_a_gpu(item):
            assert devices.names_a_device(item.path), item.nodeid


def test_what_runs_under_the_sanitizer_is_there() -> None:
    words = re.search(r'-k "([\w ]+)" (tests/\w+\.py)', run_script())
    assert words is not None
    names = collected("-m", "gpu", "-k", words[1], words[2])
    for part in words[1].split(" or "):
        assert sum(part in name for name in names) > 5, part


COUNTED = """==PROF== Connected to process 7
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","void mabm::fill_kernel<4>(float *)","GPU Speed Of Light","Duration","us","12.50"
"0","7","void mabm::fill_kernel<4>(float *)","GPU Speed Of Light","Memory Throughput","%","71.2"
"0","7","void mabm::fill_kernel<4>(float *)","Memory","Memory Throughput","Tbyte/s","2.1"
"1","7","void mabm::fill_kernel<4>(float *)","GPU Speed Of Light","Duration","us","11.0"
"2","7","mabm::join_kernel(int *)","GPU Speed Of Light","Duration","ms","1.5"
"2","7","mabm::join_kernel(int *)","Launch Statistics","Grid Size","","1,024"
"2","7","mabm::join_kernel(int *)","","","",""
==PROF== Disconnected
"""


def test_the_table_of_counters_has_a_line_a_kernel() -> None:
    def table(text: str) -> tuple[int, list[list[str]]]:
        done = subprocess.run(
            [sys.executable, GPU / "counter_table.py"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, [line.split() for line in done.stdout.splitlines()]

    status, (_, *kernels) = table(COUNTED)
    assert status == 0
    assert [line[-2:] for line in kernels] == [
        ["join_kernel(int", "*)"],
        ["fill_kernel<4>(float", "*)"],
    ]
    assert kernels[0][0] == "1500.0"
    assert "1024" in kernels[0]
    assert kernels[1][:3] == ["12.5", "-", "71.2"]
    assert kernels[1][-3] == "2"  # launches that were seen
    assert table("no counters here\n")[0] == 1


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(GPU)
    return importlib.import_module("microbenchmarks")


def test_a_size_that_cannot_fit_is_not_begun(
    harness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "available_bytes", lambda device: 80e9)
    monkeypatch.setattr(harness, "ceilings", lambda timer: {})
    monkeypatch.setattr(harness, "make_features", None)  # must not be asked for
    options = [
        "--device",
        "cpu",
        "--sizes",
        "largest",
        "--seconds",
        "1e9",
        "--name",
        "much",
        "--output",
    ]
    monkeypatch.setattr(sys, "argv", ["microbenchmarks.py", *options, str(tmp_path)])
    assert harness.main() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["much-table.txt", "much.json"]
    size = json.loads((tmp_path / "much.json").read_text())["sizes"][0]
    assert (size["samples"], size["dim"], size["kind"]) == (4_180_000, 2048, "usual")
    said = size["not_run"]["everything"]
    assert re.fullmatch(r"takes about \d+ GB, and 80 GB are free", said)
    assert 34 < int(said.split()[2]) < 200  # the features alone take 34 GB
    assert said in (tmp_path / "much-table.txt").read_text()


def test_a_large_size_is_measured_by_one_call_of_each(
    harness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "_LARGE", 200)
    options = ["--device", "cpu", "--sizes", "240x8:dense", "--name", "large", "--output"]
    monkeypatch.setattr(sys, "argv", ["microbenchmarks.py", *options, str(tmp_path)])
    assert harness.main() == 0
    size = json.loads((tmp_path / "large.json").read_text())["sizes"][0]
    assert size["errors"] == {}
    assert len(size["checks"]) == 3
    assert all(size["checks"].values())
    rounds = {name: figures["rounds"] for name, figures in size["stages"].items()}
    assert rounds == {"rank_neighbors": 1, "pseudo_labels": 1}


@pytest.mark.parametrize("text", ["34167", "34167x2048:odd", "many", "1x2,3"])
def test_sizes_that_there_are_none_of_are_refused(harness: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"got '{text}'"):
        harness.parse_sizes(text)


def test_the_first_call_tells_what_differs(harness: Any) -> None:
    smoke = importlib.import_module("smoke")
    here, there = np.array([1, 2, 3]), np.array([1, 5, 3])
    found = smoke.differences(
        {"a": here, "b": there, "c": here[1:]}, dict.fromkeys("abc", here), devices.CPU
    )
    assert found == ["b: 1 of 3", "c: shape (2,) instead of (3,)"]
