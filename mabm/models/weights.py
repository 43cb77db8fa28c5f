"""Loads weights into encoders from files of several kinds, without executing code."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor

from mabm._core.files import moved_into
from mabm._core.names import NamedMapping
from mabm.models import released_names
from mabm.models.agw import AgwResNet50
from mabm.models.encoder import Encoder
from mabm.models.registry import new_encoder
from mabm.models.two_stream import TwoStreamEncoder
from mabm.models.weight_files import read_weights

_LOG = logging.getLogger(__name__)

SHIPPED: Final = NamedMapping({"emoji_xm": ("emoji_xm_encoder.npz", "small")})
"""Shipped weights by name, in any spelling: their file, in this folder, and their encoder."""

_SHOWN: Final = 4  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file were loaded.

    Attributes:
        loaded: Names of the encoder's tensors that were loaded.
        missing: Names of the encoder's tensors that the file lacks, left unchanged.
        left_out: Names in the file that the encoder does not have.
        reasons: Why names are missing or left out, if known, by the first part of the name.

    Example:
        >>> from mabm.models import LoadReport
        >>> LoadReport(loaded=("conv1.weight",), missing=(), left_out=("fc.weight",)).left_out
        ('fc.weight',)
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.missing:
            text += f"; not in the file, unchanged: {self._parts(self.missing)}"
        if self.left_out:
            text += f"; in the file, not used: {self._parts(self.left_out)}"
        return text

    def _parts(self, names: tuple[str, ...]) -> str:
        """First parts of names with counts, ``"fc (2), neck (4)"``, and the reason."""
        words = []
        for part, count in Counter(name.split(".")[0] for name in names).items():
            reason = f": {self.reasons[part]}" if part in self.reasons else ""
            words.append(f"{part} ({count}{reason})")
        return ", ".join(words)


def build_encoder(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_modalities: int = 2,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> Encoder:
    """Builds an encoder by name, optionally with weights from a file; training mode, on the CPU.

    No global random state is touched.

    Args:
        name: ``"agw-resnet50"``, ``"small"``, or ``"timm:NAME"`` for a timm backbone.
        weights: A file that ``load_weights`` reads, or ``"emoji_xm"`` (in any case, with ``-`` or
            ``_``) for the weights of ``"small"`` that ship with the package; ``None`` keeps the
            initial weights. A shipped name takes precedence over a file of that name.
        num_modalities: Number of stems, >= 1.
        seed: Seed of the initial weights.
        image_size: Height and width of the images, for timm backbones that accept one size only.

    Raises:
        ImportError: If an extra is not installed; the message names it.
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
                f"weights {shipped!r} are for the encoder {needed!r} with 2 modalities, "
                f"got {name!r} with {num_modalities}"
            )
        _load_shipped(encoder, file)
    else:
        load_weights(encoder, weights)
    return encoder


def load_pretrained(name: str = "emoji_xm") -> TwoStreamEncoder:
    """Loads an encoder with shipped weights: evaluation mode, float32, on the CPU.

    ``"emoji_xm"`` was trained by ``benchmarks/pretraining.py``. Weights are plain arrays: loading
    them executes no code.

    Args:
        name: Name of the weights, in any case and with ``-`` or ``_``.

    Returns:
        The encoder.

    Raises:
        ValueError: If there are no shipped weights of that name.

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
    """Loads weights into ``encoder`` in place; returns which were loaded, and logs it in one line.

    A file fits if it has every tensor of the encoder, except those of its top (``Encoder.top``: the
    neck, and others that pretrained backbones lack) and the counters of batch normalization. Names
    that the encoder does not have, such as a classifier's, are ignored, and a prefix ``"module."``
    is removed. torchvision's ``resnet50`` fits ``AgwResNet50``: its stem is loaded into each stem.
    So do checkpoints of AGW and of code bases with the same names, such as ADCA, PGM and BMIL; they
    must be complete, with the neck, and with all non-local blocks or none.

    Args:
        encoder: The encoder to load into; changed only if the whole file fits.
        source: A ``.pth``, ``.pt``, ``.pth.tar`` or ``.t`` file of ``torch.save`` (a state dict, a
            dictionary that contains one as ``state``, ``state_dict``, ``model``, ``net`` or
            ``model_state_dict``, or a file of ``save_encoder``), ``.safetensors`` or ``.npz``; an
            open file is read as ``.npz``. NumPy values among the tensors are ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed but not installed.
        ValueError: If the file is of another kind or damaged, contains anything but tensors, or
            does not fit: each tensor must be dense, finite in the encoder's dtype, and real or
            integer like the encoder's.

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
        report = fill_encoder(encoder, found)
    except ValueError as error:
        raise ValueError(f"{os.fspath(place)}: {error}") from error
    _LOG.info("%s: %s", Path(place).name, report)
    return report


def fill_encoder(encoder: Encoder, found: Mapping[str, Tensor]) -> LoadReport:
    """Copies tensors into the encoder if they fit, or raises ValueError and changes nothing."""
    state = encoder.state_dict()
    origins, released = _origins(encoder, found)
    filled = {
        name: origins[key]
        for name in state
        if (key := _first(origins, name, encoder.pretrained_name(name))) is not None
    }
    if not filled:
        raise ValueError(
            f"weights must have names of {type(encoder).__name__} such as {_some(state)}, "
            f"got {_some(found)}"
        )
    tensors = {
        name: _fitted(encoder, name, found[origin], state[name]) for name, origin in filled.items()
    }
    missing = [n for n in state if n not in filled and not n.endswith("num_batches_tracked")]
    optional = encoder.top
    if released:  # the whole network, possibly one without non-local blocks
        optional = () if any(name.startswith("non_local.") for name in filled) else ("non_local.",)
    needed = [name for name in missing if not name.startswith(optional)]
    if needed:
        below = "" if released else " below its top"
        raise ValueError(
            f"weights must contain every tensor of {type(encoder).__name__}{below}, "
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
        reasons=released_names.REASONS if released else {},
    )


def _origins(encoder: Encoder, found: Mapping[str, Tensor]) -> tuple[dict[str, str], bool]:
    """The encoder's names mapped to those in the file, and whether those are released names."""
    if not released_names.is_released(found):
        return {name: name for name in found}, False
    if not isinstance(encoder, AgwResNet50):
        raise ValueError(
            f"weights with the names of AGW, such as {_some(found)}, are for the encoder "
            f"{released_names.MODEL!r}, got {type(encoder).__name__}"
        )
    return released_names.by_our_names(found), True


def _fitted(encoder: Encoder, name: str, tensor: Tensor, target: Tensor) -> Tensor:
    """A tensor from a file in the shape and dtype of the encoder's, or ValueError."""
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
    """A description of a tensor that cannot replace ``target``; ``None`` if it can."""
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


def _first(found: Mapping[str, str], *names: str) -> str | None:
    return next((name for name in names if name in found), None)


def _some(names: Any) -> list[str]:
    return sorted(names)[:_SHOWN]


def save_weights(encoder: Encoder, path: str | PathLike[str]) -> None:
    """Writes parameters and running statistics to an ``.npz`` of float16 arrays.

    Args:
        encoder: The encoder to save.
        path: The file, with any extension; an existing file is replaced once the new one is
            complete.

    Raises:
        OSError: If it cannot be written; an existing file is kept.

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
