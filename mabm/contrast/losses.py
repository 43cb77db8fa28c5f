"""Contrast of features with prototypes: functions of tensors.

Nothing here keeps a memory: prototypes come from a split (:func:`mabm.split_prototypes`), from a
memory (:mod:`mabm.contrast.memory`) or from anywhere else, and take a gradient if they want one. In
all of it features are normalized, prototypes are taken as they are, and a target of -1 (noise)
leaves its row out of the mean; a batch with nothing else has loss 0 and a gradient of zeros.

Similarities, softmax and loss are float32 under autocast too (float64 where features are); call
backward outside of it, as PyTorch asks for every loss. Values on a GPU are never waited for: every
loss runs without a synchronization, and compiles whole.

A row of features that is not finite, or whose length is not (numbers of 1.8e19 or more in float32),
makes the loss NaN: a gradient scaler then skips the step, as it should.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mabm._core.arguments import check_integer, check_real
from mabm._core.arrays import check_floating
from mabm._core.batch import (
    check_batch,
    check_same_device,
    check_temperature,
    check_tensor,
    full_precision,
    unit_rows,
    without_autocast,
)
from mabm._core.partition import NOISE
from mabm._core.selection import check_clusters, check_mask, check_select, check_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_TEMPERATURE = 0.05
DEFAULT_MARGIN = 0.2
DEFAULT_NUM_SELECTED = 50

Selector: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""``select(logits, positives, num_selected)`` -> mask of the prototypes that enter the softmax.

``logits`` (..., B, P) carry no gradient, ``positives`` (B, P) is a mask; the answer is a mask that
broadcasts to ``logits``. Positives enter whatever it says.
"""


class PrototypeSource(Protocol):
    """What has prototypes and knows their clusters: a split or a memory."""

    @property
    def prototypes(self) -> Any:
        """(P, D), or (M, P, D) for M banks."""

    @property
    def clusters(self) -> Any:
        """(P,) cluster of each."""


