"""Settings and fixtures that tests share."""

import builtins
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import devices
import extras
import pytest
import torch
from commands import Run
from devices import Device
from hypothesis import HealthCheck, settings

from mabm.cli import main

# Examples are drawn the same way in every run, so that a failure is a failure for everyone.
settings.register_profile(
    "mabm",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mabm")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, files without a test of the kind are not even imported."""
    asked = config.option.markexpr == "gpu" and collection_path.match("test_*.py")
    return True if asked and not devices.names_a_device(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what runs on a GPU, or on emulated hardware, and chooses what comes first.

    Of the tests of a GPU alone that is the most telling file; where several processes share the
    files, the long ones, so that none is left with such a file at the end.
    """
    for item in items:
        if devices.takes_a_gpu(item):
            item.add_marker(pytest.mark.gpu)
        if item.path.parent.name in ("emulated_grid", "emulated_cpu"):
            item.add_marker(pytest.mark.kernels)
    if config.option.markexpr == "gpu":
        items.sort(key=lambda item: item.path.name != devices.MOST_TELLING)
    elif hasattr(config, "workerinput"):  # a process of pytest-xdist
        marks = ("slow", "kernels")
        long = {item.path for item in items if any(map(item.get_closest_marker, marks))}
        items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that imports a package of an extra is skipped, by name, where that is missing."""
    report = yield
    call = report.call
    if call.excinfo is not None and (module := extras.missed_by(call.excinfo.value)):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {extras.reason(module)}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """So is a test that fails because the library could not import such a package."""
    report = yield
    if call.excinfo is not None and (module := extras.missed_by(call.excinfo.value)):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: {extras.reason(module)}")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a package that is missing; ends a process whose GPU is lost.

    Of the next test such a process could tell nothing.
    """
    for mark in item.iter_markers("needs"):
        if module := extras.first_missing(mark.args):
            pytest.skip(extras.reason(module))
    if item.get_closest_marker("gpu") and (said := devices.lost()):
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(3)  # another process takes its place, and the tests after this one
        pytest.exit(f"the GPU is lost before {item.nodeid}: {said}", returncode=1)


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run() -> None:
    torch.manual_seed(0)


# Of the session, as Hypothesis wants what all of a test's examples share.
@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    """The CPU, and then a GPU: every test that takes it runs on either."""
    return devices.find(request.param)


@pytest.fixture(scope="session")
def gpu() -> Device:
    """A GPU, for what there is to say of GPUs alone."""
    return devices.find("cuda")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of ``mabm`` in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def remove_package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes imports of a package fail as if it were not installed."""
    original = builtins.__import__

    def remove(package: str) -> None:
        def refuse(name: str, *args: object, **kwargs: object) -> object:
            if name.partition(".")[0] == package:
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return remove


@pytest.fixture(scope="module")
def browser() -> Generator[Any, None, None]:
    """A Chromium of the machine, driven by playwright; without either, tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"needs a browser: {' or '.join(names)} on the PATH")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
