"""Hybrid contrast: features against a mean and a hard bank of prototypes."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch.nn.functional as F
from torch import Tensor, nn

from mabm._core.arguments import check_real
from mabm._core.batch_checks import check_batch, check_same_device, check_temperature
from mabm.contrast.losses.similarity import (
    DEFAULT_TEMPERATURE,
    check_prototypes,
    cross_entropy,
    scaled_similarities,
)

DEFAULT_MARGIN = 0.2


@overload
def hybrid_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = ...,
    margin: float = ...,
    return_logits: Literal[False] = ...,
) -> Tensor: ...


@overload
def hybrid_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = ...,
    margin: float = ...,
    return_logits: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def hybrid_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = DEFAULT_TEMPERATURE,
    margin: float = DEFAULT_MARGIN,
    return_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Contrasts features with a mean and a hard bank: ``(CE(hard) + relu(CE(mean) - margin)) / 2``.

    Args:
        features: (B, D) floating point; normalized by the loss.
        prototypes: (2, C, D) floating point on the same device, the mean bank first, as in
            :class:`mabm.HybridMemory`; not normalized.
        targets: (B,) integers in [-1, C), the prototype of each feature; -1 is noise.
        temperature: Divisor of the similarities, at least 1e-30.
        margin: Subtracted from the loss of the mean bank before the ReLU, at least 0.
        return_logits: Whether to return the logits too.

    Returns:
        Scalar loss; with ``return_logits`` also the (2, B, C) logits, similarities divided by the
        temperature, the mean bank's first. Differentiable in features and prototypes.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape, a device, an option or a target violates the contract. On a GPU,
            targets are checked by PyTorch's device-side assertion instead.

    Source:
        Wang et al., AAAI 2026 (BMIL), intra-modality loss, as released.

    Example:
        >>> import torch, mabm
        >>> memory, targets = mabm.HybridMemory(torch.eye(4)), torch.tensor([0, 3, -1])
        >>> loss = mabm.hybrid_contrast_loss(torch.eye(4)[targets], memory.prototypes, targets)
        >>> f"{loss:.4f}"
        '0.0000'
    """
    banks = check_prototypes(prototypes, (3,), "(2, C, D), a mean and a hard bank", num_banks=2)
    rows, targets = check_batch(features, targets, banks.shape[2], banks.shape[1], "prototypes")
    check_same_device(banks, rows, "prototypes", "features")
    margin = check_real("margin", margin, 0.0, math.inf, below=True)
    logits = scaled_similarities(rows, banks, check_temperature(temperature))
    mean, hard = logits.unbind()
    loss = 0.5 * (cross_entropy(hard, targets) + F.relu(cross_entropy(mean, targets) - margin))
    return (loss, logits) if return_logits else loss


class HybridContrastLoss(nn.Module):
    """:func:`hybrid_contrast_loss` as a module, called as (features, prototypes, targets).

    Args:
        temperature: Divisor of the similarities, at least 1e-30.
        margin: Subtracted from the loss of the mean bank before the ReLU, at least 0.

    Example:
        >>> import torch, mabm
        >>> criterion, memory = mabm.HybridContrastLoss(margin=0.1), mabm.HybridMemory(torch.eye(4))
        >>> targets = torch.tensor([0, 3, -1])
        >>> criterion(torch.eye(4)[targets], memory.prototypes, targets).shape
        torch.Size([])
    """

    def __init__(
        self, *, temperature: float = DEFAULT_TEMPERATURE, margin: float = DEFAULT_MARGIN
    ) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.margin = check_real("margin", margin, 0.0, math.inf, below=True)

    def forward(self, features: Tensor, prototypes: Tensor, targets: Tensor) -> Tensor:
        """Computes the scalar :func:`hybrid_contrast_loss` with this module's options.

        Args:
            features: (B, D) floating point; normalized by the loss.
            prototypes: (2, C, D) floating point on the same device, the mean bank first.
            targets: (B,) integers in [-1, C), the prototype of each feature; -1 is noise.
        """
        return hybrid_contrast_loss(
            features, prototypes, targets, temperature=self.temperature, margin=self.margin
        )

    def extra_repr(self) -> str:
        """Returns the options for ``repr``."""
        return f"temperature={self.temperature:g}, margin={self.margin:g}"