class SelectionOptions(TypedDict, total=False):
    """The options of :func:`multi_positive_loss`, which says what they are."""

    num_selected: int
    temperature: float
    positive_weights: Tensor | None
    select: Selector | None


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
    bank = _check_prototypes(prototypes, (2,), "(C, D)")
    rows, targets = check_batch(features, targets, bank.shape[1], bank.shape[0], "prototypes")
    check_same_device(bank, rows, "prototypes", "features")
    logits = _similarities(rows, bank, check_temperature(temperature))
    loss = cross_entropy(logits, targets)
    return (loss, logits) if return_logits else loss


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
        features: (B, D) floating point, normalized here.
        prototypes: (2, C, D) floating point on the same device, the mean bank first, as
            :class:`mabm.HybridMemory` holds them; taken as they are.
        targets: (B,) integers in [-1, C), -1 for noise.
        temperature: What similarities are divided by, at least 1e-30.
        margin: What the loss on the mean bank is forgiven, at least 0.
        return_logits: Whether to return the logits as well.

    Returns:
        Scalar loss; with ``return_logits`` also (2, B, C) similarities over the temperature, the
        mean bank's first. Differentiable in features and prototypes.

    Raises:
        TypeError: As :func:`cluster_contrast_loss`.
        ValueError: As :func:`cluster_contrast_loss`, or ``margin`` is negative.

    Source:
        Wang et al., AAAI 2026 (BMIL), intra-modality loss, as released.

    Example:
        >>> import torch, mabm
        >>> memory, targets = mabm.HybridMemory(torch.eye(4)), torch.tensor([0, 3, -1])
        >>> loss = mabm.hybrid_contrast_loss(torch.eye(4)[targets], memory.prototypes, targets)
        >>> f"{loss:.4f}"
        '0.0000'
    """
    banks = _check_prototypes(prototypes, (3,), "(2, C, D), a mean and a hard bank", num_banks=2)
    rows, targets = check_batch(features, targets, banks.shape[2], banks.shape[1], "prototypes")
    check_same_device(banks, rows, "prototypes", "features")
    margin = check_real("margin", margin, 0.0, math.inf, below=True)
    logits = _similarities(rows, banks, check_temperature(temperature))
    mean, hard = logits.unbind()
    loss = 0.5 * (cross_entropy(hard, targets) + F.relu(cross_entropy(mean, targets) - margin))
    return (loss, logits) if return_logits else loss


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
    banks = _check_prototypes(prototypes, (2, 3), "(P, D), or (M, P, D) for M banks")
    num_prototypes, num_columns = banks.shape[-2:]
    rows, targets = check_batch(features, targets, num_columns, num_prototypes, "prototypes")
    check_same_device(banks, rows, "prototypes", "features")
    owners = check_clusters(clusters, banks)
    count = check_integer("num_selected", num_selected, at_least=1)
    weights = check_weights(positive_weights, rows, num_prototypes)
    check_select(select)
    logits = _similarities(rows, banks, check_temperature(temperature))
    loss = multi_positive_of_logits(logits, targets, owners, count, weights, select)
    return (loss, logits) if return_logits else loss


def select_hardest(logits: Tensor, positives: Tensor, num_selected: int) -> Tensor:
    """Selects the positives and the greatest of the other logits, ``num_selected`` in all.

    Args:
        logits: (..., B, P).
        positives: (B, P) bool, counted first.
        num_selected: How many in all; every prototype where there are fewer.

    Returns:
        (..., B, P) bool.

    Example:
        >>> import torch, mabm
        >>> logits = torch.tensor([[0.1, 0.9, 0.5]])
        >>> positives = torch.tensor([[True, False, False]])
        >>> mabm.select_hardest(logits, positives, num_selected=2)
        tensor([[ True,  True, False]])
    """
    ranked = logits.masked_fill(positives, math.inf)
    chosen = ranked.topk(min(num_selected, logits.shape[-1]), dim=-1, sorted=False).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, chosen, True)


@overload
def split_contrast_loss(
    features: Tensor,
    targets: Tensor,
    source: PrototypeSource,
    *,
    return_logits: Literal[False] = ...,
    **options: Unpack[SelectionOptions],
) -> Tensor: ...


@overload
def split_contrast_loss(
    features: Tensor,
    targets: Tensor,
    source: PrototypeSource,
    *,
    return_logits: Literal[True],
    **options: Unpack[SelectionOptions],
) -> tuple[Tensor, Tensor]: ...


def split_contrast_loss(
    features: Tensor,
    targets: Tensor,
    source: PrototypeSource,
    *,
    return_logits: bool = False,
    **options: Unpack[SelectionOptions],
) -> Tensor | tuple[Tensor, Tensor]:
    """Applies :func:`multi_positive_loss` to the prototypes and clusters of a split or a memory.

    Args:
        features: (B, D) floating point, normalized here.
        targets: (B,) integers in [-1, P): ``split.targets[indices]`` for the samples of the batch.
        source: A :class:`mabm.PrototypeSplit` of tensors, whose prototypes take a gradient if its
            features did, or a memory rebuilt from one.
        return_logits: Whether to return the logits as well.
        options: ``num_selected``, ``temperature``, ``positive_weights`` and ``select`` of
            :func:`multi_positive_loss`.

    Returns:
        As :func:`multi_positive_loss`.

    Raises:
        TypeError: As :func:`multi_positive_loss`, or ``source`` has no prototypes.
        ValueError: As :func:`multi_positive_loss`.

    Example:
        >>> import torch, mabm
        >>> features, labels = torch.randn(40, 8), torch.arange(40) % 5
        >>> split = mabm.split_prototypes(features, labels, torch.arange(40) // 20)
        >>> batch = torch.tensor([3, 8, 21, 30])
        >>> loss = mabm.split_contrast_loss(features[batch], split.targets[batch], split)
    """
    if not (hasattr(source, "prototypes") and hasattr(source, "clusters")):
        raise TypeError(
            f"source must have prototypes and clusters, as a split or a memory has, "
            f"got {type(source).__name__}"
        )
    banks, clusters = source.prototypes, source.clusters
    if return_logits:
        return multi_positive_loss(
            features, banks, targets, clusters, return_logits=True, **options
        )
    return multi_positive_loss(features, banks, targets, clusters, **options)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of (B, C) logits over the rows that are no noise; 0 where all are."""
    if not logits.shape[1]:
        return logits.sum()  # nothing to contrast with: 0, and a gradient of zeros
    total = F.cross_entropy(logits, targets, ignore_index=NOISE, reduction="sum")
    return total / (targets != NOISE).sum().clamp(min=1)


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


def _similarities(features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """(B, C) similarities over the temperature, or (M, B, C): one product for all banks."""
    with without_autocast(features.device):
        rows, columns = unit_rows(features), full_precision(prototypes).flatten(0, -2)
        if rows.dtype != columns.dtype:
            rows, columns = rows.double(), columns.double()
        logits = rows @ columns.T / temperature
    if prototypes.dim() == 3:
        return logits.view(features.shape[0], *prototypes.shape[:2]).transpose(0, 1)
    return logits


def _check_prototypes(
    value: object, dims: tuple[int, ...], shape: str, *, num_banks: int | None = None
) -> Tensor:
    prototypes = check_tensor(value, "prototypes")
    check_floating(prototypes, "prototypes")
    banks, columns = prototypes.shape[:-2], prototypes.shape[-1:]
    wrong = prototypes.dim() not in dims or 0 in (*banks, *columns)
    if wrong or (num_banks is not None and banks != (num_banks,)):
        raise ValueError(f"prototypes must be {shape}, got shape {tuple(prototypes.shape)}")
    return prototypes
