"""The losses as modules that hold their options."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mabm._core.arguments import check_integer, check_real
from mabm._core.batch import check_temperature
from mabm._core.selection import check_select
from mabm.contrast.losses import (
    DEFAULT_MARGIN,
    DEFAULT_NUM_SELECTED,
    DEFAULT_TEMPERATURE,
    PrototypeSource,
    SelectionOptions,
    Selector,
    cluster_contrast_loss,
    hybrid_contrast_loss,
    multi_positive_loss,
    split_contrast_loss,
)


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


class HybridContrastLoss(nn.Module):
    """:func:`hybrid_contrast_loss` with its options; called as (features, prototypes, targets).

    Args:
        temperature: What similarities are divided by, at least 1e-30.
        margin: What the loss on the mean bank is forgiven, at least 0.

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
        """Returns the scalar :func:`hybrid_contrast_loss` with the options of this module.

        Args:
            features: (B, D) floating point, normalized here.
            prototypes: (2, C, D) floating point on the same device, the mean bank first.
            targets: (B,) integers in [-1, C), the prototype of each feature, -1 for noise.
        """
        return hybrid_contrast_loss(
            features, prototypes, targets, temperature=self.temperature, margin=self.margin
        )

    def extra_repr(self) -> str:
        """Options, as ``repr`` prints them."""
        return f"temperature={self.temperature:g}, margin={self.margin:g}"


class _SelectingLoss(nn.Module):
    """The options that the losses with a selection share."""

    def __init__(
        self,
        *,
        num_selected: int = DEFAULT_NUM_SELECTED,
        temperature: float = DEFAULT_TEMPERATURE,
        select: Selector | None = None,
    ) -> None:
        super().__init__()
        self.num_selected = check_integer("num_selected", num_selected, at_least=1)
        self.temperature = check_temperature(temperature)
        check_select(select)
        self.select = select

    def _options(self, positive_weights: Tensor | None) -> SelectionOptions:
        return {
            "num_selected": self.num_selected,
            "temperature": self.temperature,
            "positive_weights": positive_weights,
            "select": self.select,
        }

    def extra_repr(self) -> str:
        """Options, as ``repr`` prints them."""
        return f"num_selected={self.num_selected}, temperature={self.temperature:g}"


class MultiPositiveLoss(_SelectingLoss):
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


class SplitContrastLoss(_SelectingLoss):
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
