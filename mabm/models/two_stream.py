"""A small two-stream encoder: one stem per modality, then shared residual blocks.

The layout is that of the AGW baseline (Ye et al., TPAMI 2021) used throughout visible-infrared
person re-identification, at a size that two CPU cores can train: GeM pooling (Radenovic et al.,
TPAMI 2019) and a BNNeck with frozen bias (Luo et al., CVPRW 2019) on top of residual blocks.
"""

from __future__ import annotations

from importlib import resources
from os import PathLike
from typing import IO, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Names accepted by load_pretrained, and the weights beside this file that they stand for.
_WEIGHTS: Final = {"emoji-xm": "emoji_xm_encoder.npz"}
_GEM_EPS: Final = 1e-6  # keeps x ** p differentiable where the last ReLU gave zero


class TwoStreamEncoder(nn.Module):
    """Two stems, four shared residual blocks, GeM pooling and a BNNeck; about 0.7 M parameters.

    Args:
        num_modalities: Number of stems, >= 1.
        widths: Channels of the stem and of the four blocks.
    """

    def __init__(
        self,
        *,
        num_modalities: int = 2,
        widths: tuple[int, int, int, int, int] = (24, 24, 48, 96, 192),
    ) -> None:
        super().__init__()
        if num_modalities < 1:
            raise ValueError(f"num_modalities must be >= 1, got {num_modalities}")
        self.num_features = widths[-1]
        self.stems = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(inplace=True),
            )
            for _ in range(num_modalities)
        )
        # The first block keeps the full resolution: at 48 px, lines are a pixel or two wide.
        strides = (1, 2, 2, 2)
        self.blocks = nn.Sequential(
            *(_ResidualBlock(widths[i], widths[i + 1], strides[i]) for i in range(len(strides)))
        )
        self.gem_power = nn.Parameter(torch.tensor(3.0))
        self.neck = nn.BatchNorm1d(self.num_features)
        self.neck.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """Features after the BNNeck, not normalised.

        Args:
            images: (N, 3, H, W) uint8. Infrared images hold their one channel three times.
            modality: (N,) int64 in [0, num_modalities): the stem each image goes through. Never
            guessed.

        Returns:
            (N, D) float features, D = ``num_features``.

        Raises:
            TypeError: If ``images`` is not uint8 or ``modality`` not int64.
            ValueError: If a shape or a modality is out of contract.
        """
        self._check(images, modality)
        if len(images) == 0:
            return self.gem_power.new_zeros(0, self.num_features)
        scaled = (images.to(self.gem_power.dtype) - 127.5) / 64
        # Channels last is the faster layout of convolutions on CPUs, by about a third here.
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        members = [torch.nonzero(modality == group).squeeze(1) for group in range(len(self.stems))]
        stemmed = torch.cat(
            [
                stem(scaled[rows])
                for stem, rows in zip(self.stems, members, strict=True)
                if len(rows)
            ]
        )
        # Back from one modality after the other to the order of the batch.
        pooled = _generalised_mean(self.blocks(stemmed), self.gem_power)
        features: torch.Tensor = self.neck(pooled[torch.argsort(torch.cat(members))])
        return features

    def _check(self, images: torch.Tensor, modality: torch.Tensor) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        if modality.dtype != torch.int64:
            raise TypeError(f"modality must be int64, got {modality.dtype}")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
        if modality.shape != images.shape[:1]:
            raise ValueError(
                f"modality must have shape ({len(images)},), got {tuple(modality.shape)}"
            )
        if modality.numel() and not (
            int(modality.min()) >= 0 and int(modality.max()) < len(self.stems)
        ):
            raise ValueError(
                f"modality must be in [0, {len(self.stems)}), "
                f"got values in [{int(modality.min())}, {int(modality.max())}]"
            )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 projection where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _generalised_mean(maps: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Pools (N, C, H, W) to (N, C): the mean of ``x ** p``, to the power ``1 / p``."""
    return maps.clamp(min=_GEM_EPS).pow(power).mean(dim=(2, 3)).pow(1 / power)


def extract(
    encoder: TwoStreamEncoder,
    images: torch.Tensor,
    modality: torch.Tensor,
    *,
    batch_size: int = 256,
    normalise_mean: bool = False,
) -> torch.Tensor:
    """Features for clustering: ``0.5 * (g(image) + g(mirrored image))``, g the unit-length output.

    The encoder's training flag is put back as it was; no gradient is recorded.

    Args:
        encoder: The network; images go to the device of its parameters, batch by batch.
        images: (N, 3, H, W) uint8.
        modality: (N,) int64.
        batch_size: Images per step, >= 1.
        normalise_mean: Normalise the mean again, as evaluation does and clustering does not.

    Returns:
        (N, D) float32 on the CPU, of length at most one.

    Raises:
        ValueError: If ``batch_size`` is below one, or as ``TwoStreamEncoder.forward``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    device = encoder.gem_power.device
    features = torch.empty(len(images), encoder.num_features)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                rows = slice(start, start + batch_size)
                batch, groups = images[rows].to(device), modality[rows].to(device)
                mean = 0.5 * (
                    F.normalize(encoder(batch, groups))
                    + F.normalize(encoder(batch.flip(3), groups))
                )
                features[rows] = (F.normalize(mean) if normalise_mean else mean).float().cpu()
    finally:
        encoder.train(was_training)
    return features


def save_weights(encoder: TwoStreamEncoder, path: str | PathLike[str]) -> None:
    """Writes parameters and running statistics to an ``.npz`` of float16 arrays."""
    arrays = {
        name: tensor.detach().cpu().numpy().astype(np.float16)
        for name, tensor in encoder.state_dict().items()
        if tensor.is_floating_point()
    }
    np.savez_compressed(path, **arrays)


def load_pretrained(name: str = "emoji-xm") -> TwoStreamEncoder:
    """An encoder with the weights shipped under ``name``: evaluation mode, float32, on the CPU.

    ``"emoji-xm"`` was trained by ``mabm.models.pretrain``, which says how. Weights are plain
    arrays: loading them executes no code.

    Raises:
        ValueError: If no weights of that name ship.
    """
    if name not in _WEIGHTS:
        raise ValueError(f"name must be one of {sorted(_WEIGHTS)}, got {name!r}")
    encoder = TwoStreamEncoder()
    with resources.files("mabm.models").joinpath(_WEIGHTS[name]).open("rb") as stream:
        load_weights(encoder, stream)
    encoder.eval()
    return encoder


def load_weights(encoder: TwoStreamEncoder, source: str | PathLike[str] | IO[bytes]) -> None:
    """Fills ``encoder`` in place with arrays written by ``save_weights``.

    Raises:
        ValueError: If the arrays are not exactly those of this encoder, by name and shape.
    """
    state = {
        name: tensor for name, tensor in encoder.state_dict().items() if tensor.is_floating_point()
    }
    with np.load(source, allow_pickle=False) as archive:
        if set(archive.files) != set(state):
            odd = sorted(set(archive.files) ^ set(state))
            raise ValueError(f"weights must match the encoder's names, differing: {odd[:4]}")
        arrays = {name: archive[name] for name in state}
    for name, tensor in state.items():
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"weights of {name} must have shape {tuple(tensor.shape)}, got {arrays[name].shape}"
            )
    for name, tensor in state.items():
        tensor.copy_(torch.from_numpy(arrays[name].astype(np.float32)))
