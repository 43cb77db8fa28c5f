"""Where packages of the extras are missing, tests that need them are skipped and say which."""

import os
import re
import subprocess
import sys
from pathlib import Path

import extras

from mabm.cli.commands import info

ROOT = Path(__file__).parents[1]


def run_without(missing: tuple[str, ...], folder: Path, *words: str) -> tuple[int, str]:
    """Runs pytest where some modules cannot be imported."""
    plugin = f"import sys\nsys.modules.update(dict.fromkeys({missing!r}))\n"
    (folder / "missing_modules.py").write_text(plugin)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "missing_modules", "-p", "no:cacheprovider", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    return done.returncode, done.stdout


def test_every_package_of_an_extra_is_known() -> None:
    needed_by_tests = {"tomli", "pandas"}
    packages = {name for extra in info._EXTRAS.values() for name in extra} | needed_by_tests
    modules = {
        "pillow": "PIL",
        "tomli-w": "tomli_w",
        "faiss-cpu": "faiss",
        "cuvs-cu12": "cuvs",
    }
    assert {modules.get(name, name) for name in packages} == set(extras.EXTRA_OF)


def test_every_file_is_collected_without_any_extra(tmp_path: Path) -> None:
    status, said = run_without(tuple(extras.EXTRA_OF), tmp_path, "--collect-only", "-qq", "-rs")
    assert status == 0, said[-2000:]
    assert 'needs PIL: pip install "mabm[train]"' in said
    assert 'needs matplotlib: pip install "mabm[demo]"' in said
    assert "tests/test_devices.py: " in said


def test_tests_are_skipped_by_the_name_of_what_they_miss(tmp_path: Path) -> None:
    files = (
        "tests/train/test_config.py",
        "tests/cli/test_system.py",
        "tests/train/records/test_environment.py",
    )
    words = ("-k", "configuration or describe or versions or mistakes", "-rs", *files)
    status, said = run_without(("pydantic", "tomli_w"), tmp_path, *words)
    assert status == 0, said[-2000:]
    assert re.search(r"\d+ passed, \d+ skipped", said)
    assert 'needs pydantic: pip install "mabm[train]"' in said


def test_another_missing_module_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_missing.py").write_text(
        "def test_ours():\n    import mabm.no_such_module\n"
        "def test_extra():\n    import timm_of_none\n"
        "def test_core():\n    import sklearn\n"
    )
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert "2 failed, 1 passed" in done.stdout
