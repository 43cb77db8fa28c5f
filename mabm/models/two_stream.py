"""A small two-stream encoder: one stem per modality, then shared residual blocks.

The layout is that of the AGW baseline (Ye et al., TPAMI 2021) used throughout visible-infrared
person re-identification, at a size that two CPU cores can train.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabm.models.encoder import Encoder, bnneck, generalized_mean, stemmed


class TwoStreamEncoder(Encoder):
    """Two stems, four shared residual blocks, GeM pooling and a BNNeck; about 0.7 M parameters.

    Pixels are normalized as (x - 127.5) / 64. The power of GeM starts at 3 and is learned.

    Args:
        num_modalities: Number of stems, >= 1.
        widths: Channels of the stem and of the four blocks.

    Example:
        >>> import torch
        >>> from mabm.models import TwoStreamEncoder
        >>> encoder = TwoStreamEncoder()
        >>> images = torch.zeros(4, 3, 48, 48, dtype=torch.uint8)
        >>> len(encoder(images, torch.tensor([0, 0, 1, 1])))
        4
    """

    def __init__(
        self,
        *,
        num_modalities: int = 2,
        widths: tuple[int, int, int, int, int] = (24, 24, 48, 96, 192),
    ) -> None:
        super().__init__(
            widths[-1], num_modalities, pixel_mean=(127.5,) * 3, pixel_deviation=(64.0,) * 3
        )
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
        self.neck = bnneck(self.num_features)

    def _pooled(self, scaled: Tensor, counts: list[int]) -> Tensor:
        return generalized_mean(self.blocks(stemmed(self.stems, scaled, counts)), self.gem_power)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut, or a 1x1 projection if the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        # Pixels are dropped here instead of by the stride of the 1x1 convolution, whose gradient on
        # x86 CPUs is written beyond the allocated memory with fewer than 16 channels in the
        # channels-last layout (oneDNN issue 6035).
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.body(x) + self.shortcut(kept))
