"""Every feature against all prototypes: the contrast with one prototype a cluster."""

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
    """Contrasts every feature with all prototypes (InfoNCE): ``CE(normalize(f) . p / t, target)``.

    Args:
        features: (B, D) floating point, normalized here.
        prototypes: (C, D) floating point on the same device, taken as they are.
        targets: (B,) integers in [-1, C), the prototype of each feature, -1 for noise.
        temperature: What similarities are divided by, at least 1e-30.
        return_logits: Whether to return the logits as well.

    Returns:
        Scalar loss, the mean over rows that are no noise; with ``return_logits`` also the
        (B, C) similarities over the temperature. Differentiable in features and prototypes.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A shape, device or option out of contract, or a target out of range (of tensors
            on the CPU; on a GPU PyTorch's device-side assertion meets it).

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
    """:func:`cluster_contrast_loss` with its options; called as (features, prototypes, targets).

    Args:
        temperature: What similarities are divided by, at least 1e-30.

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
        """Returns the scalar :func:`cluster_contrast_loss` with the options of this module.

        Args:
            features: (B, D) floating point, normalized here.
            prototypes: (C, D) floating point on the same device, taken as they are.
            targets: (B,) integers in [-1, C), the prototype of each feature, -1 for noise.
        """
        return cluster_contrast_loss(features, prototypes, targets, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Options, as ``repr`` prints them."""
        return f"temperature={self.temperature:g}"
