"""How much memory is left, to refuse what cannot fit before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int | None:
    """Bytes that this process may still take, or ``None`` where the system does not tell.

    The least of what the machine has available and what a container's limit leaves.
    """
    known = [size for size in (_machine(), *map(_cgroup, _CGROUP_LIMITS)) if size is not None]
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


def _cgroup(paths: tuple[str, str]) -> int | None:
    try:
        limit, used = (Path(path).read_text().strip() for path in paths)
    except OSError:
        return None
    return max(int(limit) - int(used), 0) if limit.isdigit() and used.isdigit() else None


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
