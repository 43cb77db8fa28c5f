"""A plugin for pytest under a tool that slows everything down: few examples, and an end in time.

    MABM_BRIEF_SECONDS=40 PYTHONPATH=benchmarks/gpu python -m pytest -p brief_tests -k cuda

Hypothesis draws two examples a test, and after so many seconds no further test is begun, so that
the tool around it still comes to its summary.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, settings

_START = time.monotonic()
_SECONDS = float(os.environ.get("MABM_BRIEF_SECONDS", "40"))


def pytest_sessionstart() -> None:
    """Replaces the profile that tests/conftest.py has loaded by now."""
    settings.register_profile(
        "brief",
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=2,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("brief")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the session before a test that would begin too late."""
    if time.monotonic() - _START > _SECONDS:
        failed = item.session.testsfailed > 0
        pytest.exit(f"{_SECONDS:g} s are up before {item.nodeid}", returncode=int(failed))
