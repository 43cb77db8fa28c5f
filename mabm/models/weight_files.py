"""Named tensors from files of several kinds. Reading one never executes code."""

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

# Where checkpoints keep the tensors, how deep that may be, and what wrappers put before each name.
_NESTS: Final = ("state", "state_dict", "model", "model_state_dict", "net")
_DEEPEST: Final = 8
_WRAPPERS: Final = re.compile(r"^(?:module\.|_orig_mod\.)+")

# A small archive can hold gigabytes of zeros. Weights shrink by a few times at most.
_EXPANSION: Final = 20
_ALWAYS_READ: Final = 2**30  # bytes

TORCH_SUFFIXES: Final = (".pth", ".pt", ".tar", ".t")
"""Endings of files of ``torch.save``; ``.pth.tar`` and ``.t`` are those of released checkpoints."""


class _NumpyValue:
    """A value of NumPy beside the tensors of a file: passed over, its content not kept.

    Released checkpoints hold their scores as NumPy's numbers and arrays. This class stands for the
    four functions and classes that those are pickled by, so that none of NumPy's is ever called
    with what a file says.
    """

    __slots__ = ()

    def __new__(cls, *content: object) -> _NumpyValue:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


# NumPy renamed its core in version 2; a file has the name of the version that wrote it.
_ALLOWED: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
    (_NumpyValue, "numpy.dtype"),
    (_NumpyValue, "numpy.ndarray"),
    *(
        (_NumpyValue, f"numpy.{core}.multiarray.{function}")
        for core in ("core", "_core")
        for function in ("scalar", "_reconstruct")
    ),
]
_ALLOWING: Final = threading.Lock()  # what PyTorch allows, it allows in every thread

_REFUSED: Final = re.compile(r"GLOBAL (\S{1,100})")  # where PyTorch says what it refuses
_OTHER_ARCHIVES: Final = (
    (0, b"\x1f\x8b", "compressed by gzip: decompress it first"),
    (257, b"ustar", "a tar archive: unpack it, and give the file that is in it"),
)


def read_weights(source: str | PathLike[str] | IO[bytes]) -> dict[str, Tensor]:
    """The named tensors of a file that :func:`mabm.models.load_weights` takes, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed and missing.
        ValueError: If the file is of another kind or damaged, or holds anything but tensors.
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
    """Reads a file of ``torch.save`` that holds nothing but tensors and plain values.

    Numbers and arrays of NumPy may be among the values; what is returned has placeholders there.

    Args:
        path: The file.
        name: Name of the file in messages; its path by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind or damaged, or holds other objects.
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
                f"{name} must be a file of torch.save with nothing but tensors and plain values in "
                f"it{got}: other objects could execute code when loaded, and are refused"
            ) from error
        except Exception as error:  # whatever torch says of damaged files
            raise ValueError(
                f"{name} is not a complete torch.save file: {_reason(error)}"
            ) from error
    return content


def named_tensors(value: object, path: Path) -> dict[str, Tensor]:
    """The state dict in the contents of a file, without the prefixes that wrappers add to names."""
    for _ in range(_DEEPEST):  # a dictionary may hold itself
        if not isinstance(value, Mapping):
            break
        if value and all(isinstance(item, Tensor) for item in value.values()):
            return {_WRAPPERS.sub("", str(name)): tensor for name, tensor in value.items()}
        nested: Iterator[object] = (value.get(nest) for nest in _NESTS)
        value = next((each for each in nested if isinstance(each, Mapping)), None)
    raise ValueError(
        f"{path} must contain named tensors, alone or as one of {list(_NESTS)}; it does not"
    )


def _opened(path: Path) -> IO[bytes]:
    """The file, opened; a pipe, which might never end, is refused."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file, got {'a folder' if path.is_dir() else 'none'}")
    return path.open("rb")


def _check_archive(stream: IO[bytes], name: str) -> None:
    """Refuses archives that only have the name of a file of torch.save."""
    for place, mark, words in _OTHER_ARCHIVES:
        stream.seek(place)
        if stream.read(len(mark)) == mark:
            raise ValueError(f"{name} must be a file of torch.save, got one that is {words}")


def _check_expansion(stream: IO[bytes], name: str) -> None:
    """Refuses an archive that would take far more memory than it has bytes."""
    try:
        with zipfile.ZipFile(stream) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # whatever zipfile says of damaged files
        raise ValueError(f"{name} is not a complete archive: {_reason(error)}") from error
    size = stream.seek(0, os.SEEK_END)
    if expanded > max(_ALWAYS_READ, _EXPANSION * size):
        raise ValueError(
            f"{name} must contain at most {_EXPANSION} times its {size} bytes, got {expanded}"
        )


def _reason(error: Exception) -> str:
    """The first line of what a library says, or the kind of the error."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _read_npz(stream: IO[bytes], name: str) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(stream):
        raise ValueError(f"{name} is not a complete .npz file of numbers: it is no archive")
    _check_expansion(stream, name)
    stream.seek(0)
    try:
        with np.load(stream, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except Exception as error:  # whatever NumPy and zipfile say of damaged files
        raise ValueError(
            f"{name} is not a complete .npz file of numbers: {_reason(error)}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'reading .safetensors needs safetensors: pip install "mabm[train]"'
        ) from error
    _opened(path).close()
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # whatever the library says of damaged files
        raise ValueError(f"{path} is not a complete safetensors file: {_reason(error)}") from error
