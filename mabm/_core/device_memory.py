"""The available memory of a device, and errors for work that does not fit in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mabm._core.extension import interruptible
from mabm._core.work import OverLimitError

# For containers with control groups version 2 and 1: the files with the limit, the usage and the
# statistics, and the statistics entry for reclaimable file cache.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on a device; ``None`` if unknown.

    On the CPU this is the smaller of the machine's available memory and the rest of the container's
    limit; on a GPU, free memory plus PyTorch's unused reserve.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    known = [
        size
        for size in (_machine_bytes(), *(_cgroup_bytes(*names) for names in _CGROUPS))
        if size is not None
    ]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    sizes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    return int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None


def _cgroup_bytes(
    limit_file: str, used_file: str, statistics_file: str, cache_name: str
) -> int | None:
    try:
        limit, used, statistics = (
            (_CGROUP_ROOT / name).read_text().strip()
            for name in (limit_file, used_file, statistics_file)
        )
    except OSError:
        return None
    if not limit.isdigit():  # "max": no limit
        return None
    cached = dict(line.split() for line in statistics.splitlines()).get(cache_name, "0")
    return max(int(limit) - int(used) + int(cached), 0)


def check_fits(needed: int, what: str, instead: str, device: torch.device) -> None:
    """Raises MemoryError if a device has fewer than ``needed`` bytes available.

    Args:
        needed: Bytes that the work will allocate.
        what: The purpose of the memory; the subject of the message.
        instead: What the user can do instead; the end of the message.
        device: The device to allocate on.

    Raises:
        MemoryError: The device has fewer bytes available.
    """
    available = available_bytes(device)
    if available is not None and needed > available:
        where = "" if device.type == "cpu" else f" on {device}"
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are "
            f"available{where}; {instead}"
        )


@contextmanager
def running_ops(what: str, instead: str) -> Iterator[None]:
    """Wraps calls of ops: errors say what ran out of memory, and Ctrl-C interrupts an op.

    Args:
        what: The work; the subject of the message.
        instead: What the user can do instead; the end of the message.

    Raises:
        torch.OutOfMemoryError: The work ran out of memory on a GPU.
        MemoryError: The work ran out of memory on the CPU.
        BaseException: Raised by a signal handler during an op, such as KeyboardInterrupt.
    """
    try:
        with interruptible():
            yield
    except OverLimitError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{what} ran out of memory ({error}); {instead}") from error
    except RuntimeError as error:  # the type of every error of an op
        if (at := str(error).find("can't allocate memory")) >= 0:  # PyTorch's own, on the CPU
            reason = str(error)[at:].splitlines()[0]
            raise MemoryError(f"{what} ran out of memory ({reason}); {instead}") from error
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        # An op's message begins with its place in the source, which does not help the user.
        reason = (str(error).splitlines() or [""])[0]
        reason = reason[max(reason.find("out of memory"), 0) :]
        raise torch.OutOfMemoryError(
            f"{what} ran out of GPU memory ({reason}); {instead}"
        ) from error
