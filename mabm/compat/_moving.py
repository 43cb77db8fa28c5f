"""A product with a memory that moves in backward: what the memories of :mod:`mabm.compat` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mabm._arrays import check_real
from mabm._batch import (
    check_batch,
    check_rows,
    check_same_device,
    full_precision,
    leave_out_not_finite,
    without_autocast,
)

Move: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""``move(features, inputs, indexes, momentum)`` -> the features after a batch."""


def number_in(value: Any) -> Any:
    """The number in a tensor of one; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def check_momentum(value: object, name: str = "momentum") -> float:
    """Returns a float in [0, 1] of a number or a tensor of one."""
    return check_real(name, number_in(value), 0.0, 1.0)


class _MovingProduct(torch.autograd.Function):
    """``inputs @ features.T`` whose backward moves the features it multiplies with."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, indexes: Tensor, features: Tensor, momentum: float, move: Move
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


def moving_product(
    inputs: Tensor,
    indexes: Tensor,
    features: Tensor,
    momentum: float | Tensor,
    move: Move,
    num_banks: int = 1,
    name: str = "features",
) -> Tensor:
    """``inputs @ features.T`` after the checks of :func:`cm`; backward calls ``move``."""
    memory = check_rows(features, name)
    if num_banks < 1 or memory.shape[0] % num_banks:
        banks = (
            "an even number of rows, the mean bank and the hard one"
            if num_banks == 2 and name == "features"
            else f"num_instances = {num_banks} rows for every cluster"
        )
        raise ValueError(f"{name} must have {banks}, got {memory.shape[0]}")
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
