"""The old memories' common parts: products that update them in backward, and their losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mabm._core.arguments import check_integer, check_real
from mabm._core.arrays import Array
from mabm._core.batch_checks import check_batch, check_rows, check_same_device, check_temperature
from mabm._core.device_memory import check_fits
from mabm._core.partition import NOISE
from mabm._core.precision import full_precision, leave_out_not_finite, without_autocast
from mabm.contrast.losses.similarity import cross_entropy
from mabm.contrast.memories.mean import move_by_each
from mabm.contrast.module_state import WholeState

Move: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""``move(features, inputs, indexes, momentum)`` -> the features after an update with a batch.

It may update ``features`` in place and return them.
"""

# The released label smoothing: its weight, and one of how many classes receives a share.
_EPSILON: Final = 0.1
_CLASSES_PER_SHARE: Final = 50


def number_in(value: Any) -> Any:
    """Returns the number in a tensor of one element, and any other value unchanged."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def check_momentum(value: object, name: str = "momentum") -> float:
    """Returns a float in [0, 1] from a number or a tensor of one element."""
    return check_real(name, number_in(value), 0.0, 1.0)


def check_smooth(value: float) -> float:
    """Returns the switch of label smoothing as a float, at least 0."""
    return check_real("smooth", float(value) if isinstance(value, bool) else value, 0.0, math.inf)


class MovingMemory(WholeState):
    """Base of the old memories, whose ``features`` are updated during backward passes.

    Args:
        num_features: Dimension D of the features.
        num_samples: K, the number of rows of one bank until ``features`` are assigned.
        temp: Divisor of the similarities.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.
        num_banks: Number of banks of K rows in ``features``.
    """

    features: Tensor

    def __init__(
        self,
        num_features: int,
        num_samples: int,
        temp: float,
        momentum: float | Tensor,
        num_banks: int,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, at_least=1)
        self.num_samples = check_integer("num_samples", num_samples, at_least=0)
        self.temp = check_temperature(temp, "temp")
        check_momentum(momentum)
        self.momentum = momentum
        rows = self.num_samples * num_banks
        check_fits(
            4 * rows * self.num_features,
            f"a memory of ({rows}, {self.num_features})",
            "use fewer num_samples or num_features",
            torch.device("cpu"),
        )
        self.register_buffer("features", torch.zeros(rows, self.num_features))

    def _temperature_now(self) -> float:
        return check_temperature(number_in(self.temp), "temp")

    def _make_writable(self) -> None:
        """Copies buffers that were made in inference mode, which backward cannot write to."""
        if torch.is_grad_enabled():
            for name, buffer in self.named_buffers(recurse=False):
                if buffer.is_inference():
                    setattr(self, name, buffer.clone())


class _MovingProduct(torch.autograd.Function):
    """``inputs @ features.T``; backward also updates ``features``."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float, move: Move
    ) -> Tensor:
        ctx.save_for_backward(inputs, indexes)
        # Not saved by save_for_backward, which rejects a memory changed by another backward pass.
        ctx.features, ctx.momentum, ctx.move = features, momentum, move
        with without_autocast(inputs.device):
            rows, columns = full_precision(inputs), full_precision(features)
            if rows.dtype != columns.dtype:
                rows, columns = rows.double(), columns.double()
            return rows @ columns.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, indexes = ctx.saved_tensors
        with without_autocast(inputs.device):
            features = full_precision(ctx.features)
            to_inputs = (gradient @ features.to(gradient.dtype)).to(inputs.dtype)
            rows = full_precision(inputs).to(features.dtype)
            indexes = leave_out_not_finite(rows, indexes)
            moved = ctx.move(features, rows, indexes, ctx.momentum)
            if moved is not ctx.features:
                ctx.features.copy_(moved)
        return to_inputs, None, None, None, None


