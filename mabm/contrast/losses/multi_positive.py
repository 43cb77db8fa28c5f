"""Multi-positive contrast: all prototypes of a cluster are positives, one per modality."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor

from mabm._core.arguments import check_integer
from mabm._core.batch_checks import check_batch, check_same_device, check_temperature
from mabm._core.partition import NOISE
from mabm.contrast.losses.selection import (
    DEFAULT_NUM_SELECTED,
    SelectingLoss,
    SelectionOptions,
    Selector,
    check_clusters,
    check_mask,
    check_select,
    check_weights,
    select_hardest,
)
from mabm.contrast.losses.similarity import (
    DEFAULT_TEMPERATURE,
    check_prototypes,
    scaled_similarities,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


@overload
def multi_positive_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    clusters: Tensor,
    *,
    return_logits: Literal[False] = ...,
    **options: Unpack[SelectionOptions],
) -> Tensor: ...


@overload
def multi_positive_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    clusters: Tensor,
    *,
    return_logits: Literal[True],
    **options: Unpack[SelectionOptions],
) -> tuple[Tensor, Tensor]: ...


def multi_positive_loss(
    features: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    clusters: Tensor,
    *,
    num_selected: int = DEFAULT_NUM_SELECTED,
    temperature: float = DEFAULT_TEMPERATURE,
    positive_weights: Tensor | None = None,
    select: Selector | None = None,
    return_logits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Pulls each feature to all prototypes of its cluster and away from the hardest others.

    The positives of a feature are all prototypes of its target's cluster, one per modality of the
    cluster. The softmax runs over the positives and the most similar other prototypes,
    ``num_selected`` in total. The loss is the mean of ``-log softmax`` over the positives, averaged
    over the batch and over the banks.

    Args:
        features: (B, D) floating point; normalized by the loss.
        prototypes: (P, D) floating point on the same device, or (M, P, D) for M banks, each with
            its own softmax; not normalized.
        targets: (B,) integers in [-1, P), the prototype of each feature; -1 is noise.
        clusters: (P,) integers, the cluster of each prototype.
        num_selected: Number of prototypes in the softmax, at least 1; all if there are fewer.
            Positives always enter, even if there are more of them. ``torch.topk`` breaks ties for
            the last place.
        temperature: Divisor of the similarities, at least 1e-30.
        positive_weights: (P,) or (B, P) floating point, weights of the positives in their mean, for
            instance by modality; ``None`` weights all equally. Each is 0 or in [1e-30, 1e30].
            Weights of other prototypes have no effect. A row is ignored, like noise, if all its
            positives have weight 0.
        select: Chooses the other prototypes in the softmax, called as :func:`select_hardest` is,
            the default for ``None``.
        return_logits: Whether to return the logits too.

    Returns:
        Scalar loss; with ``return_logits`` also the logits of all prototypes, similarities divided
        by the temperature: (B, P), or (M, B, P) for M banks. Differentiable in features, prototypes
        and weights; no gradient passes through the selection.

    Raises:
        TypeError: An argument has the wrong type, or ``select`` does not return a mask.
        ValueError: A shape, a device, an option, a target or a weight violates the contract, or the
            mask of ``select`` does not broadcast to the logits. On a GPU, targets are checked by
            PyTorch's device-side assertion instead, and weights are not checked.

    Source:
        Wang et al., AAAI 2026 (BMIL), modality-invariant contrast, as released.

    Example:
        >>> import torch, mabm
        >>> prototypes, clusters = torch.eye(6), torch.tensor([0, 0, 1, 2, 2, 3])
        >>> features, targets = torch.randn(8, 6), torch.arange(8) % 6
        >>> mabm.multi_positive_loss(features, prototypes, targets, clusters).shape
        torch.Size([])
    """
    banks = check_prototypes(prototypes, (2, 3), "(P, D), or (M, P, D) for M banks")
    num_prototypes, num_columns = banks.shape[-2:]
    rows, targets = check_batch(features, targets, num_columns, num_prototypes, "prototypes")
    check_same_device(banks, rows, "prototypes", "features")
    owners = check_clusters(clusters, banks)
    count = check_integer("num_selected", num_selected, at_least=1)
    weights = check_weights(positive_weights, rows, num_prototypes)
    check_select(select)
    logits = scaled_similarities(rows, banks, check_temperature(temperature))
    loss = multi_positive_of_logits(logits, targets, owners, count, weights, select)
    return (loss, logits) if return_logits else loss


def multi_positive_of_logits(
    logits: Tensor,
    targets: Tensor,
    clusters: Tensor,
    num_selected: int,
    positive_weights: Tensor | None,
    select: Selector | None,
) -> Tensor:
    """Computes :func:`multi_positive_loss` from (B, P) or (M, B, P) logits; checks nothing."""
    if not logits.shape[-1]:
        return logits.sum()
    is_noise = (targets == NOISE)[:, None]
    owners = clusters[targets.clamp(min=0)]
    positives = (owners[:, None] == clusters) & ~is_noise
    selected = (select or select_hardest)(logits.detach(), positives, num_selected)
    in_softmax = check_mask(selected, logits) | positives
    log_softmax = logits.masked_fill(~in_softmax, -math.inf).log_softmax(dim=-1)
    weights = positives.to(logits.dtype)
    if positive_weights is not None:
        weights = weights * positive_weights.to(logits.dtype)
    totals = weights.sum(dim=1)
    is_counted = totals > 0
    # The logarithm is infinite in columns outside the softmax, and 0 times infinity is NaN.
    likelihoods = (log_softmax.masked_fill(~positives, 0.0) * weights).sum(dim=-1)
    losses = -likelihoods / totals.masked_fill(~is_counted, 1.0)
    num_banks = logits.shape[0] if logits.dim() == 3 else 1
    return losses.sum() / (is_counted.sum().clamp(min=1) * num_banks)


class MultiPositiveLoss(SelectingLoss):
    """:func:`multi_positive_loss` as a module with options.

    Called as (features, prototypes, targets, clusters), optionally with ``positive_weights``.

    Args:
        num_selected: Number of prototypes in the softmax, at least 1; all if there are fewer.
        temperature: Divisor of the similarities, at least 1e-30.
        select: Chooses the other prototypes in the softmax, called as :func:`select_hardest` is,
            the default for ``None``.

    Example:
        >>> import torch, mabm
        >>> criterion = mabm.MultiPositiveLoss(num_selected=4)
        >>> prototypes, clusters = torch.eye(6), torch.tensor([0, 0, 1, 2, 2, 3])
        >>> criterion(torch.randn(8, 6), prototypes, torch.arange(8) % 6, clusters).shape
        torch.Size([])
    """

    def forward(
        self,
        features: Tensor,
        prototypes: Tensor,
        targets: Tensor,
        clusters: Tensor,
        positive_weights: Tensor | None = None,
    ) -> Tensor:
        """Computes the scalar :func:`multi_positive_loss` with this module's options.

        Args:
            features: (B, D) floating point; normalized by the loss.
            prototypes: (P, D) floating point on the same device, or (M, P, D) for M banks; not
                normalized.
            targets: (B,) integers in [-1, P), the prototype of each feature; -1 is noise.
            clusters: (P,) integers, the cluster of each prototype.
            positive_weights: (P,) or (B, P) floating point, weights of the positives in their
                mean; ``None`` weights all equally.
        """
        options = self._options(positive_weights)
        return multi_positive_loss(features, prototypes, targets, clusters, **options)
