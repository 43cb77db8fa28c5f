"""Seconds and peak memory of a call, for the benchmarks on the CPU."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def with_peak(function: Callable[..., Any], *args: Any) -> tuple[int, Any]:
    """Peak memory of a call in bytes, beyond what the process uses before it, and its result.

    Call it in a fresh process (Linux), once libraries are loaded and threads started: memory that
    an earlier call has left to the process would be counted as used before.
    """
    Path("/proc/self/clear_refs").write_text("5")  # restarts the peak from the present size
    before = _size("VmRSS")
    result = function(*args)
    return _size("VmHWM") - before, result


def _size(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
