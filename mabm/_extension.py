"""Loads the compiled ops, and says what to type where they are missing."""

from __future__ import annotations

import torch


def load() -> None:
    """Loads ``mabm._C``, which registers the ops under ``torch.ops.mabm``.

    Raises:
        ImportError: The ops were never built for this interpreter, or do not load with this torch.
    """
    try:
        from mabm import _C  # noqa: F401, PLC0415
    except ImportError as error:
        raise ImportError(
            f"the compiled ops of mabm could not be loaded ({error}). Build and install them from "
            "the repository with `pip install --no-build-isolation .` (for work on the source "
            "itself: `pip install --no-build-isolation -e .`); they need torch >= 2.10, got "
            f"{torch.__version__}"
        ) from error


def has_backend(device_type: str) -> bool:
    """Whether this build holds the ops for a device type such as ``"cpu"`` or ``"cuda"``."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        "mabm::jaccard_graph", device_type.upper()
    )


def backends() -> tuple[str, ...]:
    """The device types that this build holds the ops for."""
    return tuple(name for name in ("cpu", "cuda") if has_backend(name))
