"""Weights into encoders, and encoders to files and back. Reading one never executes code."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from mabm._core.files import DEEPEST, moved_into
from mabm._core.names import NamedMapping
from mabm.models.encoder import Encoder
from mabm.models.registry import new_encoder
from mabm.models.two_stream import TwoStreamEncoder
from mabm.models.weight_files import named_tensors, read_torch, read_weights

_LOG = logging.getLogger(__name__)

FORMAT: Final = "mabm-encoder"
VERSION: Final = 1

SHIPPED: Final = NamedMapping({"emoji_xm": ("emoji_xm_encoder.npz", "small")})
"""Weights that ship beside this file, by name in any spelling: their file, and their encoder."""

_SHOWN: Final = 4  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """How the tensors of a file were used.

    Attributes:
        loaded: Names of the encoder's tensors that were filled.
        missing: Names of the encoder's tensors that the file does not hold, left unchanged.
        left_out: Names in the file that the encoder does not have.

    Example:
        >>> from mabm.models import LoadReport
        >>> LoadReport(loaded=("conv1.weight",), missing=(), left_out=("fc.weight",)).left_out
        ('fc.weight',)
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.missing:
            text += f"; not in the file, left as they were: {_parts(self.missing)}"
        if self.left_out:
            text += f"; in the file, not used: {_parts(self.left_out)}"
        return text


def _parts(names: tuple[str, ...]) -> str:
    """First parts of names with the number of names: ``"fc (2), neck (4)"``."""
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{part} ({count})" for part, count in counts.items())


