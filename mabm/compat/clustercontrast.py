"""Cluster-Contrast and its descendants: stands in for their ``faiss_rerank`` and ``models.cm``.

The memory here keeps the old contract: **it moves during backward**, and a gradient sees the memory
as it is when it is computed, with whatever an earlier backward did to it. That is what loops that
call nothing but ``loss.backward()`` need. Inputs that are not finite move nothing, where the old
code's memory became NaN. New code has :mod:`mabm.losses` and :mod:`mabm.memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mabm._arrays import Array, check_column, check_real, shown
from mabm._batch import (
    check_batch,
    check_rows,
    check_same_device,
    check_temperature,
    full_precision,
    leave_out_not_finite,
    unit_rows,
    widen_targets,
    without_autocast,
)
from mabm._device_memory import check_fits
from mabm._state import WholeState
from mabm.compat._adapters import (
    Distances,
    check_search_option,
    dense_distance,
    read_features,
)
from mabm.losses import (
    DEFAULT_MARGIN,
    DEFAULT_NUM_SELECTED,
    DEFAULT_TEMPERATURE,
    cross_entropy,
    multi_positive_of_logits,
)
from mabm.memory import move_banks, move_by_each, move_by_hardest
from mabm.presets import check_integer

__all__ = ["ClusterMemory", "cm", "cm_hard", "cm_hybrid", "compute_jaccard_distance"]

_Move: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def compute_jaccard_distance(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 0,
    use_float16: bool = False,
) -> Distances:
    """Computes the k-reciprocal Jaccard distance between all rows, preset ``"spcl"``.

    Args:
        target_features: (N, D) float tensor; never normalised here.
        k1: Length of the lists, a sample counted among its own; with fewer samples they hold all of
            them, where faiss fills up with -1 and the released code reads that as the last row.
        k2: Rows to average; a list has ``k1``, so more than ``k1`` mean ``k1``.
        print_flag: Accepted and not needed: nothing is printed.
        search_option: 0 to 5; it chose a route through faiss, and chooses nothing here.
        use_float16: Whether the result is float16, rounded from float32; the released code sums in
            float16 too, and is less exact.

    Returns:
        (N, N) NumPy array, not negative: float32, or float16 with ``use_float16``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument out of its range.
        MemoryError: N x N does not fit.

    Source:
        Ge et al., NeurIPS 2020 (SpCL); Dai et al., ACCV 2022 (Cluster-Contrast).

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import compute_jaccard_distance
        >>> compute_jaccard_distance(torch.randn(50, 16), k1=30, k2=6).shape
        (50, 50)
    """
    features = read_features(target_features, "target_features")
    check_search_option(search_option)
    return dense_distance(features, None, k1=k1, k2=k2, preset="spcl", use_float16=use_float16)


def cm(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float = 0.5) -> Tensor:
    """Returns ``inputs @ features.T``; backward moves ``features`` by every input in turn.

    Args:
        inputs: (B, D) floating point, used as they are: callers normalise them.
        indexes: (B,) integers in [-1, K), the row of each input, -1 for none.
        features: (K, D) floating point memory, **written to by backward**; one that was made in
            inference mode cannot be, and is refused.
        momentum: What a row keeps of itself, in [0, 1].

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
    return _product(inputs, indexes, features, momentum, move_by_each, num_banks=1)


def cm_hard(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float = 0.5) -> Tensor:
    """Returns :func:`cm`'s similarities; backward moves a row by its least similar input."""
    return _product(inputs, indexes, features, momentum, move_by_hardest, num_banks=1)


def cm_hybrid(inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float = 0.5) -> Tensor:
    """Returns (B, 2K) similarities with a (2K, D) memory of two banks, the mean bank's first.

    Backward moves the mean bank by the mean of a row's inputs and the hard bank by the input least
    similar to the mean bank's row. Otherwise as :func:`cm`.
    """
    return _product(inputs, indexes, features, momentum, _move_stacked, num_banks=2)


