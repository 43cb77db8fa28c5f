"""Arrays in .npy, .npz, .safetensors, .pt and .pth files: checked first, read on demand."""

from __future__ import annotations

import importlib
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabm._core.files import check_regular

_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK"
_READABLE: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
_MOST_INFLATED: Final = 1032  # the most bytes that deflate can expand one byte to


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        dtype: Name of its dtype, such as ``"float32"``.
        shape: Its shape.
        read: Reads it as a NumPy array, or as a tensor from .safetensors, .pt and .pth. Raises
            ``OSError`` if the file cannot be opened, and ``ValueError`` if it is damaged.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Any]


@dataclass(frozen=True)
class Source:
    """A file that arrays are read from.

    Attributes:
        path: Path of the file.
        kind: Kind of the file, as a lower-case file name extension: ``".npy"``.
        name: Name of the file in messages.
    """

    path: Path
    kind: str
    name: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """A file whose kind is taken from its name."""
        return cls(path, suffix_of(path), str(path))

    def __str__(self) -> str:
        return self.name


def suffix_of(path: Path) -> str:
    """The extension of a file name, in lower case."""
    return path.suffix.lower()


def open_arrays(source: Source) -> dict[str, StoredArray]:
    """The arrays in a file, by name; an array without a name has the name ``""``.

    Arrays are not read yet, except from files that are read as a whole. Nothing in a file is
    executed. A header that claims more data than the file contains is rejected before memory is
    allocated for it.

    Args:
        source: ``.npy`` (memory-mapped when read), ``.npz``, ``.safetensors``, or ``.pt`` and
            ``.pth``, which are read as a whole: a tensor, or a dictionary with tensors.

    Raises:
        ImportError: The extra for ``.safetensors`` is not installed.
        OSError: The file cannot be opened.
        ValueError: The file is damaged or of another kind.
    """
    check_regular(source.path)
    if source.kind not in ARRAYS:
        raise ValueError(
            f"{source} must end in {', '.join(ARRAYS)}, "
            f"got {source.path.suffix or 'no extension'!r}"
        )
    return ARRAYS[source.kind](source)


def safetensors_module(flavor: str) -> Any:
    """``safetensors.numpy`` or ``safetensors.torch``.

    Raises:
        ImportError: The extra is not installed.
    """
    try:
        return importlib.import_module(f"safetensors.{flavor}")
    except ImportError as error:
        raise ImportError(
            '.safetensors files need safetensors: pip install "mabm[train]"'
        ) from error


def _open_npy(source: Source) -> dict[str, StoredArray]:
    with source.path.open("rb") as stream:
        start = stream.read(len(_NPY))
        stream.seek(0)
        if start.startswith(_ZIP):
            raise ValueError(f"{source} must be a .npy file, got a zip archive: name it .npz?")
        try:
            shape, by_columns, dtype = _read_header(stream, source.path.stat().st_size)
        except _DamagedError as error:
            raise ValueError(f"{source} must be a .npy file of numbers: {error}") from error
        offset = stream.tell()

    def read() -> npt.NDArray[Any]:
        order: Any = "F" if by_columns else "C"
        if 0 in shape:  # cannot be memory-mapped
            return np.empty(shape, dtype, order)
        return np.memmap(source.path, dtype, "r", offset, shape, order)

    return {"": StoredArray(dtype.name, shape, read)}


def _open_npz(source: Source) -> dict[str, StoredArray]:
    arrays = {}
    with source.path.open("rb") as stream:
        if stream.read(len(_NPY)) == _NPY:
            raise ValueError(f"{source} must be a .npz file, got a single array: name it .npy?")
    for member in _members(source):
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            continue  # not an array
        if name in arrays:
            raise ValueError(f"{source} must contain each array once, got {name!r} twice")
        shape, _, dtype = _read_member(source, member, _header_alone)
        arrays[name] = StoredArray(
            dtype.name, shape, partial(_read_member, source, member, _whole_array)
        )
    return arrays


def _open_safetensors(source: Source) -> dict[str, StoredArray]:
    module = safetensors_module("torch")
    try:
        tensors = module.load_file(source.path)
    except MemoryError:
        raise
    except Exception as error:  # safetensors has an exception of its own
        raise ValueError(f"{source} must be a .safetensors file: {error}") from error
    return {name: _stored(tensor) for name, tensor in tensors.items()}


