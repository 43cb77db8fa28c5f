"""Features of many images, for clustering and for testing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabm._core.columns import Column, check_visible_infrared


def extract(
    encoder: nn.Module,
    images: Tensor,
    modality: Column,
    *,
    batch_size: int = 256,
    normalize_mean: bool = False,
) -> Tensor:
    """Computes features for clustering: ``0.5 * (g(image) + g(flipped image))``.

    Before the mean, each of the two has length 1.

    The encoder's training flag is restored; no gradient is recorded.

    Args:
        encoder: An ``Encoder``, which may be compiled or wrapped; images are moved to the device of
            its parameters batch by batch.
        images: (N, 3, H, W) uint8 or floating, pixels in [0, 255].
        modality: (N,) integers, 0 visible and 1 infrared, or these two words.
        batch_size: Images per step, >= 1.
        normalize_mean: Whether to normalize the mean, as in evaluation but not in clustering.

    Returns:
        (N, D) float32 on the CPU, of length at most one.

    Raises:
        TypeError: If ``modality`` has the wrong type.
        ValueError: If ``batch_size`` is below one, a shape does not fit, or a modality is unknown.

    Example:
        >>> import torch
        >>> from mabm.models import build_encoder, extract
        >>> images = torch.zeros(5, 3, 48, 48, dtype=torch.uint8)
        >>> len(extract(build_encoder("small"), images, torch.tensor([0, 0, 1, 1, 1])))
        5
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    modality = check_visible_infrared(modality, len(images), "modality", "one per image")
    device = next(encoder.parameters()).device
    features: list[Tensor] = []
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            # Without images, one empty batch determines the number of columns.
            for start in range(0, max(len(images), 1), batch_size):
                rows = slice(start, start + batch_size)
                batch, groups = images[rows].to(device), modality[rows]
                mean = 0.5 * (
                    F.normalize(encoder(batch, groups).float())
                    + F.normalize(encoder(batch.flip(3), groups).float())
                )
                features.append((F.normalize(mean) if normalize_mean else mean).cpu())
    finally:
        encoder.train(was_training)
    return torch.cat(features)
