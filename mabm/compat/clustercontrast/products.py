"""The functions of Cluster-Contrast's ``models.cm``: products that update a memory in backward."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from mabm._core.partition import NOISE
from mabm.compat._adapters.memories import move_batch_by_each, moving_product
from mabm.contrast.memories.hard import move_by_hardest
from mabm.contrast.memories.hybrid import move_banks

__all__ = ["cm", "cm_hard", "cm_hybrid"]

# PCLHD draws a cluster's images with replacement if a batch has fewer than this.
_ENOUGH_TO_DRAW_FROM: Final = 16


def cm(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5) -> Tensor:
    """Returns ``inputs @ features.T``; backward updates ``features`` with each input in turn.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none.
        features: (K, D) floating point memory, **written to by backward**, so it cannot be a tensor
            made in inference mode.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Returns:
        (B, K) similarities, float32 under autocast too. Differentiable once, in ``inputs``. The
        memory changes only in a backward pass through them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape, a device, an index or the momentum violates the contract.

    Source:
        Dai et al., ACCV 2022 (Cluster-Contrast), equation 2.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm
        >>> memory, inputs = torch.eye(3), torch.eye(3)[:1].requires_grad_()
        >>> outputs = cm(inputs, torch.tensor([1]), memory, momentum=0.0)
        >>> outputs.sum().backward()
        >>> memory[1]
        tensor([1., 0., 0.])
    """
    return moving_product(inputs, indexes, features, momentum, move_batch_by_each)


def cm_hard(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5
) -> Tensor:
    """Returns ``inputs @ features.T``; backward updates each row with its least similar input.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none.
        features: (K, D) floating point memory, **written to by backward**.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Returns:
        (B, K) similarities, float32 under autocast too. Differentiable once, in ``inputs``.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm_hard
        >>> memory, inputs = torch.eye(2), torch.eye(2).requires_grad_()
        >>> cm_hard(inputs, torch.tensor([0, 0]), memory, momentum=0.0).sum().backward()
        >>> memory[0]
        tensor([0., 1.])
    """
    return moving_product(inputs, indexes, features, momentum, move_by_hardest)


def cm_hybrid(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5
) -> Tensor:
    """Returns ``inputs @ features.T`` for a memory of two banks; backward updates both.

    A row of the mean bank is updated with the mean of its inputs, a row of the hard bank with the
    input least similar to the row in the mean bank.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none.
        features: (2K, D) floating point memory, the mean bank first, **written to by backward**.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Returns:
        (B, 2K) similarities, float32 under autocast too. Differentiable once, in ``inputs``.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm_hybrid
        >>> cm_hybrid(torch.randn(4, 8), torch.arange(4), torch.randn(2 * 5, 8)).shape
        torch.Size([4, 10])
    """
    return moving_product(inputs, indexes, features, momentum, _move_stacked, num_banks=2)


def _move_stacked(features: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """Applies :func:`mabm.contrast.memories.hybrid.move_banks` to a (2K, D) memory."""
    banks = features.reshape(2, -1, features.shape[1])
    return move_banks(banks, rows, targets, momentum).reshape(features.shape)


def move_images(
    features: Tensor,
    rows: Tensor,
    targets: Tensor,
    momentum: float,
    num_instances: int,
    generator: Any,
) -> Tensor:
    """Replaces the images of the batch's clusters by inputs drawn from the batch.

    Calls ``generator.choice`` once per cluster, in batch order, as PCLHD does. ``features`` are
    (num_instances * K, D).
    """
    moved, num_clusters = features.clone(), features.shape[0] // num_instances
    enough = max(_ENOUGH_TO_DRAW_FROM, num_instances)
    for target in dict.fromkeys(targets.tolist()):
        if target == NOISE:
            continue
        inputs = rows[targets == target]
        drawn = generator.choice(len(inputs), num_instances, replace=len(inputs) < enough)
        moved[target::num_clusters] = inputs[torch.from_numpy(drawn).to(inputs.device)]
    return moved