class ClusterMemory(WholeState):
    """The memory of Cluster-Contrast's descendants: ``forward(f, y)`` is the loss.

    Callers assign ``memory.features`` after construction and then call nothing but
    ``loss.backward()``, which moves the memory. In several processes each moves its own, as it
    always was.

    Args:
        num_features: D.
        num_samples: K, the size of the memory until ``features`` are assigned.
        temp: What similarities are divided by.
        momentum: What a row keeps of itself, in [0, 1].
        use_hard: Stands for ``mode="CMhard"``.
        mode: ``"CM"`` (by every input in turn), ``"CMhard"`` (by the least similar input) or
            ``"CMhybrid"`` (two banks); ``None`` is ``"CM"``, and ``"CMhybrid"`` with
            ``has_multi_pos_loss``.
        smooth: Label smoothing of the cross entropy, in [0, 1].
        hard_weight: Weight of the hard bank's loss in ``"CMhybrid"``, in [0, 1]; the mean bank's
            has the rest.
        num_instances: Accepted and not needed: no number of images an identity is assumed.
        has_multi_pos_loss: Whether ``y`` are prototypes whose clusters ``proxy_pseudo_labels``
            tells, and the loss is :func:`mabm.multi_positive_loss` of them.

    Attributes:
        features: (K, D) buffer, or (2K, D) in ``"CMhybrid"``, the mean bank first. To be assigned.
        proxy_pseudo_labels: (P,) integers, tensor or array: to be assigned with
            ``has_multi_pos_loss``, where the features are P or 2P rows, whatever K was.

    Raises:
        TypeError: An option of the wrong kind.
        ValueError: An option out of its range, or ``use_hard`` beside another ``mode``.

    Example:
        >>> import torch
        >>> from mabm.compat.clustercontrast import ClusterMemory
        >>> memory = ClusterMemory(16, 5, temp=0.05, momentum=0.2, use_hard=True)
        >>> memory.features = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
        >>> loss = memory(torch.randn(8, 16, requires_grad=True), torch.arange(8) % 5)
        >>> loss.backward()
    """

    features: Tensor

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float = DEFAULT_TEMPERATURE,
        momentum: float = 0.2,
        *,
        use_hard: bool = False,
        mode: str | None = None,
        smooth: float = 0.0,
        hard_weight: float = 0.5,
        num_instances: object = None,
        has_multi_pos_loss: bool = False,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, at_least=1)
        self.num_samples = check_integer("num_samples", num_samples, at_least=0)
        self.temp = check_temperature(temp, "temp")
        self.momentum = check_real("momentum", momentum, 0.0, 1.0)
        self.smooth = check_real("smooth", smooth, 0.0, 1.0)
        self.hard_weight = check_real("hard_weight", hard_weight, 0.0, 1.0)
        self.has_multi_pos_loss = bool(has_multi_pos_loss)
        self.mode = _check_mode(mode, bool(use_hard), self.has_multi_pos_loss)
        self.proxy_pseudo_labels: Array | None = None
        rows = self.num_samples * _NUM_BANKS[self.mode]
        check_fits(
            4 * rows * self.num_features,
            f"a memory of ({rows}, {self.num_features})",
            "use fewer num_samples or num_features",
            torch.device("cpu"),
        )
        self.register_buffer("features", torch.zeros(rows, self.num_features))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of (B, D) inputs, normalised here, and their (B,) targets, integers.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A shape, device or target out of contract, ``features`` of an odd number of
                rows in ``"CMhybrid"``, or ``proxy_pseudo_labels`` not assigned.
        """
        if self.features.is_inference() and torch.is_grad_enabled():
            self.features = self.features.clone()  # which backward can write to
        inputs = check_rows(inputs, "inputs")
        with without_autocast(inputs.device):
            outputs = _PRODUCTS[self.mode](unit_rows(inputs), targets, self.features, self.momentum)
            targets = widen_targets(targets, "targets")
            banks = (outputs / self.temp).chunk(_NUM_BANKS[self.mode], dim=1)
            if self.has_multi_pos_loss:
                return self._multi_positive(torch.stack(banks), targets)
            losses = [cross_entropy(bank, targets, self.smooth) for bank in banks]
        if self.mode != "CMhybrid":
            return losses[0]
        mean, hard = losses
        return self.hard_weight * hard + (1 - self.hard_weight) * F.relu(mean - DEFAULT_MARGIN)

    def _multi_positive(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.proxy_pseudo_labels is None:
            raise ValueError(
                "proxy_pseudo_labels must be assigned before a loss with has_multi_pos_loss, "
                "got None"
            )
        each = "one a row of a bank of features"
        clusters = check_column(
            self.proxy_pseudo_labels, logits.shape[-1], "proxy_pseudo_labels", each
        ).to(logits.device)
        return multi_positive_of_logits(
            logits, targets, clusters, DEFAULT_NUM_SELECTED, positive_weights=None, select=None
        )


_NUM_BANKS: Final = {"CM": 1, "CMhard": 1, "CMhybrid": 2}
_PRODUCTS: Final = {"CM": cm, "CMhard": cm_hard, "CMhybrid": cm_hybrid}


class _MovingProduct(torch.autograd.Function):
    """``inputs @ features.T`` whose backward moves the features it multiplies with."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float, move: _Move
    ) -> Tensor:
        ctx.save_for_backward(inputs, indexes)
        # Not saved for backward, which would refuse a memory that another backward has moved.
        ctx.features, ctx.momentum, ctx.move = features, momentum, move
        with without_autocast(inputs.device):
            return full_precision(inputs) @ full_precision(features).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, indexes = ctx.saved_tensors
        with without_autocast(inputs.device):
            features = full_precision(ctx.features)
            to_inputs = (gradient @ features.to(gradient.dtype)).to(inputs.dtype)
            rows = full_precision(inputs).to(features.dtype)
            indexes = leave_out_not_finite(rows, indexes)
            ctx.features.copy_(ctx.move(features, rows, indexes, ctx.momentum))
        return to_inputs, None, None, None, None


