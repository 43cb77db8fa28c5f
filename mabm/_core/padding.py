"""Sizes that the operands of matrix products are filled up to."""

from __future__ import annotations

# Operands have a multiple of so many rows: products of other sizes take slower kernels of a GPU's
# library, and those of 8-bit integers some sizes not at all. The same number is in
# csrc/common/preparation.h.
OPERAND_STEP = 64


def padded_size(count: int, step: int = OPERAND_STEP) -> int:
    """The least multiple of ``step`` that is at least ``count``."""
    return -(-count // step) * step
