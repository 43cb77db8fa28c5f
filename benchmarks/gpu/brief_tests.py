"""A plugin for pytest under a tool that slows everything down: it ends the session in time.

    MABM_BRIEF_SECONDS=40 PYTHONPATH=benchmarks/gpu python -m pytest -p brief_tests -m gpu

After MABM_BRIEF_SECONDS no further test starts, so that the tool can still print its summary.
"""

import os
import time

import pytest

_START = time.monotonic()
_SECONDS = float(os.environ.get("MABM_BRIEF_SECONDS", "40"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ends the session before a test that would start too late."""
    if time.monotonic() - _START > _SECONDS:
        failed = item.session.testsfailed > 0
        pytest.exit(f"{_SECONDS:g} s are up before {item.nodeid}", returncode=int(failed))
