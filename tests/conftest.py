"""Settings and fixtures that tests share."""

import builtins
from collections.abc import Callable

import devices
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
