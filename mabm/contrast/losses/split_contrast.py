"""Multi-positive contrast with the prototypes and clusters of a split or a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from torch import Tensor

from mabm.contrast.losses.multi_positive import multi_positive_loss
from mabm.contrast.losses.selection import SelectingLoss, SelectionOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PrototypeSource(Protocol):
    """An object with prototypes and their clusters: a split or a memory."""

    @property
    def prototypes(self) -> Any:
        """(P, D) floating point, or (M, P, D) for M banks."""

    @property
    def clusters(self) -> Any:
        """(P,) integers, the cluster of each prototype."""


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
        features: (B, D) floating point; normalized by the loss.
        targets: (B,) integers in [-1, P), the prototype of each feature; -1 is noise. For samples
            ``indices`` of a split these are ``split.targets[indices]``.
        source: A :class:`mabm.PrototypeSplit` of tensors, or a memory built from one. The
            prototypes of a split require a gradient if its features did.
        return_logits: Whether to return the logits too.
        options: ``num_selected``, ``temperature``, ``positive_weights`` and ``select`` of
            :func:`multi_positive_loss`.

    Returns:
        Scalar loss; with ``return_logits`` also the logits of all prototypes, similarities divided
        by the temperature: (B, P), or (M, B, P) for M banks.

    Raises:
        TypeError: An argument has the wrong type, or ``source`` has no prototypes or clusters.
        ValueError: A shape, a device, an option, a target or a weight violates the contract.

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
    """:func:`split_contrast_loss` as a module with options.

    Called as (features, targets, source), optionally with ``positive_weights``.

    Args:
        num_selected: Number of prototypes in the softmax, at least 1; all if there are fewer.
        temperature: Divisor of the similarities, at least 1e-30.
        select: Chooses the other prototypes in the softmax, called as :func:`select_hardest` is,
            the default for ``None``.

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
        """Computes the scalar :func:`split_contrast_loss` with this module's options.

        Args:
            features: (B, D) floating point; normalized by the loss.
            targets: (B,) integers in [-1, P), the prototype of each feature; -1 is noise.
            source: A :class:`mabm.PrototypeSplit` of tensors, or a memory built from one.
            positive_weights: (P,) or (B, P) floating point, weights of the positives in their
                mean; ``None`` weights all equally.
        """
        return split_contrast_loss(features, targets, source, **self._options(positive_weights))
