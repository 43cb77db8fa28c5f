"""A plugin for pytest under a tool that slows everything down: it comes to an end in time.

    MABM_BRIEF_SECONDS=40 PYTHONPATH=benchmarks/gpu python -m pytest -p brief_tests -m gpu

After so many seconds no further test is begun, so that the tool still comes to its summary.
"""

import os
import time

import pytest

_START = time.monotonic()
_SECONDS = float(os.environ.get("MABM_BRIEF_SECONDS", "40"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the session before a test that would begin too late."""
    if time.monotonic() - _START > _SECONDS:
        failed = item.session.testsfailed > 0
        pytest.exit(f"{_SECONDS:g} s are up before {item.nodeid}", returncode=int(failed))
