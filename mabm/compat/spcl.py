"""SpCL and its descendants: replaces their ``models.hm``, a memory of all images.

Like :class:`mabm.compat.clustercontrast.ClusterMemory` **it is updated by backward**. It differs
from :class:`mabm.HybridMemory`, which has two prototypes per cluster.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from mabm._core.batch_checks import widen_targets
from mabm._core.columns import check_column
from mabm._core.partition import NOISE
from mabm._core.precision import without_autocast
from mabm.compat._adapters.memories import (
    MovingMemory,
    move_batch_by_each,
    moving_product,
)
from mabm.contrast.losses.similarity import DEFAULT_TEMPERATURE

__all__ = ["HybridMemory", "hm"]

# The released code adds this to the sum of exponentials, and to probabilities before the logarithm.
_TINY: Final = 1e-6


def hm(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float | Tensor = 0.5) -> Tensor:
    """Returns ``inputs @ features.T``; backward updates ``features`` with each input in turn.

    This is :func:`mabm.compat.clustercontrast.cm` under SpCL's name.

    Args:
        inputs: (B, D) floating point; not normalized, callers do that.
        indexes: (B,) integers in [-1, N), the row of each input; -1 is none.
        features: (N, D) floating point memory, **written to by backward**.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Returns:
        (B, N) similarities, float32 under autocast too. Differentiable once, in ``inputs``.

    Example:
        >>> import torch
        >>> from mabm.compat.spcl import hm
        >>> memory, inputs = torch.eye(3), torch.eye(3)[:1].requires_grad_()
        >>> hm(inputs, torch.tensor([1]), memory, momentum=0.0).sum().backward()
        >>> memory[1]
        tensor([1., 0., 0.])
    """
    return moving_product(inputs, indexes, features, momentum, move_batch_by_each)


class HybridMemory(MovingMemory):
    """SpCL's memory: a feature of each image, contrasted with the means of the clusters.

    Callers assign ``memory.features`` once and ``memory.labels`` every epoch, and then only call
    ``loss.backward()``, which updates the rows of the batch. The loss is ``-log(p + 1e-6)`` of the
    image's own cluster. Here ``p = exp(s_c) / (sum over clusters of exp(s) + 1e-6)``, and ``s_c``
    is the mean similarity to the images of cluster c, divided by ``temp``. Labels without images
    are not clusters.

    SpCL calls ``HybridMemory(num_features, num_samples, temp=, momentum=)`` and
    ``memory(f, indexes)``; its domain adaptation puts the class centers of the source before the
    images of the target. MPJL has a class of this name in its ``models.cm`` with another loss.

    Args:
        num_features: Dimension D of the features.
        num_samples: N, the number of rows until ``features`` and ``labels`` are assigned.
        temp: Divisor of the similarities.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.

    Attributes:
        features: (N, D) buffer. Callers assign it.
        labels: (N,) buffer of integers >= 0, the cluster of each image; in SpCL an image without a
            cluster has a label of its own. Callers assign it.
        temp: Divisor of the similarities. It can be assigned, as can ``momentum``; the next forward
            pass uses the new value.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range.

    Source:
        Ge et al., "Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object
        Re-ID", NeurIPS 2020, equations 2 and 5, as released.

    Example:
        >>> import torch
        >>> from mabm.compat.spcl import HybridMemory
        >>> memory = HybridMemory(16, 40, temp=0.05, momentum=0.2)
        >>> memory.features = torch.nn.functional.normalize(torch.randn(40, 16), dim=1)
        >>> memory.labels = torch.arange(40) // 4
        >>> inputs = torch.nn.functional.normalize(torch.randn(8, 16), dim=1).requires_grad_()
        >>> memory(inputs, torch.arange(8)).backward()
    """

    labels: Tensor

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float = DEFAULT_TEMPERATURE,
        momentum: float | Tensor = 0.2,
    ) -> None:
        super().__init__(num_features, num_samples, temp, momentum, num_banks=1)
        self.register_buffer("labels", torch.zeros(self.num_samples, dtype=torch.int64))

    def forward(self, inputs: Tensor, indexes: Tensor) -> Tensor:
        """Computes the loss of (B, D) inputs, which are the images ``indexes`` of the memory.

        Each pass counts the clusters, which synchronizes once with a GPU.

        Args:
            inputs: (B, D) floating point; not normalized, callers do that.
            indexes: (B,) integers in [-1, N), the row of each input; inputs with -1 have no loss
                and no update.

        Returns:
            Scalar loss, the mean over inputs that have a row; float32 under autocast too.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A shape, a device or an index violates the contract, or ``labels`` are
                negative or not one per image.
        """
        self._make_writable()
        temperature = self._temperature_now()
        outputs = hm(inputs, indexes, self.features, self.momentum)
        clusters, sizes = self._read_clusters(outputs)
        if not len(sizes):
            return outputs.sum()  # no images: loss 0 and a gradient of zeros
        with without_autocast(outputs.device):
            sums = outputs.new_zeros(len(outputs), len(sizes)).index_add(1, clusters, outputs)
            logits = sums / temperature / sizes
            # Logarithm of the sum of exponentials and 1e-6, without overflow.
            tiny = logits.new_full((len(logits), 1), math.log(_TINY))
            total = torch.cat([logits, tiny], dim=1).logsumexp(dim=1, keepdim=True)
            likelihoods = ((logits - total).exp() + _TINY).log()
            indexes = widen_targets(indexes, "indexes")
            is_none = indexes == NOISE
            targets = clusters[indexes.clamp(min=0)].masked_fill(is_none, NOISE)
            losses = F.nll_loss(likelihoods, targets, ignore_index=NOISE, reduction="sum")
            return losses / (~is_none).sum().clamp(min=1)

    def _read_clusters(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the (N,) cluster of each image, numbered without gaps, and the cluster sizes."""
        labels = check_column(self.labels, len(self.features), "labels", "one per row of features")
        found, clusters, sizes = torch.unique(
            labels.to(outputs.device), return_inverse=True, return_counts=True
        )
        if len(found) and int(found[0]) < 0:
            raise ValueError(
                "labels must not be negative: give every image without a cluster a label of its "
                f"own, as SpCL does, got {int(found[0])}"
            )
        return clusters, sizes
