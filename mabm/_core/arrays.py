"""Tensors and NumPy arrays: conversion to tensors and back, and checks of their contents."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._core.extension import backends

Array: TypeAlias = Tensor | NDArray[Any]
ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])
IntArray: TypeAlias = NDArray[np.int64]

# Rows per block, where processing all features at once would double their memory. On the CPU the
# results of a block fit in the cache; on other devices a block keeps the device busy.
_ROWS_AT_ONCE = 256
_ROWS_AT_ONCE_ON_DEVICE = 4096

MOST_SAMPLES = 2**31 - 1
"""Samples are numbered in int32, as in SciPy; everything that counts their neighbors in int64."""

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
}

# Classes of tensors with private or unstable names in PyTorch; mabm works without them.
_FAKE = getattr(getattr(torch, "_subclasses", None), "FakeTensor", ())
_MASKED = getattr(getattr(torch, "masked", None), "MaskedTensor", ())
_is_batched = getattr(getattr(torch._C, "_functorch", None), "is_batchedtensor", None)


def to_tensor(value: object, name: str) -> Tensor:
    """Returns a tensor that shares memory with ``value`` if possible, otherwise a copy.

    Raises:
        TypeError: It is neither a dense tensor nor an array of real numbers, or has a mask.
        ValueError: It has no values, such as a tensor on ``meta``.
    """
    if isinstance(value, Tensor):
        check_dense(value, name)
        if not holds_values(value):
            kind = "a tensor on meta" if value.is_meta else type(value).__name__
            raise ValueError(f"{name} must contain values that can be read, got {kind}")
        return value.detach().resolve_neg()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got MaskedArray; remove or fill masked values"
        )
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {_kind_and_remedy(value, name)}"
        )
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        if value.dtype.name != "bfloat16":  # from ml_dtypes; NumPy itself has none
            raise TypeError(
                f"{name} must contain real numbers of at most 64 bits, got dtype {value.dtype}"
            )
        value = value.astype(np.float32)
    # PyTorch supports neither negative strides, strides of packed fields, foreign byte orders nor
    # read-only memory.
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if not (value.flags.writeable and value.flags.aligned) or any(
        stride < 0 or stride % value.itemsize for stride in value.strides
    ):
        value = value.copy()
    return torch.from_numpy(value)


class _Writable:
    """Memory of a read-only array, offered to NumPy as writable; keeps the array alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def to_readable(value: object, name: str) -> Tensor:
    """:func:`to_tensor` without a copy of read-only memory, such as that of a file.

    For values that are only read and never returned: writing to the tensor may end the process.

    Raises:
        TypeError: It is neither a dense tensor nor an array of real numbers, or has a mask.
        ValueError: It has no values, such as a tensor on ``meta``.
    """
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        # PyTorch warns of every array that says that it is read-only.
        is_readable = value.dtype.isnative and value.dtype.kind == "f" and value.size
        if is_readable and not value.flags.writeable:
            return to_tensor(np.asarray(_Writable(value)), name)
    return to_tensor(value, name)


def _kind_and_remedy(value: object, name: str) -> str:
    """Returns the type of a value that is not a tensor or array, and how to convert it."""
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        if len(value) and isinstance(value[0], Tensor):
            join = "stack" if value[0].dim() < 2 else "cat"
            return f"a {kind} of tensors; use torch.{join}({name})"
        if len(value) and isinstance(value[0], np.ndarray):
            join = "stack" if value[0].ndim < 2 else "concatenate"
            return f"a {kind} of arrays; use numpy.{join}({name})"
        return f"{kind}; use numpy.array({name})"
    if isinstance(value, np.generic):
        return kind
    if hasattr(value, "to_numpy"):
        return f"{kind}; use {name}.to_numpy()"
    return f"{kind}; use numpy.asarray({name})" if hasattr(value, "__array__") else kind


def check_dense(tensor: Tensor, name: str) -> None:
    """Raises TypeError for a tensor that is nested, sparse or masked."""
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if isinstance(tensor, _MASKED):
        raise TypeError(f"{name} must be a tensor without a mask, got MaskedTensor")


def holds_values(tensor: Tensor) -> bool:
    """Whether Python can read the values: not on ``meta``, while tracing or inside vmap."""
    if tensor.is_meta or isinstance(tensor, _FAKE):
        return False
    return _is_batched is None or not _is_batched(tensor)


@overload
def like(result: Tensor, model: Tensor) -> Tensor: ...


@overload
def like(result: Tensor, model: NDArray[Any]) -> NDArray[Any]: ...


