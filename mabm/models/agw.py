"""The encoder of the published method: AGW, a two-stream ResNet-50 with non-local blocks.

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, on
He et al., CVPR 2016. Names of parameters are those of torchvision's ``resnet50``, so that its
weights load; the stems, one per modality, each take the weights of its one stem.
"""

from __future__ import annotations

import re
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabm.models.encoder import Encoder, bnneck, generalized_mean, stemmed

# Mean and deviation of ImageNet, which torchvision's weights were trained on; pixels in [0, 255].
IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION: Final = (58.395, 57.12, 57.375)

_DEPTHS: Final = (3, 4, 6, 3)  # bottlenecks of layers 1 to 4: the 50 of ResNet-50
_EXPANSION: Final = 4  # channels out of a bottleneck for one inside
_GEM_POWER: Final = 3.0


class AgwResNet50(Encoder):
    """A stem (conv1 to maxpool) per modality, shared layers 1 to 4, GeM (p = 3), BNNeck; D = 2048.

    The last stage keeps its stride at 1: features of 288 x 144 images are pooled from 18 x 9 maps.
    Pixels are normalized with ImageNet's mean and deviation. The power of GeM is fixed, as in the
    published implementations. Weights start as torchvision's do (He et al., ICCV 2015).

    Args:
        num_modalities: Number of stems, >= 1.
        non_local: Non-local blocks in each layer, after its last bottlenecks, at most as many as
            the layer has: AGW has two in layer 2 and three in layer 3.
        non_local_channels: Channels inside a non-local block. The published implementations of AGW
            divide a number by itself and so use 1; ``None`` uses half of the layer's channels, as
            described by Wang et al.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from mabm.models import AgwResNet50
        >>> encoder = AgwResNet50().eval()
        >>> with torch.no_grad():
        ...     encoder(torch.zeros(2, 3, 96, 48), torch.tensor([0, 1])).shape
        torch.Size([2, 2048])
    """

    top = ("neck.", "non_local")

    def __init__(
        self,
        *,
        num_modalities: int = 2,
        non_local: tuple[int, int, int, int] = (0, 2, 3, 0),
        non_local_channels: int | None = 1,
    ) -> None:
        super().__init__(
            512 * _EXPANSION,
            num_modalities,
            pixel_mean=IMAGENET_MEAN,
            pixel_deviation=IMAGENET_DEVIATION,
        )
        if len(non_local) != 4 or not all(
            0 <= count <= depth for count, depth in zip(non_local, _DEPTHS, strict=True)
        ):
            raise ValueError(
                f"non_local must be four counts of at most {_DEPTHS}, got {non_local!r}"
            )
        if non_local_channels is not None and non_local_channels < 1:
            raise ValueError(f"non_local_channels must be >= 1 or None, got {non_local_channels}")
        self.stems = nn.ModuleList(_Stem() for _ in range(num_modalities))
        self.layer1 = _layer(64, 64, _DEPTHS[0], stride=1)
        self.layer2 = _layer(256, 128, _DEPTHS[1], stride=2)
        self.layer3 = _layer(512, 256, _DEPTHS[2], stride=2)
        self.layer4 = _layer(1024, 512, _DEPTHS[3], stride=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        channels = (256, 512, 1024, 2048)
        self.non_local = nn.ModuleList(
            nn.ModuleList(
                _NonLocalBlock(width, non_local_channels or width // 2) for _ in range(count)
            )
            for width, count in zip(channels, non_local, strict=True)
        )
        self.neck = bnneck(self.num_features)
        nn.init.normal_(self.neck.weight, 1.0, 0.01)  # as the published implementations do

    def pretrained_name(self, name: str) -> str:
        """The name of ``name`` in a file of pretrained weights: that of a plain ResNet.

        Every stem is initialized from the single stem of a ResNet.

        Args:
            name: A name of ``state_dict()``, such as ``"stems.1.conv1.weight"``.

        Returns:
            The name without its stem.
        """
        return re.sub(r"^stems\.\d+\.", "", name)

    def _pooled(self, scaled: Tensor, counts: list[int]) -> Tensor:
        maps = stemmed(self.stems, scaled, counts)
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        for layer, blocks in zip(layers, self.non_local, strict=True):
            attention = list(cast(nn.ModuleList, blocks))
            first = len(layer) - len(attention)
            for index, bottleneck in enumerate(layer):
                maps = bottleneck(maps)
                if index >= first:
                    maps = attention[index - first](maps)
        return generalized_mean(maps, _GEM_POWER)


class _Stem(nn.Module):
    """ResNet's first convolution and pooling: a quarter of the resolution, 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)


def _layer(channels_in: int, width: int, depth: int, *, stride: int) -> nn.Sequential:
    first = _Bottleneck(channels_in, width, stride)
    return nn.Sequential(
        first, *(_Bottleneck(width * _EXPANSION, width, 1) for _ in range(depth - 1))
    )


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with an identity or projection shortcut; the 3x3 is strided."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * _EXPANSION
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class _NonLocalBlock(nn.Module):
    """Every position adds a weighted sum of all positions (Wang et al., CVPR 2018).

    Equation (1) with the dot product of equation (4) as weights, divided by the number of
    positions: ``y = theta(x)^T phi(x) g(x) / N``. As there is no softmax, the product is computed
    from the right, without an N x N matrix. The last normalization starts at zero: a new block is
    the identity, so that pretrained layers around it keep working.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        # Divided before summing over the positions: the largest float16 is 65,504.
        summary = torch.bmm(g, (phi / phi.shape[2]).transpose(1, 2))
        gathered = torch.bmm(summary, theta).view(len(x), -1, *x.shape[2:])
        return x + cast(Tensor, self.norm(self.out(gathered)))
