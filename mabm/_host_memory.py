"""How much memory is left, to refuse what cannot fit before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

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


def available_bytes() -> int | None:
    """Bytes that this process may still take, or ``None`` where the system does not tell.

    The least of what the machine has available and what a container's limit leaves.
    """
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


def check_fits(needed: int, what: str, instead: str) -> None:
    """Raises MemoryError where ``needed`` bytes are more than there are.

    Args:
        needed: Bytes.
        what: What they are for, as the subject of the message.
        instead: What the user can do.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are "
            f"available; {instead}"
        )
