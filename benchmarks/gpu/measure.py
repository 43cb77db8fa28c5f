"""Timers, a budget of time, and the ceilings of a device, for all benchmarks of this folder."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
Input = TypeVar("Input")

# Repeats back to back of a call that is too short to be timed separately.
_REPEATS = 4
_SETTLING_SECONDS = 1.0  # a GPU's clocks rise under load
_TILE_BYTES = 1 << 30
_SPREAD = 25  # standard deviation of random operands, so that they differ as integers, too


class OutOfTimeError(Exception):
    """The budget has too little time left."""


@dataclass
class Budget:
    """A limit of seconds for a whole run, and the time of each call so far, by name.

    Attributes:
        seconds: The limit, from the creation of the budget on.
        seen: For each name, the greatest work that was timed and its seconds.
    """

    seconds: float
    start: float = field(default_factory=time.perf_counter)
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def used(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def left(self) -> float:
        """Seconds that remain."""
        return self.seconds - self.used()

    def note(self, name: str, work: float, seconds: float) -> None:
        """Records the time of a call."""
        if work >= self.seen.get(name, (0.0, 0.0))[0]:
            self.seen[name] = (work, seconds)

    def expect(self, name: str, work: float) -> float:
        """Seconds that a call should take, proportional to its work; 0 if it was never timed."""
        known, seconds = self.seen.get(name, (1.0, 0.0))
        return seconds * work / known

    def require(self, name: str, work: float, calls: int = 1) -> None:
        """Raises OutOfTimeError if so many calls would exceed the budget."""
        needed = self.expect(name, work) * calls
        if self.left() <= needed:
            raise OutOfTimeError(f"{needed:.1f} s needed, {max(self.left(), 0):.1f} s left")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each round, between events on the device and by the host's clock."""

    device: list[float]
    host: list[float]

    def figures(self) -> dict[str, Any]:
        """Median, spread and number of rounds, for a report."""
        return {
            "median_ms": statistics.median(self.device),
            "least_ms": min(self.device),
            "most_ms": max(self.device),
            "host_median_ms": statistics.median(self.host),
            "rounds": len(self.device),
        }


@dataclass
class Timer:
    """Times calls on a device with inputs in rotation; by the host's clock if it is not a GPU.

    Attributes:
        device: Where the work runs.
        budget: The limit for all calls together.
        seconds: About the time for the rounds of one measurement.
        most_rounds: The most rounds of one measurement. There is at least one for each input, as
            far as the budget allows.
    """

    device: torch.device
    budget: Budget
    seconds: float = 1.0
    most_rounds: int = 15

    def wait(self) -> None:
        """Waits for all work of the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, function: Callable[[Input], object], given: Input) -> tuple[float, float]:
        """Milliseconds of one call: by events, and by the host's clock."""
        self.wait()
        begin = time.perf_counter()
        if self.device.type != "cuda":
            function(given)
            taken = (time.perf_counter() - begin) * 1e3
            return taken, taken
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        function(given)
        last.record()
        self.wait()
        return first.elapsed_time(last), (time.perf_counter() - begin) * 1e3

    def time(
        self, name: str, function: Callable[[Input], object], inputs: Sequence[Input], work: float
    ) -> Timing:
        """Times a call on each input in turn, after a warm-up.

        Args:
            name: The name of the call in the budget.
            function: The call.
            inputs: Several, so that no round finds its data in the cache.
            work: A number that the time of the call is proportional to.

        Raises:
            OutOfTimeError: The budget does not allow a warm-up and a round.
        """
        self.budget.require(name, work, calls=2)
        warm = self.once(function, inputs[0])[1] / 1e3
        if warm < self.seconds / 2:
            for given in inputs[1:]:
                warm = self.once(function, given)[1] / 1e3
        self.budget.note(name, work, warm)
        self.budget.require(name, work)
        wanted = min(max(int(self.seconds / max(warm, 1e-6)), len(inputs)), self.most_rounds)
        rounds = max(1, min(wanted, int(self.budget.left() / max(warm, 1e-6))))
        taken = [self.once(function, inputs[n % len(inputs)]) for n in range(rounds)]
        timing = Timing([ours for ours, _ in taken], [host for _, host in taken])
        self.budget.note(name, work, statistics.median(timing.host) / 1e3)
        return timing


@contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """Within the context, float32 products of the GPU round their operands to ``precision``."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def product_to_float32(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of half-precision operands with a float32 result, as in the ranking."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def multiply(left: Tensor, right: Tensor, precision: str) -> Tensor:
    """``left @ right`` in a precision of ``OPERAND_TYPES``, with operands of the type there."""
    if precision == "int8":
        return torch._int_mm(left, right)
    if precision in {"float16", "bfloat16"}:
        return product_to_float32(left, right)
    if precision == "tf32":
        with float32_as("tf32"):
            return left @ right
    return left @ right


OPERAND_TYPES = {
    "float16": torch.float16,  # with a float32 result: a product of the ranking
    "int8": torch.int8,  # with an int32 result: the other one
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}


def ceilings(timer: Timer) -> dict[str, float]:
    """Measured peak rates of the device: operations per second by precision, bytes per second.

    A product of two square matrices of random numbers, with a float32 result for the half
    precisions and an int32 one for int8; and a copy within the device, counting bytes read and
    written.
    """
    device = timer.device
    side, copied = (8192, 1 << 31) if device.type == "cuda" else (256, 1 << 25)
    rates: dict[str, float] = {}
    for precision, dtype in OPERAND_TYPES.items():
        pairs = [
            tuple((_SPREAD * torch.randn(side, side, device=device)).to(dtype) for _ in range(2))
            for _ in range(2)
        ]

        def run(pair: tuple[Tensor, ...], precision: str = precision) -> None:
            for _ in range(_REPEATS):
                multiply(pair[0], pair[1], precision)

        if not rates and device.type == "cuda":
            settled = time.perf_counter() + _SETTLING_SECONDS
            while time.perf_counter() < settled:
                timer.once(run, pairs[0])
        median = statistics.median(timer.time(f"ceiling {precision}", run, pairs, 1.0).device)
        rates[precision] = _REPEATS * 2 * side**3 / (median / 1e3)
        del pairs
    sources = [torch.randn(copied // 4, device=device) for _ in range(2)]
    target = torch.empty_like(sources[0])
    copy = timer.time("ceiling copy", target.copy_, sources, 1.0)
    rates["copy"] = 2 * copied / (statistics.median(copy.device) / 1e3)
    return rates


def rows_of_tile(columns: int) -> int:
    """The number of rows of a float32 tile of 1 GiB."""
    return max(1, _TILE_BYTES // (4 * columns))


def _command(*words: str) -> str | None:
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()


def clocks() -> dict[str, str]:
    """Clocks, power and temperature of the first GPU by nvidia-smi; empty if it reports none."""
    fields = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "temperature.gpu")
    said = _command("nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv")
    if said is None or len(lines := said.splitlines()) < 2:
        return {}
    return dict(zip(fields, (value.strip() for value in lines[1].split(",")), strict=False))


def _commit() -> str:
    if "MABM_COMMIT" in os.environ:
        return os.environ["MABM_COMMIT"]
    head = _command("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not head:
        return "unknown"
    changed = _command("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{head}, with changes" if changed else head


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that figures are measured with."""
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        driver = _command("nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv")
        facts |= {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": driver.splitlines()[-1] if driver else "unknown",
            "cuda": torch.version.cuda,
            "clocks_at_start": clocks(),
        }
    return facts
