"""Named tensors from files of several kinds. Reading one never executes code."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

# Where checkpoints keep the tensors, how deep that may be, and what wrappers put before each name.
_NESTS: Final = ("state", "state_dict", "model", "model_state_dict")
_DEEPEST: Final = 8
_WRAPPERS: Final = re.compile(r"^(?:module\.|_orig_mod\.)+")

# A small archive can hold gigabytes of zeros. Weights shrink by a few times at most.
_EXPANSION: Final = 20
_ALWAYS_READ: Final = 2**30  # bytes


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
    if suffix in {".pth", ".pt"}:
        return named_tensors(read_torch(path), path)
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        with _opened(path) as stream:
            return _read_npz(stream, str(path))
    raise ValueError(f"weights must be a .pth, .pt, .safetensors or .npz file, got {str(source)!r}")


def read_torch(path: Path, *, name: str | None = None) -> object:
    """Reads a file of ``torch.save`` that holds nothing but tensors and plain values.

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
        stream.seek(0)
        try:
            content: object = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{name} must be a file of torch.save with nothing but tensors and plain values in "
                "it: other objects could execute code when loaded, and are refused"
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
        f"{path} must hold named tensors, alone or as one of {list(_NESTS)}; it does not"
    )


def _opened(path: Path) -> IO[bytes]:
    """The file, opened; a pipe, which might never end, is refused."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file, got {'a folder' if path.is_dir() else 'none'}")
    return path.open("rb")


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
            f"{name} must hold at most {_EXPANSION} times its {size} bytes, got {expanded}"
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
