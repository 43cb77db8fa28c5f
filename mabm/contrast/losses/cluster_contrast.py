"""Cluster contrast: each feature against all prototypes, one of them its own."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from mabm._core.batch_checks import check_batch, check_same_device, check_temperature
from mabm.contrast.losses.similarity import (
    DEFAULT_TEMPERATURE,
    check_prototypes,
    cross_entropy,
    scaled_similarities,
)


@overload
def cluster_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = ...,
    return_logits: Literal[False] = ...,
) -> Tensor: ...


@overload
def cluster_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = ...,
    return_logits: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def cluster_contrast_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = DEFAULT_TEMPERATURE,
    return_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Contrasts each feature with all prototypes (InfoNCE): ``CE(normalize(f) @ p.T / t, target)``.

    Args:
        features: (B, D) floating point; normalized by the loss.
        prototypes: (C, D) floating point on the same device; not normalized.
        targets: (B,) integers in [-1, C), the prototype of each feature; -1 is noise.
        temperature: Divisor of the similarities, at least 1e-30.
        return_logits: Whether to return the logits too.

    Returns:
        Scalar loss, the mean over rows that are not noise; with ``return_logits`` also the
        (B, C) logits: similarities divided by the temperature. Differentiable in features and
        prototypes.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape, a device, an option or a target violates the contract. On a GPU,
            targets are checked by PyTorch's device-side assertion instead.

    Source:
        Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022,
        equation 3.

    Example:
        >>> import torch, mabm
        >>> prototypes, targets = torch.eye(4), torch.tensor([0, 3, -1])
        >>> loss = mabm.cluster_contrast_loss(10 * prototypes[targets], prototypes, targets)
        >>> f"{loss:.4f}"
        '0.0000'
    """
    bank = check_prototypes(prototypes, (2,), "(C, D)")
    rows, targets = check_batch(features, targets, bank.shape[1], bank.shape[0], "prototypes")
    check_same_device(bank, rows, "prototypes", "features")
    logits = scaled_similarities(rows, bank, check_temperature(temperature))
    loss = cross_entropy(logits, targets)
    return (loss, logits) if return_logits else loss


class ClusterContrastLoss(nn.Module):
    """:func:`cluster_contrast_loss` as a module, called as (features, prototypes, targets).

    Args:
        temperature: Divisor of the similarities, at least 1e-30.

    Example:
        >>> import torch, mabm
        >>> criterion, targets = mabm.ClusterContrastLoss(temperature=0.1), torch.tensor([0, 3, -1])
        >>> criterion(torch.eye(4)[targets], torch.eye(4), targets).shape
        torch.Size([])
    """

    def __init__(self, *, temperature: float = DEFAULT_TEMPERATURE) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, features: Tensor, prototypes: Tensor, targets: Tensor) -> Tensor:
        """Computes the scalar :func:`cluster_contrast_loss` with this module's options.

        Args:
            features: (B, D) floating point; normalized by the loss.
            prototypes: (C, D) floating point on the same device; not normalized.
            targets: (B,) integers in [-1, C), the prototype of each feature; -1 is noise.
        """
        return cluster_contrast_loss(features, prototypes, targets, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Returns the options for ``repr``."""
        return f"temperature={self.temperature:g}"
