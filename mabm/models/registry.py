"""Encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from mabm._core.arguments import check_integer
from mabm.models.agw import AgwResNet50
from mabm.models.encoder import Encoder
from mabm.models.timm_encoder import TimmEncoder
from mabm.models.two_stream import TwoStreamEncoder

ENCODERS: Final[dict[str, Callable[[int], Encoder]]] = {
    "agw-resnet50": lambda num_modalities: AgwResNet50(num_modalities=num_modalities),
    "small": lambda num_modalities: TwoStreamEncoder(num_modalities=num_modalities),
}
"""Encoders by name; ``"timm:NAME"`` is a timm backbone."""

MAX_EDGE: Final = 4096
"""The largest height or width of an image in pixels, far above any useful value."""

MAX_SEED: Final = 2**63 - 1
"""The largest seed that PyTorch's generators accept and TOML can store."""

_TIMM: Final = "timm:"


def new_encoder(
    name: str,
    *,
    num_modalities: int = 2,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> Encoder:
    """Builds an encoder with random weights from ``seed``: training mode, float32, on the CPU.

    No global random state is touched.

    Args:
        name: One of ``ENCODERS``, or ``"timm:NAME"``.
        num_modalities: Number of stems, >= 1.
        seed: Seed of the initial weights.
        image_size: Height and width of the images, for timm backbones that accept one size only;
            other encoders accept any size.

    Raises:
        ImportError: If the name is that of a timm backbone and timm is not installed.
        ValueError: If the name is unknown, or a number is out of range.
    """
    if num_modalities < 1:
        raise ValueError(f"num_modalities must be >= 1, got {num_modalities}")
    for edge in image_size or ():
        check_integer("image_size", edge, at_least=1, at_most=MAX_EDGE)
    check_integer("seed", seed, at_least=0, at_most=MAX_SEED)
    is_timm = name.startswith(_TIMM) and len(name) > len(_TIMM)
    if not is_timm and name not in ENCODERS:
        raise ValueError(f"name must be one of {sorted(ENCODERS)} or 'timm:NAME', got {name!r}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which would seed every GPU as well.
        torch.default_generator.manual_seed(seed)
        if is_timm:
            return TimmEncoder(
                name[len(_TIMM) :], num_modalities=num_modalities, image_size=image_size
            )
        return ENCODERS[name](num_modalities)
