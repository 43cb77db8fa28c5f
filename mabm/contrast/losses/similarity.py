"""The parts of every loss: prototypes, similarities over a temperature, cross entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mabm._core.arrays import check_floating
from mabm._core.batch_checks import check_tensor
from mabm._core.partition import NOISE
from mabm._core.precision import full_precision, unit_rows, without_autocast

DEFAULT_TEMPERATURE = 0.05


def check_prototypes(
    value: object, dims: tuple[int, ...], shape: str, *, num_banks: int | None = None
) -> Tensor:
    """Returns prototypes of one of the numbers of dimensions ``dims``, with their gradient.

    Args:
        value: (P, D) floating point, or (M, P, D) for M banks.
        dims: The numbers of dimensions that the loss accepts.
        shape: The expected shape, for messages.
        num_banks: The required M, or ``None`` for any.

    Raises:
        TypeError: ``value`` is not a dense floating point tensor.
        ValueError: ``value`` has another shape, no columns or no banks.
    """
    prototypes = check_tensor(value, "prototypes")
    check_floating(prototypes, "prototypes")
    banks, columns = prototypes.shape[:-2], prototypes.shape[-1:]
    is_misshapen = prototypes.dim() not in dims or 0 in (*banks, *columns)
    if is_misshapen or (num_banks is not None and banks != (num_banks,)):
        raise ValueError(f"prototypes must be {shape}, got shape {tuple(prototypes.shape)}")
    return prototypes


def scaled_similarities(features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Returns (B, C) or, for M banks, (M, B, C) similarities divided by the temperature."""
    with without_autocast(features.device):
        rows, columns = unit_rows(features), full_precision(prototypes).flatten(0, -2)
        if rows.dtype != columns.dtype:
            rows, columns = rows.double(), columns.double()
        logits = rows @ columns.T / temperature
    if prototypes.dim() == 3:
        return logits.view(features.shape[0], *prototypes.shape[:2]).transpose(0, 1)
    return logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of (B, C) logits over the rows that are not noise; 0 if all are noise."""
    if not logits.shape[1]:
        return logits.sum()  # no prototypes: loss 0 and a gradient of zeros
    total = F.cross_entropy(logits, targets, ignore_index=NOISE, reduction="sum")
    return total / (targets != NOISE).sum().clamp(min=1)