def _product(
    inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float, move: _Move, num_banks: int
) -> Tensor:
    memory = check_rows(features, "features")
    if memory.shape[0] % num_banks:
        raise ValueError(
            f"features must have an even number of rows, the mean bank and the hard one, "
            f"got {memory.shape[0]}"
        )
    count = memory.shape[0] // num_banks
    names = ("inputs", "indexes")
    rows, targets = check_batch(inputs, indexes, memory.shape[1], count, "features", names=names)
    check_same_device(memory, rows, "features", "inputs")
    momentum = check_real("momentum", momentum, 0.0, 1.0)
    if features.is_inference() and torch.is_grad_enabled():
        raise ValueError(
            "features must be a tensor that a backward pass can write to, got one made in "
            "inference mode; use features.clone()"
        )
    apply: Callable[..., Tensor] = _MovingProduct.apply
    return apply(rows, targets, memory.detach(), momentum, move)


def _move_stacked(features: Tensor, rows: Tensor, targets: Tensor, momentum: float) -> Tensor:
    """:func:`mabm.memory.move_banks` of a (2K, D) memory."""
    banks = features.reshape(2, -1, features.shape[1])
    return move_banks(banks, rows, targets, momentum).reshape(features.shape)


def _check_mode(mode: object, use_hard: bool, has_multi_pos_loss: bool) -> str:
    if mode is None:
        return "CMhard" if use_hard else "CMhybrid" if has_multi_pos_loss else "CM"
    if not isinstance(mode, str) or mode not in _NUM_BANKS:
        raise ValueError(f"mode must be one of {tuple(_NUM_BANKS)} or None, got {shown(mode)}")
    if use_hard and mode != "CMhard":
        raise ValueError(f"mode must be 'CMhard' or None with use_hard, got {mode!r}")
    return mode