def _open_torch(source: Source) -> dict[str, StoredArray]:
    from mabm.models.weight_files import read_torch

    content = read_torch(source.path, name=str(source))
    if isinstance(content, Tensor):
        content = {"": content}
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{source} must contain a tensor, or a dictionary with the tensor 'features', got "
            f"{type(content).__name__}"
        )
    tensors = {str(name): item for name, item in content.items() if isinstance(item, Tensor)}
    for name, tensor in tensors.items():
        is_plain = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
        if is_plain and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise ValueError(
                f"{source} must contain tensors in full, got an expanded view {name or ''!r} of "
                f"shape {tuple(tensor.shape)}: save tensor.clone()"
            )
    return {name: _stored(tensor) for name, tensor in tensors.items()}


def _stored(tensor: Tensor) -> StoredArray:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredArray(dtype, tuple(tensor.shape), partial(_itself, tensor))


def _itself(tensor: Tensor) -> Tensor:
    return tensor


ARRAYS: Final[Mapping[str, Callable[[Source], dict[str, StoredArray]]]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".pt": _open_torch,
    ".pth": _open_torch,
}
"""Kinds of array files, and the function that opens each."""


# --- .npy and the members of .npz

_Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


class _DamagedError(Exception):
    """An array in a file is damaged; the message says how."""


def _read_header(stream: IO[bytes], size: int) -> _Header:
    """Reads the header of an array: shape, whether it is in Fortran order, and dtype.

    Args:
        stream: The array, from its first byte.
        size: Bytes in the stream.

    Raises:
        _DamagedError: The header is damaged, or the array does not fit into ``size`` bytes.
    """
    if stream.read(len(_NPY)) != _NPY:
        raise _DamagedError("it does not start with the header of one")
    version = tuple(stream.read(2))
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:  # version 3.0 has named fields
        raise _DamagedError(f"its format must be 1.0 or 2.0, got {'.'.join(map(str, version))}")
    try:
        shape, by_columns, dtype = readers[version](stream)
    except Exception as error:  # Python's parser raises many kinds on damaged bytes
        raise _DamagedError("its header is damaged") from error
    if dtype.hasobject:
        raise _DamagedError("it contains pickled objects, which could execute code when loaded")
    if any(length < 0 for length in shape):
        raise _DamagedError(f"its header says shape {shape}")
    wanted, available = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if wanted > available:
        raise _DamagedError(
            f"its header claims {wanted} bytes of data, but the file has {available}"
        )
    try:
        np.broadcast_to(np.empty((), dtype), shape)
    except ValueError as error:  # no numbers at all, of a shape that nothing can have
        raise _DamagedError(f"its header says shape {shape}") from error
    return shape, by_columns, dtype


def _header_alone(_: IO[bytes], header: _Header) -> _Header:
    return header


def _whole_array(stream: IO[bytes], _: _Header) -> npt.NDArray[Any]:
    stream.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    stream.read(1)  # where the end is, the archive's checksum is looked at
    return array


def _members(source: Source) -> list[zipfile.ZipInfo]:
    with source.path.open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return archive.infolist()
        except Exception as error:  # of damaged bytes, more than zipfile's own
            raise _not_npz(source, error) from error


def _read_member(
    source: Source, member: zipfile.ZipInfo, take: Callable[[IO[bytes], _Header], Any]
) -> Any:
    """Calls ``take`` with the stream of an array in an archive, after its header, and header."""
    if member.flag_bits & 1:
        raise ValueError(f"{source} must not be encrypted, {member.filename!r} needs a password")
    if member.compress_type not in _READABLE:
        raise ValueError(
            f"{source} must be stored or deflated, as NumPy does, got {member.filename!r} with zip "
            f"method {member.compress_type}"
        )
    with source.path.open("rb") as file:
        size = min(member.compress_size, source.path.stat().st_size)
        most = size if member.compress_type == zipfile.ZIP_STORED else (size + 1) * _MOST_INFLATED
        try:
            if member.file_size > most:
                raise _DamagedError(f"{size} bytes cannot expand to {member.file_size}")
            with zipfile.ZipFile(file) as archive, archive.open(member) as stream:
                return take(stream, _read_header(stream, member.file_size))
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise _not_npz(source, error, member.filename) from error


def _not_npz(source: Source, error: Exception, member: str | None = None) -> ValueError:
    where = "" if member is None else f"{member!r}: "
    reason = str(error) or type(error).__name__
    return ValueError(f"{source} must be a .npz file of plain arrays: {where}{reason}")