def build_encoder(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_modalities: int = 2,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> Encoder:
    """An encoder by name, with weights from a file if one is named; training mode, on the CPU.

    No global random state is touched.

    Args:
        name: ``"agw-resnet50"``, ``"small"``, or ``"timm:NAME"`` for a backbone of timm.
        weights: A file that ``load_weights`` reads, or ``"emoji_xm"`` (in any case, with ``-`` or
            ``_``) for the weights of ``"small"`` that ship with the package; ``None`` keeps the
            initial weights. A shipped name comes before a file of that name.
        num_modalities: Number of stems, >= 1.
        seed: Seed of the initial weights.
        image_size: Height and width of the images, for backbones of timm that take one size only.

    Raises:
        ImportError: If an extra is missing; the message names it.
        FileNotFoundError: If there is no such file.
        ValueError: If a name is unknown, or the weights do not fit.

    Example:
        >>> from mabm.models import build_encoder
        >>> build_encoder("small", weights="emoji-xm").num_modalities
        2
    """
    encoder = new_encoder(name, num_modalities=num_modalities, seed=seed, image_size=image_size)
    if weights is None:
        return encoder
    shipped = SHIPPED.find(weights)
    if shipped is not None:
        file, needed = SHIPPED[shipped]
        if (name, num_modalities) != (needed, 2):
            raise ValueError(
                f"weights {shipped!r} are of the encoder {needed!r} with 2 modalities, "
                f"got {name!r} with {num_modalities}"
            )
        _load_shipped(encoder, file)
    else:
        load_weights(encoder, weights)
    return encoder


def load_pretrained(name: str = "emoji_xm") -> TwoStreamEncoder:
    """An encoder with weights that ship with the library: evaluation mode, float32, on the CPU.

    ``benchmarks/pretraining.py`` trained ``"emoji_xm"`` and says how. Weights are plain arrays:
    loading them executes no code.

    Args:
        name: Name of the weights, in any case and with ``-`` or ``_``.

    Returns:
        The encoder.

    Raises:
        ValueError: If no weights of that name ship.

    Example:
        >>> from mabm.models import load_pretrained
        >>> load_pretrained().training
        False
    """
    shipped = SHIPPED.find(name)
    if shipped is None:
        raise ValueError(f"name must be one of {sorted(SHIPPED)}, got {name!r}")
    encoder = TwoStreamEncoder()
    _load_shipped(encoder, SHIPPED[shipped][0])
    encoder.eval()
    return encoder


def _load_shipped(encoder: Encoder, file: str) -> None:
    with resources.files("mabm.models").joinpath(file).open("rb") as stream:
        load_weights(encoder, stream)


def load_weights(encoder: Encoder, source: str | PathLike[str] | IO[bytes]) -> LoadReport:
    """Fills ``encoder`` in place; returns what was filled and logs it in one line.

    A file fits if it has every tensor of the encoder, except those of its top (``Encoder.top``: the
    neck, and what pretrained backbones lack) and the counters of batch normalization. Names that
    the encoder does not have, such as a classifier's, are left out. A prefix ``"module."`` is
    dropped. torchvision's ``resnet50`` fits ``AgwResNet50``: each stem takes its one stem.

    Args:
        encoder: The encoder to fill; changed only if the whole file fits.
        source: A ``.pth`` or ``.pt`` file (a state dict, a dictionary that holds one as ``state``,
            ``state_dict`` or ``model``, or a file of ``save_encoder``), ``.safetensors`` or
            ``.npz``; an open file is read as ``.npz``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed and missing.
        ValueError: If the file is of another kind or damaged, holds anything but tensors, or does
            not fit: each tensor must be dense, of numbers that are finite in the encoder's dtype,
            and real or integer as the encoder's is.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mabm.models import build_encoder, load_weights, save_weights
        >>> encoder = build_encoder("small", seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.npz"
        ...     save_weights(encoder, path)
        ...     report = load_weights(build_encoder("small"), path)
        >>> report.left_out
        ()
    """
    place = source if isinstance(source, (str, PathLike)) else getattr(source, "name", "weights")
    found = read_weights(source)
    try:
        report = _fill(encoder, found)
    except ValueError as error:
        raise ValueError(f"{os.fspath(place)}: {error}") from error
    _LOG.info("%s: %s", Path(place).name, report)
    return report


def _fill(encoder: Encoder, found: Mapping[str, Tensor]) -> LoadReport:
    """Copies tensors into the encoder if they fit, or raises ValueError and changes nothing."""
    state = encoder.state_dict()
    sources = {name: _first(found, name, encoder.pretrained_name(name)) for name in state}
    filled = {name: origin for name, origin in sources.items() if origin is not None}
    if not filled:
        raise ValueError(
            f"weights must have names of {type(encoder).__name__} such as {_some(state)}, "
            f"got {_some(found)}"
        )
    tensors = {
        name: _fitted(encoder, name, found[origin], state[name]) for name, origin in filled.items()
    }
    missing = [n for n in state if n not in filled and not n.endswith("num_batches_tracked")]
    needed = [name for name in missing if not name.startswith(encoder.top)]
    if needed:
        raise ValueError(
            f"weights must hold every tensor of {type(encoder).__name__} below its top, "
            f"missing {len(needed)}: {_some(needed)}"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
    used = set(filled.values())
    return LoadReport(
        loaded=tuple(filled),
        missing=tuple(missing),
        left_out=tuple(name for name in found if name not in used),
    )


def _fitted(encoder: Encoder, name: str, tensor: Tensor, target: Tensor) -> Tensor:
    """A tensor of a file in shape and dtype of the encoder's, or ValueError."""
    kind = _unfit(tensor, target)
    if kind is not None:
        wanted = "real" if target.is_floating_point() else "integer"
        raise ValueError(f"weights of {name} must be dense {wanted} numbers, got {kind}")
    try:
        tensor = encoder.adapted(name, tensor)
    except RuntimeError as error:
        raise ValueError(f"weights of {name} cannot be adapted: {error}") from error
    if tensor.shape != target.shape:
        raise ValueError(
            f"weights of {name} must have shape {tuple(target.shape)}, got {tuple(tensor.shape)}"
        )
    tensor = tensor.to(target.dtype)
    if not tensor.isfinite().all():
        raise ValueError(f"weights of {name} must be finite")
    return tensor


def _unfit(tensor: Tensor, target: Tensor) -> str | None:
    """Why a tensor cannot replace ``target``: what it is; ``None`` if it can."""
    if tensor.is_meta:
        return "a meta tensor, which has no values"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantized tensor"
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout}"
    if target.is_floating_point():
        return None if tensor.is_floating_point() else str(tensor.dtype)
    is_integer = not (
        tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    )
    return None if is_integer else str(tensor.dtype)


def _first(found: Mapping[str, Tensor], *names: str) -> str | None:
    return next((name for name in names if name in found), None)


def _some(names: Any) -> list[str]:
    return sorted(names)[:_SHOWN]


def save_weights(encoder: Encoder, path: str | PathLike[str]) -> None:
    """Writes parameters and running statistics to an ``.npz`` of float16 arrays.

    Args:
        encoder: The encoder to save.
        path: The file, with any suffix; an older file is replaced once the new one is complete.

    Raises:
        OSError: If it cannot be written; an older file stays.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from mabm.models import build_encoder, save_weights
        >>> encoder = build_encoder("small", seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.npz"
        ...     save_weights(encoder, path)
        ...     path.stat().st_size > 0
        True
    """
    arrays = {
        name: tensor.detach().cpu().numpy().astype(np.float16)
        for name, tensor in encoder.state_dict().items()
        if tensor.is_floating_point()
    }
    with moved_into(Path(path)) as stream:
        np.savez_compressed(stream, **arrays)


def save_encoder(
    encoder: nn.Module, path: str | PathLike[str], *, name: str, meta: Mapping[str, object]
) -> None:
    """Writes an encoder to a file that ``load_encoder`` reads: completely or not at all.

    The file is what ``torch.save`` makes of ``{"format": "mabm-encoder", "version": 1, "name",
    "num_modalities", "image_size", "state", "meta"}``. It is written beside its place, flushed to
    the disk, and moved there.

    Args:
        encoder: An encoder of ``build_encoder``, which may be compiled or wrapped for several
            processes.
        path: The file; an older one is replaced.
        name: The name that it was built by.
        meta: What else to save: numbers, strings, booleans, ``None``, and lists and
            string-keyed dictionaries of them.

    Raises:
        OSError: If it cannot be written; an older file stays.
        TypeError: If ``encoder`` is not an encoder, or ``meta`` holds anything else.
        ValueError: If ``meta`` is nested without end.

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
    """Reads what ``save_encoder`` wrote: the encoder in evaluation mode, and ``meta``.

    No code is executed and no global random state touched.

    Args:
        path: The file.
        device: Device of the encoder.

    Returns:
        The encoder, and ``meta``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it holds a backbone of timm and timm is missing.
        ValueError: If the file is of another kind or version, damaged, or not of its encoder.

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
    if not _is_count(num_modalities) or num_modalities > len(tensors):  # each has a stem
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
        report = _fill(encoder, tensors)
    except ValueError as error:
        raise ValueError(f"{path} does not hold an encoder {name!r}: {error}") from error
    if report.missing or report.left_out:
        raise ValueError(f"{path} does not hold an encoder {name!r}: {report}")
    return encoder.to(device).eval(), meta


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plain_metadata(value: object, place: str, depth: int = 0) -> object:
    """A copy in plain values and containers, or a TypeError that names the first other value."""
    if depth > DEEPEST:
        raise ValueError(f"meta must be nested at most {DEEPEST} deep; does it hold itself?")
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
