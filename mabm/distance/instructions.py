"""Which of the processor's instructions the ranking uses, chosen when it runs."""

from __future__ import annotations

import functools
import importlib
import logging

logger = logging.getLogger(__name__)

_PORTABLE = "portable"  # csrc/ops/cpu/screening_kernels.cpp


@functools.cache
def fast_int8_kernel() -> str | None:
    """The instruction set for products of int8; ``None`` if float32 is faster here.

    Instructions are used once they have multiplied a tile of test data right. If they have not,
    this warns, and returns ``None``.
    """
    for_floats, supported, used = importlib.import_module("mabm._C").screen_kernels()
    logger.debug("instructions for float32: %s; for int8: %s", for_floats, used)
    if used != supported:
        logger.warning(
            "this processor multiplies int8 wrongly with %s; float32 is used instead", supported
        )
    return None if used == _PORTABLE else used
