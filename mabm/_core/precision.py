"""Features in full precision: their dtype, their length, and the rows that are not finite."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mabm._core.partition import NOISE

_LEAST_LENGTH = 1e-12  # as torch.nn.functional.normalize has it


def full_precision(tensor: Tensor) -> Tensor:
    """Returns float64 as it is and every other floating dtype as float32, keeping the gradient."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off inside, where the device has any: logits are never rounded to half."""
    # The two that surely have it go first: torch.compile of PyTorch 2.10 cannot trace the question.
    if device.type not in ("cpu", "cuda") and not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def unit_rows(features: Tensor) -> Tensor:
    """Returns the rows at length one in full precision; a row of zeros stays one.

    A row is NaN where its length is not finite: where it holds NaN or Inf, or numbers so great
    (1.8e19 in float32) that the sum of their squares is infinite.
    """
    rows = full_precision(features)
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(_LEAST_LENGTH).where(lengths.isfinite(), math.nan)


def leave_out_not_finite(rows: Tensor, targets: Tensor) -> Tensor:
    """Returns the targets with noise for the rows that hold NaN or Inf; waits for no device."""
    greatest = torch.linalg.vector_norm(rows, math.inf, dim=1)
    return targets.where(greatest.isfinite(), NOISE)
