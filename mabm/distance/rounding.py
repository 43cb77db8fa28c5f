"""Bounds on the rounding errors of sums and products.

For a product of n terms summed in any order, ``|fl(a . b) - a . b| <= g(u) |a| |b|`` with
``g(u) = n u / (1 - n u)`` and u the unit roundoff (Higham, Accuracy and Stability of Numerical
Algorithms, section 3.1). With n slightly larger than D, this also covers the rounding of the
centering.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch

# Matrix units truncate where float32 arithmetic rounds: a step aligns K products and the running
# sum to the largest of them and truncates their sum, K + 2 losses of at most 2^-23 of the
# magnitude. So D products lose (1 + 2 / K) D 2^-23 of it; K is 4 or more.
MATRIX_UNIT_ROUNDOFF = 2.0**-22


def growth(terms: int, roundoff: float) -> float:
    """Bound on the relative error of a sum of ``terms`` rounded additions (Higham's gamma)."""
    return terms * roundoff / (1 - terms * roundoff) if terms * roundoff < 1 else math.inf


def float32_rounding(device: torch.device) -> float:
    """Bound on the error of a float32 product from rounding its operands, relative to |a| |b|.

    Zero by default. PyTorch's settings and the environment can select bfloat16 or TF32: at most
    2^-8 for each of two operands, doubled to be safe. Other modes have their own range, and no
    bound.
    """
    backends: Any = torch.backends  # PyTorch does not annotate all of it
    if device.type == "cuda":
        modes = {backends.cuda.matmul.fp32_precision, backends.fp32_precision}
        if os.environ.get("NVIDIA_TF32_OVERRIDE") == "1":
            modes.add("tf32")
        if os.environ.get("CUBLAS_EMULATE_SINGLE_PRECISION") == "1":
            modes.add("emulated")
    else:
        names = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")
        modes = {backends.mkldnn.matmul.fp32_precision}
        modes |= {os.environ.get(name, "none") for name in names}
    modes = {mode.lower() for mode in modes} - {"none", "ieee", "strict"}
    if not modes:
        return 0.0
    return 2.0**-6 if modes <= {"bf16", "tf32"} else math.inf
