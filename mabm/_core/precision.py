"""Full precision in training steps: dtypes, autocast, unit rows, rows that are not finite."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mabm._core.partition import NOISE

_LEAST_LENGTH = 1e-12  # as in torch.nn.functional.normalize


def full_precision(tensor: Tensor) -> Tensor:
    """Converts every floating dtype but float64 to float32; keeps the gradient."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disables autocast, if the device supports it, so that logits are not rounded to half."""
    # cpu and cuda always support it; torch.compile of PyTorch 2.10 cannot trace the call below.
    if device.type not in ("cpu", "cuda") and not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def unit_rows(features: Tensor) -> Tensor:
    """Returns the rows scaled to unit length in full precision; a row of zeros stays zero.

    A row becomes NaN if its length is not finite: if it has NaN or Inf, or numbers so large
    (1.8e19 in float32) that the sum of their squares is infinite.
    """
    rows = full_precision(features)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(_LEAST_LENGTH).where(lengths.isfinite(), math.nan)


def leave_out_not_finite(rows: Tensor, targets: Tensor) -> Tensor:
    """Returns targets with -1 for rows with NaN or Inf, without waiting for a GPU."""
    greatest = torch.linalg.vector_norm(rows, math.inf, dim=1)
    return targets.where(greatest.isfinite(), NOISE)
