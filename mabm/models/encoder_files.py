"""Saves and loads encoders with metadata on their training. Loading executes no code."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from mabm._core.files import DEEPEST, moved_into
from mabm.models.encoder import Encoder
from mabm.models.registry import new_encoder
from mabm.models.weight_files import TORCH_SUFFIXES, named_tensors, read_torch
from mabm.models.weights import fill_encoder

FORMAT: Final = "mabm-encoder"
VERSION: Final = 1


def save_encoder(
    encoder: nn.Module, path: str | PathLike[str], *, name: str, meta: Mapping[str, object]
) -> None:
    """Saves an encoder to a file that ``load_encoder`` reads, completely or not at all.

    The file is written by ``torch.save`` and contains ``{"format": "mabm-encoder", "version": 1,
    "name", "num_modalities", "image_size", "state", "meta"}``. It is written to a temporary file
    first, flushed to disk, and renamed.

    Args:
        encoder: An encoder from ``build_encoder``, which may be compiled or wrapped for several
            processes.
        path: The file; an existing one is replaced.
        name: The name that the encoder was built with.
        meta: Further values to save: numbers, strings, booleans, ``None``, and lists and
            string-keyed dictionaries of them.

    Raises:
        OSError: If it cannot be written; an existing file is kept.
        TypeError: If ``encoder`` is not an encoder, or ``meta`` contains anything else.
        ValueError: If ``meta`` contains itself.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mabm.models import build_encoder, load_encoder, save_encoder
        >>> encoder = build_encoder("small", seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "encoder.pt"
        ...     save_encoder(encoder, path, name="small", meta={"epoch": 3})
        ...     loaded, meta = load_encoder(path)
        >>> meta
        {'epoch': 3}
    """
    inner = encoder
    while not isinstance(inner, Encoder):
        wrapped = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if not isinstance(wrapped, nn.Module):
            raise TypeError(f"encoder must be an Encoder, got {type(inner).__name__}")
        inner = wrapped
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "num_modalities": inner.num_modalities,
        "image_size": inner.image_size,
        "state": {n: tensor.detach().cpu() for n, tensor in inner.state_dict().items()},
        "meta": _plain_metadata(meta, "meta"),
    }
    with moved_into(Path(path)) as stream:
        torch.save(content, stream)


def load_encoder(
    path: str | PathLike[str], device: str | torch.device = "cpu"
) -> tuple[Encoder, dict[str, Any]]:
    """Loads a file of ``save_encoder``: the encoder in evaluation mode, and ``meta``.

    No code is executed, and no global random state is touched.

    Args:
        path: The file.
        device: Device of the encoder.

    Returns:
        The encoder, and ``meta``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the encoder is a timm backbone and timm is not installed.
        ValueError: If the file is of another kind or version, damaged, or does not match its
            encoder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mabm.models import build_encoder, load_encoder, save_encoder
        >>> encoder = build_encoder("small", seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "encoder.pt"
        ...     save_encoder(encoder, path, name="small", meta={})
        ...     loaded, _ = load_encoder(path)
        >>> loaded.num_features == encoder.num_features
        True
    """
    path = Path(path)
    content = read_torch(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} must be a file of save_encoder; for the weights of a backbone use "
            "build_encoder(name, weights=path)"
        )
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"{path} must be of version {VERSION}, got {version!r}")
    try:
        name, num_modalities = content["name"], content["num_modalities"]
        size, state, meta = content.get("image_size"), content["state"], content["meta"]
    except KeyError as error:
        raise ValueError(
            f"{path} is not a complete file of save_encoder: it has no {error}"
        ) from error
    tensors = named_tensors(state, path)
    if not isinstance(name, str):
        raise ValueError(f"{path} must have a string as name, got {name!r}")
    if not _is_count(num_modalities) or num_modalities > len(tensors):  # each modality has a stem
        raise ValueError(
            f"{path} must have num_modalities in [1, {len(tensors)}], the number of its tensors, "
            f"got {num_modalities!r}"
        )
    if size is not None and not (
        isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_count, size))
    ):
        raise ValueError(f"{path} must have (height, width) as image_size, got {size!r}")
    if not isinstance(meta, dict):
        raise ValueError(f"{path} must have a dictionary as meta, got {type(meta).__name__}")
    try:
        encoder = new_encoder(
            name, num_modalities=num_modalities, image_size=None if size is None else tuple(size)
        )
        report = fill_encoder(encoder, tensors)
    except ValueError as error:
        raise ValueError(f"{path} does not contain an encoder {name!r}: {error}") from error
    if report.missing or report.left_out:
        raise ValueError(f"{path} does not contain an encoder {name!r}: {report}")
    return encoder.to(device).eval(), meta


def saved_model(path: Path) -> str | None:
    """The name of the encoder in a file of ``save_encoder``; ``None`` for files of another kind.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or contains more than tensors and plain values.
    """
    if path.suffix.lower() not in TORCH_SUFFIXES:
        return None
    content = read_torch(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    return str(content.get("name"))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plain_metadata(value: object, place: str, depth: int = 0) -> object:
    """A copy as plain values and containers, or a TypeError that names the first other value."""
    if depth > DEEPEST:
        raise ValueError(f"meta must be nested at most {DEEPEST} deep; does it contain itself?")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} must have strings as keys, got {key!r}")
        return {
            str(key): _plain_metadata(item, f"{place}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [
            _plain_metadata(item, f"{place}[{index}]", depth + 1)
            for index, item in enumerate(value)
        ]
    raise TypeError(f"{place} must be a plain value, got {type(value).__name__}")
