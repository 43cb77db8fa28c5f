"""A stand-in for released checkpoints: a network with their names, and files as they save them.

Written from the papers (Ye et al., TPAMI 2021; He et al., CVPR 2016; Wang et al., CVPR 2018) and
from the names in the checkpoints: three whole ResNet-50s, each of which runs in part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential()
        if channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, layers: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        if layers is not None:
            for name in ("layer1", "layer2", "layer3", "layer4"):
                self.add_module(name, layers.get_submodule(name))
            return
        for number, (depth, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 1))):
            width, blocks = 64 * 2**number, []
            for index in range(depth):
                blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
                channels = 4 * width
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))

    def stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)


class NonLocal(nn.Module):
    """Weights of all pairs of positions: the dot product over their number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Sequential(nn.Conv2d(channels, 1, 1))
        self.theta, self.phi = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        pairs = torch.einsum("bci,bcj->bij", theta, phi) / theta.shape[2]
        y = torch.einsum("bij,bcj->bci", pairs, g)
        return x + self.W(y.view(len(x), 1, *x.shape[2:]))


def _holding(name: str, layers: nn.Module | None = None) -> nn.Module:
    """A module that holds a whole ResNet, whose layers may be those of another to save time."""
    outer, inner = nn.Module(), ResNet(layers)
    outer.add_module(name, inner)
    return outer


class Released(nn.Module):
    """The network, with non-local blocks as AGW, PGM and BMIL have them, or without as ADCA."""

    def __init__(self, *, non_local: bool = True) -> None:
        super().__init__()
        self.base_resnet = _holding("base")
        layers = self.base_resnet.get_submodule("base")
        self.visible_module = _holding("visible", layers)
        self.thermal_module = _holding("thermal", layers)
        counts = (0, 2, 3, 0) if non_local else (0, 0, 0, 0)
        for layer, count in enumerate(counts, 1):
            blocks = nn.ModuleList(NonLocal(128 * 2**layer) for _ in range(count))
            self.add_module(f"NL_{layer}", blocks)
        self.bottleneck = nn.BatchNorm1d(2048)
        self.classifier = nn.Linear(2048, 395, bias=False)

    def forward(self, pixels: Tensor, modality: int) -> Tensor:
        """Features of images in [0, 255], all of one modality, before they are normalized."""
        streams: Any = (self.visible_module.visible, self.thermal_module.thermal)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
        x = streams[modality].stem((pixels.float() / 255 - mean) / deviation)
        for layer in (1, 2, 3, 4):
            stage: Any = self.base_resnet.get_submodule(f"base.layer{layer}")
            blocks: Any = self.get_submodule(f"NL_{layer}")
            for index, bottleneck in enumerate(stage):
                x = bottleneck(x)
                if index >= len(stage) - len(blocks):
                    x = blocks[index - len(stage)](x)
        pooled = ((x.flatten(2) ** 3).mean(dim=2) + 1e-12) ** (1 / 3)
        return self.bottleneck(pooled)


def released_network(*, non_local: bool = True, seed: int = 0) -> Released:
    """The network in evaluation mode: random weights and statistics, so that every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Released(non_local=non_local)
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                # Non-local blocks are cubic: without a bound, five of them would overflow.
                bound = 0.3 if name.startswith("NL_") else 1.0
                nn.init.normal_(module.weight, 0, bound * module.weight[0].numel() ** -0.5)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, 0.1, 0.1)
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def save_released(
    network: nn.Module, path: Path, *, kind: str = "adca", zipped: bool = True
) -> Path:
    """Saves it as ADCA, PGM and BMIL do (``"adca"``), or as AGW does (``"agw"``)."""
    state = network.state_dict()
    content: dict[str, Any]
    if kind == "agw":
        cmc = np.linspace(0.5, 1, 20, dtype=np.float32)
        content = {"net": state, "cmc": cmc, "mAP": np.float64(0.5), "mINP": np.float32(0.4)}
    else:
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        content = {"state_dict": wrapped, "best_mAP": np.float64(0.63)}
    torch.save({**content, "epoch": 50}, path, _use_new_zipfile_serialization=zipped)
    return path
