"""The contrast with the prototypes of a split or a memory, which brings their clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from torch import Tensor

from mabm.contrast.losses.multi_positive import multi_positive_loss
from mabm.contrast.losses.selection import SelectingLoss, SelectionOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PrototypeSource(Protocol):
    """What has prototypes and knows their clusters: a split or a memory."""

    @property
    def prototypes(self) -> Any:
        """(P, D), or (M, P, D) for M banks."""

    @property
    def clusters(self) -> Any:
        """(P,) cluster of each."""


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


class SplitContrastLoss(SelectingLoss):
    """:func:`split_contrast_loss` with its options.

    Called as (features, targets, source), and ``positive_weights`` if there are any.

    Args:
        num_selected: Prototypes in the softmax, at least 1; all there are where there are fewer.
        temperature: What similarities are divided by, at least 1e-30.
        select: Which prototypes beside the positives enter the softmax, a :data:`Selector`;
            :func:`select_hardest` by default.

    Example:
        >>> import torch, mabm
        >>> criterion = mabm.SplitContrastLoss(num_selected=4)
        >>> features, labels = torch.randn(40, 8), torch.arange(40) % 5
        >>> split = mabm.split_prototypes(features, labels, torch.arange(40) // 20)
        >>> criterion(features[:4], split.targets[:4], split).shape
        torch.Size([])
    """

    def forward(
        self,
        features: Tensor,
        targets: Tensor,
        source: PrototypeSource,
        positive_weights: Tensor | None = None,
    ) -> Tensor:
        """Returns the scalar :func:`split_contrast_loss` with the options of this module.

        Args:
            features: (B, D) floating point, normalized here.
            targets: (B,) integers in [-1, P): ``split.targets[indices]`` for the samples of the
                batch.
            source: What has the prototypes and their clusters: a :class:`mabm.PrototypeSplit` of
                tensors or a memory.
            positive_weights: (P,) or (B, P) floating point that weighs the positives' mean; all
                alike by default.
        """
        return split_contrast_loss(features, targets, source, **self._options(positive_weights))
