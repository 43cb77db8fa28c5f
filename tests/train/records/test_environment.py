"""The environment: what it tells, and what it keeps to itself."""

import getpass
import os
import platform
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mabm
from mabm.train.records import environment
from mabm.train.records.environment import describe_environment


def test_versions_are_those_that_run() -> None:
    facts = describe_environment()
    assert facts["mabm"] == mabm.__version__
    assert facts["torch"] == torch.__version__
    assert facts["Python"].startswith(platform.python_version())
    assert facts["numpy"] == np.__version__
    assert list(facts)[:3] == ["mabm", "compiled ops", "torch"]
    for backend in mabm.backends():
        assert backend in facts["compiled ops"]


def test_settings_are_those_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    facts = describe_environment()
    assert facts["threads"].startswith("77 within an op")
    assert facts["deterministic algorithms"] == "required"


def test_nothing_names_the_machine_or_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABM_TEST_VARIABLE", "secret-value")
    monkeypatch.setattr(socket, "gethostname", lambda: pytest.fail("asked for the host name"))
    monkeypatch.setattr(platform, "node", lambda: pytest.fail("asked for the host name"))
    monkeypatch.setattr(getpass, "getuser", lambda: pytest.fail("asked for the user name"))
    text = " ".join(f"{name} {value}" for name, value in describe_environment().items())
    assert "secret-value" not in text
    for path in (os.getcwd(), sys.prefix, str(Path(mabm.__file__).parent), str(Path.home())):
        assert path.rstrip("/") + "/" not in text
    assert os.sep not in text


def test_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("numpy", "no-such-package-at-all"))
    facts = describe_environment()
    assert "numpy" in facts
    assert "no-such-package-at-all" not in facts


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert describe_environment()["GPU"] == "none"
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    facts = describe_environment()
    assert facts["GPU 1"] == "Card, 80 GiB, compute capability 9.0"
    assert facts["CUDA of torch"] == "99.1"
    assert "GPU" not in facts


def test_processor_is_named_on_any_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(environment, "_CPU_FACTS", facts)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_environment()["CPU"].startswith("unknown processor, ")
    facts.write_text("processor\t: 0\nmodel name\t: Fast Chip\n")
    assert describe_environment()["CPU"].startswith("Fast Chip, ")
