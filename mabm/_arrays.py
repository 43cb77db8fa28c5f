"""Arguments in, results out: PyTorch tensors or NumPy arrays, checked once and early."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._extension import backends

Array: TypeAlias = Tensor | NDArray[Any]
ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])

# Rows looked at in one step where a whole pass over the features would double their memory: on the
# CPU few enough for what a step writes to stay in the cache, elsewhere enough to keep it busy.
_ROWS_AT_ONCE = 256
_ROWS_AT_ONCE_ON_DEVICE = 4096


def to_tensor(value: object, name: str) -> Tensor:
    """Returns a tensor over the same memory where that is possible, else over a copy."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {type(value).__name__}"
        )
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        if value.dtype.name != "bfloat16":  # from ml_dtypes; NumPy itself has none
            raise TypeError(
                f"{name} must hold real numbers of at most 64 bits, got dtype {value.dtype}"
            )
        value = value.astype(np.float32)
    # PyTorch takes neither negative strides, nor foreign byte orders, nor read-only memory.
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if not value.flags.writeable or any(stride < 0 for stride in value.strides):
        value = value.copy()
    return torch.from_numpy(value)


@overload
def like(result: Tensor, model: Tensor) -> Tensor: ...


@overload
def like(result: Tensor, model: NDArray[Any]) -> NDArray[Any]: ...


def like(result: Tensor, model: Array) -> Array:
    """Returns ``result`` as the kind of array that ``model`` is."""
    return result.numpy() if isinstance(model, np.ndarray) else result


def row_blocks(features: Tensor) -> tuple[Tensor, ...]:
    """Views of the rows, some at a time: at least one block, which may be empty."""
    return torch.split(features, _ROWS_AT_ONCE if features.is_cpu else _ROWS_AT_ONCE_ON_DEVICE)


def check_features(value: object, name: str = "features") -> Tensor:
    """Returns features as a contiguous float32 (N, D) tensor without gradient.

    Args:
        value: (N, D) tensor or array of float16, bfloat16, float32 or float64; float64 is rounded
            to float32, in which everything is defined.
        name: What messages call the argument.

    Raises:
        TypeError: It is neither a tensor nor an array, or its numbers are not floating point.
        ValueError: It is not of two dimensions, has no columns, lies on a device that this build
            has no ops for, or a row is not finite in float32 (the message says which).
    """
    tensor = to_tensor(value, name)
    check_matrix(tensor, name)
    check_device(tensor, name)
    tensor = tensor.to(torch.float32).contiguous()
    check_finite(tensor, name)
    return tensor


def check_matrix(tensor: Tensor, name: str) -> None:
    """Raises TypeError unless its numbers are floating point, ValueError unless it is (N, D)."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be (N, D), got shape {tuple(tensor.shape)}")
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got {tuple(tensor.shape)}")


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises ValueError naming the first row of (N, D) that is not finite; looks at every value."""
    finite = torch.cat([torch.isfinite(block).all(dim=1) for block in row_blocks(tensor)])
    bad = torch.nonzero(~finite).flatten()
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{name} must be finite in float32, got NaN or Inf in row {bad[0]}{more}")


def check_device(tensor: Tensor, name: str) -> None:
    """Raises ValueError where this build has no ops for the tensor's device."""
    if tensor.device.type not in backends():
        raise ValueError(
            f"{name} must be on a device that this build of mabm has ops for "
            f"({', '.join(backends())}), got {tensor.device}; use {name}.cpu()"
        )


def check_modality(value: object, count: int, device: torch.device, name: str) -> Tensor:
    """Returns the group of each sample as int64 (N,) on ``device``.

    Raises:
        TypeError: It is neither a tensor nor an array, or its numbers are no integers.
        ValueError: It is not of shape (N,), or holds a negative number.
    """
    groups = check_column(value, count, name, "one group a row").to(device)
    if count and (least := int(groups.min())) < 0:
        raise ValueError(f"{name} must not be negative, got {least}")
    return groups


def check_column(value: object, count: int | None, name: str, each: str) -> Tensor:
    """Returns integers of one dimension as int64 (N,), where they lie.

    Args:
        value: (N,) tensor or array of integers.
        count: How many there must be; ``None`` for any number.
        name: What messages call the argument.
        each: What messages say of one of them, such as "one a sample".

    Raises:
        TypeError: It is neither a tensor nor an array, or its numbers are no integers.
        ValueError: It is not of shape (N,).
    """
    column = to_tensor(value, name)
    if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, {each}, got dtype {column.dtype}")
    if column.dim() != 1 or (count is not None and len(column) != count):
        length = "N" if count is None else count
        raise ValueError(f"{name} must be ({length},), {each}, got shape {tuple(column.shape)}")
    return column.to(torch.int64)


def check_real(
    name: str, value: object, low: float, high: float, *, below: bool = False, reason: str = ""
) -> float:
    """Returns a float in [low, high], or in [low, high) if ``below``; ``reason`` explains it."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}")
    number = float(value)
    if math.isnan(number) or number < low or number > high or (below and number == high):
        span = f"[{low:g}, {high:g}{')' if below else ']'}"
        raise ValueError(f"{name} must be in {span}{reason}, got {value}")
    return number
