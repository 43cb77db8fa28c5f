"""Finds the device for a name, in this process."""

from __future__ import annotations

import os

import torch

from mabm._core.extension import backends


def find_device(name: str, argument: str = "device", *, needs_ops: bool = False) -> torch.device:
    """Returns the device for a name; ``"auto"`` is a GPU if there is one, otherwise the CPU.

    A GPU without a number (``"auto"``, ``"cuda"``) is the one of the process's local rank under
    ``torchrun``, otherwise the first.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        argument: Name of the argument in messages, such as ``--device``.
        needs_ops: Whether ops of this library will run there, not only PyTorch's.

    Returns:
        ``cpu``, or ``cuda`` with a number.

    Raises:
        ValueError: There is no such device, or this build has no ops for it.

    Example:
        >>> from mabm._core.devices import find_device
        >>> find_device("cpu")
        device(type='cpu')
    """
    has_gpu = torch.cuda.is_available()
    has_ops = not needs_ops or "cuda" in backends()
    if name == "auto":
        name = "cuda" if has_gpu and has_ops else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"{argument} must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cpu":
        return device
    if not has_gpu:
        raise ValueError(
            f"{argument} must be a device of this machine, got {name!r}: torch sees no GPU"
        )
    local_rank = os.environ.get("LOCAL_RANK", "0")
    number = int(local_rank) if device.index is None else device.index
    if number >= torch.cuda.device_count():
        raise ValueError(
            f"{argument} must be one of the {torch.cuda.device_count()} available GPUs, got "
            f"{name!r} in the process of local rank {local_rank}"
        )
    if not has_ops:
        raise ValueError(
            f"{argument} must be cpu with this build of mabm, which has no ops for GPUs, got "
            f"{name!r}"
        )
    return torch.device("cuda", number)
