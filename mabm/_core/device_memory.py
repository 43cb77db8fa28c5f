"""How much memory is left, and words for what does not fit: before the work, or in its midst."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mabm._core.extension import interruptible

# Limit, use, statistics and the name in them of file cache that is given back on demand, for
# containers of control groups version 2 and 1.
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
    """Bytes that this process may still take on a device, or ``None`` where nothing tells.

    On the CPU the least of what the machine has available and what a container's limit leaves; on a
    GPU what is free and what PyTorch holds in reserve.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    known = [
        size for size in (_machine(), *(_cgroup(*names) for names in _CGROUPS)) if size is not None
    ]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    sizes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    return int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None


def _cgroup(limit_file: str, used_file: str, statistics_file: str, cache_name: str) -> int | None:
    try:
        limit, used, statistics = (
            (_CGROUP_ROOT / name).read_text().strip()
            for name in (limit_file, used_file, statistics_file)
        )
    except OSError:
        return None
    if not limit.isdigit():  # "max": there is none
        return None
    cached = dict(line.split() for line in statistics.splitlines()).get(cache_name, "0")
    return max(int(limit) - int(used) + int(cached), 0)


def check_fits(needed: int, what: str, instead: str, device: torch.device) -> None:
    """Raises MemoryError where ``needed`` bytes are more than there are.

    Args:
        needed: Bytes.
        what: What they are for, as the subject of the message.
        instead: What the user can do.
        device: Where they are needed.
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
    """Around calls of ops: says in words what did not fit in memory, and lets Ctrl-C through.

    Args:
        what: The work, as the subject of the message.
        instead: What the user can do.

    Raises:
        torch.OutOfMemoryError: The work ran out of memory on a GPU.
        MemoryError: It did so on the CPU.
        BaseException: What a signal handler raised in the midst of an op, such as
            KeyboardInterrupt.
    """
    try:
        with interruptible():
            yield
    except MemoryError as error:
        raise MemoryError(f"{what} ran out of memory ({error}); {instead}") from error
    except RuntimeError as error:  # an op has no other type for it
        if (at := str(error).find("can't allocate memory")) >= 0:  # PyTorch's own, on the CPU
            reason = str(error)[at:].splitlines()[0]
            raise MemoryError(f"{what} ran out of memory ({reason}); {instead}") from error
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        # An op's message begins with the place in its source; this is what the user needs of it.
        reason = (str(error).splitlines() or [""])[0]
        reason = reason[max(reason.find("out of memory"), 0) :]
        raise torch.OutOfMemoryError(
            f"{what} ran out of GPU memory ({reason}); {instead}"
        ) from error
