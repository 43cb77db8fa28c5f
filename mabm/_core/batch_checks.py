"""Checks of the tensors of one training step, none of which waits for a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mabm._core.arguments import check_real
from mabm._core.arrays import (
    check_dense,
    check_matrix,
    holds_values,
    is_integer,
    row_blocks,
    to_int64,
)
from mabm._core.partition import NOISE

# Similarities of unit vectors divided by less than this approach the limit of float32.
_LEAST_TEMPERATURE = 1e-30


def check_lengths(tensor: Tensor, name: str) -> None:
    """Raises ValueError with the first row of (N, D) that is not finite or of infinite length."""
    if not holds_values(tensor) or not len(tensor):
        return
    lengths = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in row_blocks(tensor)])
    bad = torch.nonzero(~lengths.isfinite()).flatten()
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{name} must be finite and of finite length, got NaN, Inf or numbers too large "
            f"in row {int(bad[0])}{more}"
        )


def values_are_at_hand(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a GPU or breaking a traced graph."""
    return tensor.is_cpu and not torch.compiler.is_compiling() and holds_values(tensor)


def check_batch(
    features: object,
    targets: object,
    num_columns: int,
    num_targets: int,
    what: str,
    *,
    names: tuple[str, str] = ("features", "targets"),
) -> tuple[Tensor, Tensor]:
    """Returns (B, D) features and their (B,) int64 targets.

    The range of targets is checked unless that would wait for a GPU. There, PyTorch's device-side
    assertion checks it later.

    Args:
        features: (B, D) floating point, D = ``num_columns``.
        targets: (B,) integers in [-1, ``num_targets``) on the same device; -1 is noise.
        num_columns: Number of columns of the tensor that features are compared with.
        num_targets: Number of rows of that tensor.
        what: Name of that tensor in messages.
        names: Names of the first two arguments in messages.

    Raises:
        TypeError: An argument is not a dense tensor or has the wrong dtype.
        ValueError: A shape, a device or a target violates the contract.
    """
    rows = check_rows(features, names[0])
    if rows.shape[1] != num_columns:
        raise ValueError(
            f"{names[0]} must have {num_columns} columns as {what} have, got {rows.shape[1]}"
        )
    return rows, _check_targets(targets, rows, num_targets, what, names)


def check_rows(value: object, name: str) -> Tensor:
    """Returns a dense floating point (N, D) tensor, which keeps its gradient."""
    tensor = check_tensor(value, name)
    check_matrix(tensor, name)
    return tensor


def check_tensor(value: object, name: str) -> Tensor:
    """Returns a dense tensor, which keeps its gradient, or raises TypeError.

    A tensor made in inference mode is copied, so that a backward pass can use it.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    check_dense(value, name)
    if not torch.compiler.is_compiling() and value.is_inference() and torch.is_grad_enabled():
        return value.clone()
    return value


def _check_targets(
    value: object, rows: Tensor, num_targets: int, what: str, names: tuple[str, str]
) -> Tensor:
    name = names[1]
    targets = check_integers(value, name)
    if targets.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} must be ({rows.shape[0]},), one per row of {names[0]}, "
            f"got shape {tuple(targets.shape)}"
        )
    check_same_device(targets, rows, name, names[0])
    targets = widen_targets(targets, name)
    if values_are_at_hand(targets) and targets.shape[0]:
        least, most = (int(bound) for bound in torch.aminmax(targets))
        if least < NOISE or most >= num_targets:
            raise ValueError(
                f"{name} must be in [-1, {num_targets}), rows of {what} or -1 for noise, "
                f"got {least if least < NOISE else most}"
            )
    return targets


def widen_targets(targets: Tensor, name: str) -> Tensor:
    """Returns targets as int64; an unreadable uint64 that is too large becomes the max of int64."""
    if targets.dtype != torch.uint64 or values_are_at_hand(targets):
        return to_int64(targets, name)
    same_bits = targets.view(torch.int64)
    return same_bits.where(same_bits >= 0, torch.iinfo(torch.int64).max)


def check_integers(value: object, name: str) -> Tensor:
    """Returns a tensor of integers, or raises TypeError, also for bool."""
    tensor = check_tensor(value, name)
    if not is_integer(tensor):
        raise TypeError(f"{name} must be integers, got dtype {tensor.dtype}")
    return tensor


def check_same_device(tensor: Tensor, model: Tensor, name: str, model_name: str) -> None:
    """Raises ValueError if two tensors are on different devices."""
    if tensor.device != model.device:
        raise ValueError(
            f"{name} must be on {model.device} as {model_name} are, got {tensor.device}"
        )


def check_temperature(value: object, name: str = "temperature") -> float:
    """Returns a finite float of at least 1e-30."""
    temperature = check_real(name, value, 0.0, math.inf, below=True)
    if temperature == 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    if temperature < _LEAST_TEMPERATURE:
        raise ValueError(
            f"{name} must be at least {_LEAST_TEMPERATURE:g}, so that logits do not overflow "
            f"float32, got {value}"
        )
    return temperature
