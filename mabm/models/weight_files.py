"""Reads named tensors from files of several kinds, without executing code."""

from __future__ import annotations

import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor

# Keys under which checkpoints store the tensors, their largest depth, and prefixes of wrappers.
_NESTS: Final = ("state", "state_dict", "model", "model_state_dict", "net")
_DEEPEST: Final = 8
_WRAPPERS: Final = re.compile(r"^(?:module\.|_orig_mod\.)+")

# A small archive can hold gigabytes of zeros. Weights shrink by a few times at most.
_EXPANSION: Final = 20
_ALWAYS_READ: Final = 2**30  # bytes

TORCH_SUFFIXES: Final = (".pth", ".pt", ".tar", ".t")
"""Extensions of ``torch.save`` files; released checkpoints use ``.pth.tar`` and ``.t``."""


class _NumpyValue:
    """A placeholder for NumPy values among the tensors of a file; their content is dropped.

    Released checkpoints contain scores as NumPy numbers and arrays. This class replaces the four
    functions and classes that such values are pickled with, so that NumPy is never called with the
    content of a file.
    """

    __slots__ = ()

    def __new__(cls, *content: object) -> _NumpyValue:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


# NumPy renamed its core in version 2; a file uses the name of the version that wrote it.
_ALLOWED: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
    (_NumpyValue, "numpy.dtype"),
    (_NumpyValue, "numpy.ndarray"),
    *(
        (_NumpyValue, f"numpy.{core}.multiarray.{function}")
        for core in ("core", "_core")
        for function in ("scalar", "_reconstruct")
    ),
]
_ALLOWING: Final = threading.Lock()  # PyTorch's list of allowed classes is shared by all threads

_REFUSED: Final = re.compile(r"GLOBAL (\S{1,100})")  # how PyTorch names a rejected class
_OTHER_ARCHIVES: Final = (
    (0, b"\x1f\x8b", "compressed by gzip: decompress it first"),
    (257, b"ustar", "a tar archive: unpack it, and use the file inside"),
)


def read_weights(source: str | PathLike[str] | IO[bytes]) -> dict[str, Tensor]:
    """Reads the named tensors of a file for :func:`mabm.models.load_weights`, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed but not installed.
        ValueError: If the file is of another kind or damaged, or contains anything but tensors.
    """
    if not isinstance(source, (str, PathLike)):
        return _read_npz(source, "weights")
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in TORCH_SUFFIXES:
        return named_tensors(read_torch(path), path)
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        with _opened(path) as stream:
            return _read_npz(stream, str(path))
    raise ValueError(
        f"weights must be a {', '.join(TORCH_SUFFIXES)}, .safetensors or .npz file, got "
        f"{str(source)!r}"
    )


def read_torch(path: Path, *, name: str | None = None) -> object:
    """Reads a ``torch.save`` file that contains only tensors and plain values.

    It may also contain NumPy numbers and arrays, which are replaced by placeholders.

    Args:
        path: The file.
        name: Name of the file in messages; its path by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind or damaged, or contains other objects.
    """
    name = str(path) if name is None else name
    with _opened(path) as stream:
        if zipfile.is_zipfile(stream):  # torch.save has an older format too
            _check_expansion(stream, name)
        _check_archive(stream, name)
        stream.seek(0)
        try:
            with _ALLOWING, torch.serialization.safe_globals(_ALLOWED):
                content: object = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            refused = _REFUSED.search(str(error))
            got = "" if refused is None else f", got {refused[1]}"
            raise ValueError(
                f"{name} must be a torch.save file with only tensors and plain values in "
                f"it{got}: other objects could execute code when loaded, and are rejected"
            ) from error
        except Exception as error:  # torch raises many kinds on damaged files
            raise ValueError(
                f"{name} is not a complete torch.save file: {_reason(error)}"
            ) from error
    return content


def named_tensors(value: object, path: Path) -> dict[str, Tensor]:
    """The state dict in the content of a file, without the prefixes that wrappers add to names."""
    for _ in range(_DEEPEST):  # a dictionary may contain itself
        if not isinstance(value, Mapping):
            break
        if value and all(isinstance(item, Tensor) for item in value.values()):
            return {_WRAPPERS.sub("", str(name)): tensor for name, tensor in value.items()}
        nested: Iterator[object] = (value.get(nest) for nest in _NESTS)
        value = next((each for each in nested if isinstance(each, Mapping)), None)
    raise ValueError(f"{path} must contain named tensors, directly or under one of {list(_NESTS)}")


def _opened(path: Path) -> IO[bytes]:
    """Opens the file; rejects pipes, which might never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file, got {'a folder' if path.is_dir() else 'none'}")
    return path.open("rb")


def _check_archive(stream: IO[bytes], name: str) -> None:
    """Rejects archives that have the extension of a torch.save file but are not one."""
    for place, mark, words in _OTHER_ARCHIVES:
        stream.seek(place)
        if stream.read(len(mark)) == mark:
            raise ValueError(f"{name} must be a torch.save file, got one that is {words}")


def _check_expansion(stream: IO[bytes], name: str) -> None:
    """Rejects an archive that would need far more memory than its size."""
    try:
        with zipfile.ZipFile(stream) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # zipfile raises many kinds on damaged files
        raise ValueError(f"{name} is not a complete archive: {_reason(error)}") from error
    size = stream.seek(0, os.SEEK_END)
    if expanded > max(_ALWAYS_READ, _EXPANSION * size):
        raise ValueError(
            f"{name} must expand to at most {_EXPANSION} times its {size} bytes, got {expanded}"
        )


def _reason(error: Exception) -> str:
    """The first line of a library's error message, or the type of the error."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _read_npz(stream: IO[bytes], name: str) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(stream):
        raise ValueError(f"{name} is not a complete .npz file of numbers: it is not a zip archive")
    _check_expansion(stream, name)
    stream.seek(0)
    try:
        with np.load(stream, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
        raise ValueError(
            f"{name} is not a complete .npz file of numbers: {_reason(error)}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            '.safetensors files need safetensors: pip install "mabm[train]"'
        ) from error
    _opened(path).close()
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # safetensors has its own exceptions
        raise ValueError(f"{path} is not a complete safetensors file: {_reason(error)}") from error
