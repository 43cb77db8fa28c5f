"""Loads the compiled ops, and says what to type where they are missing."""

from __future__ import annotations

import importlib

import torch


def load() -> None:
    """Loads ``mabm._C``, which registers the ops under ``torch.ops.mabm``.

    Raises:
        ImportError: The ops were never built for this interpreter, or do not load with this torch.
    """
    try:
        importlib.import_module("mabm._C")
    except ImportError as error:
        raise ImportError(
            f"the compiled ops of mabm could not be loaded ({error}). Build and install them from "
            "the repository with `pip install --no-build-isolation .` (for work on the source "
            "itself: `pip install --no-build-isolation -e .`); they need torch >= 2.10, got "
            f"{torch.__version__}"
        ) from error


def backends() -> tuple[str, ...]:
    """Device types that this build has ops for: ``("cpu",)``, with CUDA also ``"cuda"``."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(
        name for name in ("cpu", "cuda") if has_kernel("mabm::jaccard_graph", name.upper())
    )
