"""HHCL: replaces its ``models.cm``. Its modes have the names of others but different losses.

Like :class:`mabm.compat.clustercontrast.ClusterMemory` **it is updated by backward**. The distance
of HHCL is Cluster-Contrast's: :func:`mabm.compat.clustercontrast.compute_jaccard_distance`.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from mabm._core.arguments import check_integer, check_real, shown
from mabm._core.batch_checks import widen_targets
from mabm._core.partition import NOISE
from mabm._core.precision import without_autocast
from mabm.compat._adapters.memories import (
    MovingMemory,
    check_smooth,
    contrast,
    hardest_image_logits,
    moving_product,
)
from mabm.compat.clustercontrast.products import cm, cm_hard
from mabm.contrast.losses.similarity import DEFAULT_TEMPERATURE
from mabm.contrast.memories.hard import move_by_hardest
from mabm.contrast.memories.hybrid import move_banks

__all__ = ["ClusterMemory", "cm", "cm_hard", "cm_hybrid", "cm_hybrid_v2"]


def cm_hybrid(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5
) -> Tensor:
    """Returns ``inputs @ features.T`` for a memory of two banks, the **hard** bank first.

    Backward updates a row of the hard bank with the input least similar to it, and a row of the
    mean bank with the mean of its inputs.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none.
        features: (2K, D) floating point memory, the hard bank first, **written to by backward**.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Returns:
        (B, 2K) similarities, float32 under autocast too. Differentiable once, in ``inputs``.

    Example:
        >>> import torch
        >>> from mabm.compat.hhcl import cm_hybrid
        >>> memory, inputs = torch.eye(2).repeat(2, 1), torch.eye(2).requires_grad_()
        >>> cm_hybrid(inputs, torch.tensor([0, 0]), memory, momentum=0.0).sum().backward()
        >>> memory[0]
        tensor([0., 1.])
    """
    each = "an even number of rows, the hard bank and the mean one"
    return moving_product(
        inputs, indexes, features, momentum, _move_hard_and_mean, num_banks=2, rows_of=each
    )


def cm_hybrid_v2(
    inputs: Tensor,
    indexes: Tensor,
    features: Tensor,
    momentum: float | Tensor = 0.5,
    num_instances: int = 16,
) -> Tensor:
    """Returns ``inputs @ features.T`` for a memory of means and images.

    Backward updates a row of the mean bank, the first K rows, with the mean of its inputs. It
    writes the inputs of cluster y, in batch order, to rows K + y, 2 K + y and so on.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none. No row may occur more
            than ``num_instances`` times; counting them synchronizes with a GPU.
        features: ((1 + num_instances) * K, D) floating point memory, **written to by backward**.
        momentum: Weight of the old row in an update of the mean bank, in [0, 1].
        num_instances: Number of images per cluster.

    Returns:
        (B, (1 + num_instances) * K) similarities.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument violates the contract, or an index occurs too often.

    Example:
        >>> import torch
        >>> from mabm.compat.hhcl import cm_hybrid_v2
        >>> memory, indexes = torch.randn(5 * 3, 8), torch.tensor([0, 0, 2])
        >>> cm_hybrid_v2(torch.randn(3, 8), indexes, memory, num_instances=4).shape
        torch.Size([3, 15])
    """
    count = check_integer("num_instances", num_instances, at_least=1)
    move = partial(_move_mean_and_images, num_instances=count)
    each = f"1 + num_instances = {1 + count} rows for every cluster"
    outputs = moving_product(inputs, indexes, features, momentum, move, 1 + count, rows_of=each)
    _, repeats = torch.unique(indexes[indexes != NOISE], return_counts=True)
    if len(repeats) and int(repeats.max()) > count:
        raise ValueError(
            f"indexes must contain no row more often than num_instances = {count}, "
            f"got one {int(repeats.max())} times"
        )
    return outputs


class ClusterMemory(MovingMemory):
    """The memory of HHCL: ``forward(f, y)`` is the loss, and its backward updates the memory.

    Modes and their losses, where CE is the cross entropy of similarities divided by ``temp``, and w
    is ``hard_weight``:

    - ``"CM"``: updated with each input in turn; CE.
    - ``"CMhard"``: updated with the least similar input; CE.
    - ``"CMhybrid"``: two banks, see :func:`cm_hybrid`; ``w * (CE(hard) + (1 - w) * CE(mean))``, as
      released.
    - ``"CMhybrid_v2"``: means and images, see :func:`cm_hybrid_v2`;
      ``w * CE(mean) + (1 - w) * CE(images)``. The image logit of a cluster is the least over the
      input's own cluster, and the greatest over each other cluster.

    In other code bases ``"CMhybrid"`` has its banks in the other order and another loss; see
    :class:`mabm.compat.clustercontrast.ClusterMemory`, which also normalizes its inputs.

    Args:
        num_features: Dimension D of the features.
        num_samples: K, the number of rows of a bank until ``features`` are assigned.
        temp: Divisor of the similarities.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.
        mode: One of the modes above.
        hard_weight: w, in [0, 1].
        smooth: Whether to smooth labels by 0.1: any number above 0 does. The target has weight 0.9.
            With K = ``num_samples`` below 100, each class gets 0.1 / K in addition; from 100 on,
            each of the K // 50 greatest logits gets 0.1 / (K // 50).
        num_instances: Number of images per cluster in ``"CMhybrid_v2"``.

    Attributes:
        features: (K, D) buffer; (2K, D) in ``"CMhybrid"``, the hard bank first;
            ((1 + num_instances) * K, D) in ``"CMhybrid_v2"``. Callers assign it.
        temp: Divisor of the similarities. It can be assigned, as can ``momentum``, ``hard_weight``,
            ``smooth``, ``num_samples`` and ``num_instances``; the next forward pass uses the new
            value.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range.

    Source:
        Hu et al., "Hard-sample Guided Hybrid Contrast Learning for Unsupervised Person
        Re-Identification", 2021, as released.

    Example:
        >>> import torch
        >>> from mabm.compat.hhcl import ClusterMemory
        >>> memory = ClusterMemory(16, 5, temp=0.05, momentum=0.1, mode="CMhybrid")
        >>> centers = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
        >>> memory.features = centers.repeat(2, 1)
        >>> inputs = torch.nn.functional.normalize(torch.randn(8, 16), dim=1).requires_grad_()
        >>> memory(inputs, torch.arange(8) % 5).backward()
    """

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float = DEFAULT_TEMPERATURE,
        momentum: float | Tensor = 0.2,
        mode: str = "CM",
        hard_weight: float = 0.5,
        smooth: float = 0.0,
        num_instances: int = 1,
    ) -> None:
        count = check_integer("num_instances", num_instances, at_least=0)
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {shown(mode)}")
        num_banks = {"CMhybrid": 2, "CMhybrid_v2": 1 + count}.get(mode, 1)
        super().__init__(num_features, num_samples, temp, momentum, num_banks)
        self.hard_weight = check_real("hard_weight", hard_weight, 0.0, 1.0)
        self.smooth = check_smooth(smooth)
        self.num_instances = count
        self.cm_type = mode

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of (B, D) inputs and their targets.

        Args:
            inputs: (B, D) floating point; not normalized, callers do that.
            targets: (B,) integers in [-1, K); -1 is noise.

        Returns:
            Scalar loss.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A shape, a device or a target violates the contract.
        """
        self._make_writable()
        temperature = self._temperature_now()
        weight = check_real("hard_weight", self.hard_weight, 0.0, 1.0)
        given = (inputs, targets, self.features, self.momentum)
        count = self.num_instances
        if self.cm_type == "CMhybrid_v2":
            logits = cm_hybrid_v2(*given, num_instances=count) / temperature
        else:
            logits = _PRODUCTS[self.cm_type](*given) / temperature
        targets = widen_targets(targets, "targets")
        with without_autocast(logits.device):
            if self.cm_type == "CMhybrid":
                hard, mean = (self._loss(bank, targets) for bank in logits.chunk(2, dim=1))
                return weight * (hard + (1 - weight) * mean)
            if self.cm_type == "CMhybrid_v2":
                num_clusters = logits.shape[1] // (1 + count)
                images = hardest_image_logits(logits[:, num_clusters:], targets, count)
                mean = self._loss(logits[:, :num_clusters], targets)
                return weight * mean + (1 - weight) * self._loss(images, targets)
            return self._loss(logits, targets)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return contrast(logits, targets, self.num_samples if self.smooth > 0 else None)


_PRODUCTS: Final = {"CM": cm, "CMhard": cm_hard, "CMhybrid": cm_hybrid}
_MODES: Final = (*_PRODUCTS, "CMhybrid_v2")


def _moved_by_mean(bank: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    return move_banks(torch.stack([bank, bank]), rows, targets, momentum)[0]


def _move_hard_and_mean(features: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    hard, mean = features.chunk(2)
    hard = move_by_hardest(hard, rows, targets, momentum)
    return torch.cat([hard, _moved_by_mean(mean, rows, targets, momentum)])


def _move_mean_and_images(
    features: Tensor, rows: Tensor, targets: Tensor, momentum: float, num_instances: int
) -> Tensor:
    num_clusters = features.shape[0] // (1 + num_instances)
    moved = features.clone()
    moved[:num_clusters] = _moved_by_mean(features[:num_clusters], rows, targets, momentum)
    is_same = (targets[:, None] == targets) & (targets != NOISE)[:, None]
    # 1 for the first row of a cluster, 2 for the second; 0 for noise.
    turns = is_same.tril().sum(dim=1)
    moved[(num_clusters * turns + targets)[turns > 0]] = rows[turns > 0]
    return moved