def moving_product(
    inputs: Tensor,
    indexes: Tensor,
    features: Tensor,
    momentum: float | Tensor,
    move: Move,
    num_banks: int = 1,
    name: str = "features",
    rows_of: str = "an even number of rows, the mean bank and the hard one",
) -> Tensor:
    """Returns ``inputs @ features.T``; backward updates ``features`` by ``move``.

    Args:
        inputs: (B, D) floating point.
        indexes: (B,) integers in [-1, K), the row of each input; -1 is none.
        features: (num_banks * K, D) floating point memory.
        momentum: Weight of the old row in an update, in [0, 1]; a number or a one-element tensor.
        move: The update.
        num_banks: Number of banks in ``features``.
        name: Name of ``features`` in messages.
        rows_of: Required number of rows of ``features``, in messages.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape, a device, an index or the momentum violates the contract.
    """
    memory = check_rows(features, name)
    if memory.shape[0] % num_banks:
        raise ValueError(f"{name} must have {rows_of}, got {memory.shape[0]}")
    count = memory.shape[0] // num_banks
    names = ("inputs", "indexes")
    rows, targets = check_batch(inputs, indexes, memory.shape[1], count, name, names=names)
    check_same_device(memory, rows, name, "inputs")
    moved_by = check_momentum(momentum)
    if features.is_inference() and torch.is_grad_enabled():
        raise ValueError(
            f"{name} must be a tensor that a backward pass can write to, got one made in "
            f"inference mode; use {name}.clone()"
        )
    apply: Callable[..., Tensor] = _MovingProduct.apply
    return apply(rows, targets, memory.detach(), moved_by, move)


def move_batch_by_each(features: Tensor, rows: Tensor, indexes: Tensor, momentum: float) -> Tensor:
    """Updates as ``move_by_each`` but in place: a memory of all images is never copied."""
    if not len(indexes) or not len(features):
        return features
    is_clustered = indexes != NOISE
    # Noise writes to the row of a clustered input, the same value as that input.
    places = indexes.where(
        is_clustered, indexes[is_clustered.to(torch.uint8).argmax()].clamp(min=0)
    )
    first = (places[:, None] == places).to(torch.uint8).argmax(dim=1)
    current = features[places]
    moved = move_by_each(current, rows, first.where(is_clustered, NOISE), momentum)
    features[places] = moved[first]
    return features


def contrast(
    logits: Tensor, targets: Tensor, num_smoothed: int | None, weights: Array | None = None
) -> Tensor:
    """Mean cross entropy of (B, C) logits over the rows that are not noise; 0 if all are noise.

    Args:
        logits: (B, C) floating point.
        targets: (B,) int64 in [-1, C); -1 is noise.
        num_smoothed: K of the released label smoothing, or ``None`` for none. The target has weight
            0.9. For K < 100 each of the C classes gets 0.1 / K, and from K = 100 on each of the
            K // 50 greatest logits gets 0.1 / (K // 50).
        weights: (B,) weights of the rows' losses, or a number.
    """
    if not logits.shape[1] or (weights is None and num_smoothed is None):
        return cross_entropy(logits, targets)
    if num_smoothed is None:
        losses = F.cross_entropy(logits, targets, ignore_index=NOISE, reduction="none")
    else:
        losses = _smoothed(logits, targets, num_smoothed)
    if weights is not None:
        factors = torch.as_tensor(weights, device=losses.device).to(losses.dtype)
        if factors.shape not in ((), losses.shape):
            raise ValueError(
                f"ca must be ({len(losses)},), one per row of inputs, or a number, "
                f"got shape {tuple(factors.shape)}"
            )
        losses = losses * factors
    is_noise = targets == NOISE
    return losses.masked_fill(is_noise, 0.0).sum() / (~is_noise).sum().clamp(min=1)


def hardest_image_logits(logits: Tensor, targets: Tensor, num_instances: int) -> Tensor:
    """Reduces (B, num_instances * K) logits to (B, K): min of the own cluster, max of others."""
    images = logits.reshape(len(logits), num_instances, -1)
    clusters = torch.arange(images.shape[2], device=logits.device)
    return images.amin(1).where(targets[:, None] == clusters, images.amax(1))


def _smoothed(logits: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """(B,) cross entropy with the smoothed labels of :func:`contrast`."""
    if num_classes < 1:
        raise ValueError(f"num_samples must be at least 1 with smooth, got {num_classes}")
    log_probabilities = logits.log_softmax(dim=1)
    own = log_probabilities.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    num_greatest = num_classes // _CLASSES_PER_SHARE
    if num_greatest > 1:
        greatest = log_probabilities.topk(min(num_greatest, logits.shape[1]), dim=1).values
        shared = greatest.sum(dim=1) / num_greatest
    else:
        shared = log_probabilities.sum(dim=1) / num_classes
    return -(1 - _EPSILON) * own - _EPSILON * shared
