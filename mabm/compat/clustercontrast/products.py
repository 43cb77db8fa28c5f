"""The products of Cluster-Contrast's ``models.cm``: similarities that move a memory in backward."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from mabm._core.partition import NOISE
from mabm.compat._adapters.memories import move_batch_by_each, moving_product
from mabm.contrast.memories.hard import move_by_hardest
from mabm.contrast.memories.hybrid import move_banks

__all__ = ["cm", "cm_hard", "cm_hybrid"]

# PCLHD draws a cluster's images with replacement where a batch has fewer of them.
_ENOUGH_TO_DRAW_FROM: Final = 16


def cm(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5) -> Tensor:
    """Returns ``inputs @ features.T``; backward moves ``features`` by every input in turn.

    Args:
        inputs: (B, D) floating point, used as they are: callers normalize them.
        indexes: (B,) integers in [-1, K), the row of each input, -1 for none.
        features: (K, D) floating point memory, **written to by backward**; one that was made in
            inference mode cannot be, and is refused.
        momentum: What a row keeps of itself, in [0, 1]; a number or a tensor of one.

    Returns:
        (B, K) similarities, float32 under autocast too. Differentiable once, in ``inputs``; without
        a backward pass through them the memory stays.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A shape, device, index or momentum out of contract.

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
    """Returns :func:`cm`'s similarities; backward moves a row by its least similar input.

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
    """Returns (B, 2K) similarities with a (2K, D) memory of two banks, the mean bank's first.

    Backward moves the mean bank by the mean of a row's inputs and the hard bank by the input least
    similar to the mean bank's row. Otherwise as :func:`cm`.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import cm_hybrid
        >>> cm_hybrid(torch.randn(4, 8), torch.arange(4), torch.randn(2 * 5, 8)).shape
        torch.Size([4, 10])
    """
    return moving_product(inputs, indexes, features, momentum, _move_stacked, num_banks=2)


def _move_stacked(features: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """:func:`mabm.contrast.memories.hybrid.move_banks` of a (2K, D) memory."""
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
    """(num_instances * K, D) images of clusters, those of the batch's clusters drawn from it.

    One call of ``choice`` a cluster, in the order of the batch, as PCLHD's.
    """
    moved, num_clusters = features.clone(), features.shape[0] // num_instances
    enough = max(_ENOUGH_TO_DRAW_FROM, num_instances)
    for target in dict.fromkeys(targets.tolist()):
        if target == NOISE:
            continue
        own = rows[targets == target]
        drawn = generator.choice(len(own), num_instances, replace=len(own) < enough)
        moved[target::num_clusters] = own[torch.from_numpy(drawn).to(own.device)]
    return moved