def like(result: Tensor, model: Array) -> Array:
    """Returns ``result`` as a NumPy array if ``model`` is one."""
    return result.numpy() if isinstance(model, np.ndarray) else result


def row_blocks(features: Tensor) -> tuple[Tensor, ...]:
    """Splits rows into views of blocks: at least one, which may be empty."""
    return torch.split(features, _ROWS_AT_ONCE if features.is_cpu else _ROWS_AT_ONCE_ON_DEVICE)


def check_features(value: object, name: str = "features") -> Tensor:
    """Returns features as a contiguous float32 (N, D) tensor without gradient.

    Contiguous float32 is not copied, nor is it read at once: an array may be a memory map of a file
    that is larger than memory. Other types are converted in memory.

    Args:
        value: (N, D) tensor or array of float16, bfloat16, float32 or float64; float64 is rounded
            to float32.
        name: Name of the argument in messages.

    Raises:
        TypeError: It is neither a tensor nor an array, or its numbers are not floating point.
        ValueError: It is not (N, D), has no columns, is on a device without ops, or a row is not
            finite in float32.
    """
    tensor = to_readable(value, name)
    check_matrix(tensor, name)
    check_device(tensor, name)
    tensor = tensor.to(torch.float32).contiguous()
    check_finite(tensor, name)
    return tensor


def check_floating(tensor: Tensor, name: str) -> None:
    """Raises TypeError unless it is float16, bfloat16, float32 or float64."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
    if tensor.dtype not in _FLOATS:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got dtype {tensor.dtype}"
        )


def check_numbers(tensor: Tensor, name: str) -> Tensor:
    """Returns the numbers in a dtype that PyTorch can compare and sort.

    Raises:
        TypeError: They are neither integers nor floating point of 16 to 64 bits.
        ValueError: An integer is 2**63 or more.
    """
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return to_int64(tensor, name)  # PyTorch neither compares nor sorts these
    if tensor.dtype not in _FLOATS | _INTEGERS:
        raise TypeError(f"{name} must contain real numbers, got dtype {tensor.dtype}")
    return tensor


def check_matrix(tensor: Tensor, name: str) -> None:
    """Raises TypeError unless its numbers are floating point, ValueError unless it is (N, D).

    N is at most ``MOST_SAMPLES``.
    """
    check_floating(tensor, name)
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be (N, D), got shape {tuple(tensor.shape)}")
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got {tuple(tensor.shape)}")
    if tensor.shape[0] > MOST_SAMPLES:
        raise ValueError(f"{name} must have at most {MOST_SAMPLES} rows, got {tensor.shape[0]}")


def check_finite(tensor: Tensor, name: str, first_row: int = 0) -> None:
    """Raises ValueError with the first row of (N, D) that is not finite; reads all values.

    Args:
        tensor: (N, D) floating point.
        name: Name of the argument in messages.
        first_row: Number of the first of these rows in messages.
    """
    if not len(tensor):
        return
    # Both are NaN if a number is: one read tells, and only a fault is looked for.
    extremes = [extreme for block in row_blocks(tensor) for extreme in block.aminmax()]
    if bool(torch.stack(extremes).isfinite().all()):
        return
    finite = torch.cat([torch.isfinite(block).all(dim=1) for block in row_blocks(tensor)])
    bad = torch.nonzero(~finite).flatten()
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise ValueError(
        f"{name} must be finite in float32, got NaN or Inf in row {first_row + int(bad[0])}{more}"
    )


def check_device(tensor: Tensor, name: str) -> None:
    """Raises ValueError if this build has no ops for the tensor's device."""
    if tensor.device.type not in backends():
        raise ValueError(
            f"{name} must be on a device that this build of mabm has ops for "
            f"({', '.join(backends())}), got {tensor.device}; use {name}.cpu()"
        )


def is_integer(tensor: Tensor) -> bool:
    """Whether the dtype is an integer of any width; bool and quantized dtypes are not."""
    return tensor.dtype in _INTEGERS


def to_int64(integers: Tensor, name: str) -> Tensor:
    """Returns integers as int64; raises ValueError if a uint64 is 2**63 or more."""
    if integers.dtype != torch.uint64:
        return integers.to(torch.int64)
    same_bits = integers.view(torch.int64)
    wrapped = same_bits[same_bits < 0]
    if len(wrapped):
        raise ValueError(f"{name} must be below 2**63, got {int(wrapped[0]) + 2**64}")
    return same_bits
