"""Named tensors from files of several kinds. Reading one never executes code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

# Where checkpoints keep the tensors, and what wrappers put before each name.
_NESTS: Final = ("state", "state_dict", "model", "model_state_dict")
_WRAPPERS: Final = re.compile(r"^(?:module\.|_orig_mod\.)+")


def read_weights(source: str | PathLike[str] | IO[bytes]) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU; which files, says ``mabm.models.load_weights``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed and missing.
        ValueError: If the file is of another kind or damaged, or holds anything but tensors.
    """
    if not isinstance(source, (str, PathLike)):
        return _read_npz(source, "weights")
    path = Path(source)
    if path.suffix in {".pth", ".pt"}:
        return named_tensors(read_torch(path), path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        with path.open("rb") as stream:
            return _read_npz(stream, str(path))
    raise ValueError(f"weights must be a .pth, .pt, .safetensors or .npz file, got {str(source)!r}")


def read_torch(path: Path) -> object:
    """What ``torch.save`` wrote, of tensors and plain values alone; raises as ``read_weights``."""
    with path.open("rb") as stream:
        try:
            content: object = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} must be a file of torch.save with nothing but tensors and plain values in "
                "it: other objects could execute code when loaded, and are refused"
            ) from error
        except (RuntimeError, EOFError, LookupError, OSError) as error:
            raise ValueError(f"{path} is no whole file of torch.save: {error}") from error
    return content


def named_tensors(value: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what ``torch.save`` wrote, without what wrappers put before names."""
    while isinstance(value, Mapping):
        if value and all(isinstance(item, Tensor) for item in value.values()):
            return {_WRAPPERS.sub("", str(name)): tensor for name, tensor in value.items()}
        value = next((value[nest] for nest in _NESTS if nest in value), None)
    raise ValueError(
        f"{path} must hold named tensors, alone or as one of {list(_NESTS)}; it does not"
    )


def _read_npz(stream: IO[bytes], name: str) -> dict[str, Tensor]:
    try:
        with np.load(stream, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except (zipfile.BadZipFile, EOFError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} is no whole .npz file of numbers: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'reading .safetensors needs safetensors: pip install "mabm[train]"'
        ) from error
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no whole file of safetensors: {error}") from error
