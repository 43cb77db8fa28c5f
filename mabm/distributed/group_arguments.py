"""The arguments that every function of this package has: the group and the time limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import torch.distributed as dist

from mabm._core.arguments import check_real, shown

_LEAST, _MOST = 0.001, 1e8
"""Seconds; backends count whole milliseconds, and 0 means no limit to them."""

_DEFAULT: Final = timedelta(minutes=30)


def check_group(group: object) -> dist.ProcessGroup | None:
    """Returns the group, or ``None`` where this process is the only one.

    Raises:
        TypeError: ``group`` is no process group.
        ValueError: This process is no member, or the group is not initialized.
    """
    if group is None:
        if not (dist.is_available() and dist.is_initialized()):
            return None
        group = dist.group.WORLD
    contract = "group must be a process group of torch.distributed that this process is a member of"
    if dist.is_available() and _is_no_member(group):
        raise ValueError(f"{contract}, got GroupMember.NON_GROUP_MEMBER")
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"{contract}, got {type(group).__name__}: {shown(group)}")
    if group not in dist.distributed_c10d._world.pg_map:
        raise ValueError(f"{contract}, got one that is destroyed: {shown(group)}")
    return group if group.size() > 1 else None


def _is_no_member(group: object) -> bool:
    mark = dist.GroupMember.NON_GROUP_MEMBER
    return type(group) is type(mark) and group == mark


def check_timeout(timeout: object, group: dist.ProcessGroup | None) -> float:
    """Returns the time limit in seconds; that of the group unless given.

    Raises:
        TypeError: ``timeout`` is neither a number nor a timedelta.
        ValueError: It is below a millisecond, or above 1e8 s.
    """
    if timeout is None:
        return default_timeout(group)
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return check_real("timeout", seconds, _LEAST, _MOST, reason=" seconds")


def default_timeout(group: dist.ProcessGroup | None) -> float:
    """The time limit of a group in seconds; half an hour where the group does not say."""
    if group is None:
        return _DEFAULT.total_seconds()
    try:
        backend = group._get_backend(group._device_types[0])
        return backend.options._timeout.total_seconds()
    except (AttributeError, IndexError, RuntimeError):  # a backend without options
        return _DEFAULT.total_seconds()
