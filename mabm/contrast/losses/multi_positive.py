"""The contrast with all prototypes of a cluster, one for each modality that it has."""

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
    """Pulls every feature to all prototypes of its cluster, away from the hardest of the others.

    The positives of a feature are all prototypes of its target's cluster, one for each modality
    the cluster has. A softmax over them and the most similar others, ``num_selected`` in all,
    gives ``mean over positives of -log softmax``, averaged over the batch and over the banks.

    Args:
        features: (B, D) floating point, normalized here.
        prototypes: (P, D) floating point on the same device, or (M, P, D) for M banks, each with a
            softmax of its own; taken as they are.
        targets: (B,) integers in [-1, P), the prototype of each feature, -1 for noise.
        clusters: (P,) integers, the cluster of each prototype.
        num_selected: Prototypes in the softmax, at least 1; all there are where there are fewer.
            Positives enter even where there are more of them. Of others that tie for the last
            place, those enter that ``torch.topk`` takes.
        temperature: What similarities are divided by, at least 1e-30.
        positive_weights: (P,) or (B, P) floating point that weighs the positives' mean (of others
            it changes nothing), for instance by modality; all alike by default. Each is 0 or in
            [1e-30, 1e30]. A row whose positives all weigh 0 is left out as noise is.
        select: Which others enter the softmax, a :data:`Selector`; :func:`select_hardest` by
            default.
        return_logits: Whether to return the logits as well.

    Returns:
        Scalar loss; with ``return_logits`` also all similarities over the temperature, before the
        selection: (B, P), or (M, B, P) for M banks. Differentiable in features, prototypes and
        weights; the selection is taken as given.

    Raises:
        TypeError: As :func:`cluster_contrast_loss`.
        ValueError: As :func:`cluster_contrast_loss`, or ``num_selected`` below 1, clusters or
            weights of another shape, a weight out of range (on the CPU), or an answer of ``select``
            that is no mask of the logits.

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
    """:func:`multi_positive_loss` of (B, P) or (M, B, P) logits and checked arguments."""
    if not logits.shape[-1]:
        return logits.sum()
    is_noise = (targets == NOISE)[:, None]
    owners = clusters[targets.clamp(min=0)]
    positives = (owners[:, None] == clusters) & ~is_noise
    selected = (select or select_hardest)(logits.detach(), positives, num_selected)
    entering = check_mask(selected, logits) | positives
    log_softmax = logits.masked_fill(~entering, -math.inf).log_softmax(dim=-1)
    weights = positives.to(logits.dtype)
    if positive_weights is not None:
        weights = weights * positive_weights.to(logits.dtype)
    totals = weights.sum(dim=1)
    counted = totals > 0
    # Where the softmax leaves a column out its logarithm is infinite, and 0 times that is no 0.
    likelihoods = (log_softmax.masked_fill(~positives, 0.0) * weights).sum(dim=-1)
    losses = -likelihoods / totals.masked_fill(~counted, 1.0)
    num_banks = logits.shape[0] if logits.dim() == 3 else 1
    return losses.sum() / (counted.sum().clamp(min=1) * num_banks)


class MultiPositiveLoss(SelectingLoss):
    """:func:`multi_positive_loss` with its options.

    Called as (features, prototypes, targets, clusters), and ``positive_weights`` if there are any.

    Args:
        num_selected: Prototypes in the softmax, at least 1; all there are where there are fewer.
        temperature: What similarities are divided by, at least 1e-30.
        select: Which prototypes beside the positives enter the softmax, a :data:`Selector`;
            :func:`select_hardest` by default.

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
        """Returns the scalar :func:`multi_positive_loss` with the options of this module.

        Args:
            features: (B, D) floating point, normalized here.
            prototypes: (P, D) floating point on the same device, or (M, P, D) for M banks.
            targets: (B,) integers in [-1, P), the prototype of each feature, -1 for noise.
            clusters: (P,) integers, the cluster of each prototype.
            positive_weights: (P,) or (B, P) floating point that weighs the positives' mean; all
                alike by default.
        """
        options = self._options(positive_weights)
        return multi_positive_loss(features, prototypes, targets, clusters, **options)
