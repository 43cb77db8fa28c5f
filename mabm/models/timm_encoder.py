"""Any timm image backbone as a two-stream encoder; needs the extra ``timm``."""

from __future__ import annotations

import copy
import importlib
import re
from typing import Any, Final, cast

from torch import Tensor, nn

from mabm.models.encoder import Encoder, bnneck, stemmed

# timm's default for models that do not say what they were trained on: ImageNet's.
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)


class TimmEncoder(Encoder):
    """A timm backbone with a first convolution per modality, and a BNNeck on top.

    Every convolution of the three image channels, including a patch embedding, is copied for each
    modality: the copies start equal and are trained separately. Everything after it is shared, even
    a normalization directly after it, which ``AgwResNet50`` has per modality. Features are pooled
    as the backbone pools for its classifier, and pixels are normalized as its weights expect.
    Nothing is downloaded: weights come from a file with timm's names (``load_weights``).

    Args:
        name: Name of the backbone in timm, such as ``"resnet50"`` or
            ``"vit_small_patch16_224.augreg_in21k"``.
        num_modalities: Number of stems, >= 1.
        image_size: Height and width of the images, for a backbone that accepts one size only;
            ``None`` keeps its default size. Other backbones accept any size.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm has no backbone of that name, or it does not start with a convolution.

    Example:
        >>> from mabm.models import TimmEncoder
        >>> TimmEncoder("resnet18").num_features  # doctest: +SKIP
        512
    """

    top = ("neck.",)

    def __init__(
        self, name: str, *, num_modalities: int = 2, image_size: tuple[int, int] | None = None
    ) -> None:
        timm = _timm()
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.partition('.')[0]}*")[:4]
            raise ValueError(f"name must be a backbone of timm, got {name!r}; similar: {near}")
        settings = _settings(timm.get_pretrained_cfg(name))
        sized = bool(settings.get("fixed_input_size"))
        options: dict[str, Any] = {"img_size": image_size} if sized and image_size else {}
        backbone = timm.create_model(name, pretrained=False, num_classes=0, **options)
        super().__init__(
            getattr(backbone, "head_hidden_size", backbone.num_features),
            num_modalities,
            pixel_mean=[255 * value for value in settings.get("mean") or _MEAN],
            pixel_deviation=[255 * value for value in settings.get("std") or _DEVIATION],
        )
        if sized and image_size is None and "input_size" in settings:
            _, height, width = settings["input_size"]  # channels first
            image_size = (height, width)
        self.image_size = image_size if sized else None
        self._firsts = _copy_first_convolutions(backbone, num_modalities, name)
        self.backbone: nn.Module = backbone
        self.neck = bnneck(self.num_features)

    def pretrained_name(self, name: str) -> str:
        """The name of ``name`` in a file of pretrained weights: timm's.

        The convolutions of all modalities are initialized from the single one in timm.

        Args:
            name: A name of ``state_dict()``.
        """
        return re.sub(r"\.by_modality\.\d+", "", name.removeprefix("backbone."))

    def adapted(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor from a file, with position embeddings resampled to the image's patch grid.

        Args:
            name: A name of ``state_dict()``.
            tensor: The tensor from the file.
        """
        grid = getattr(getattr(self.backbone, "patch_embed", None), "grid_size", None)
        if name != "backbone.pos_embed" or grid is None:
            return tensor
        embedding = self.backbone.get_parameter("pos_embed")
        if embedding.shape == tensor.shape or tensor.ndim != 3:
            return tensor
        num_others = embedding.shape[1] - grid[0] * grid[1]  # class and register tokens
        resample = importlib.import_module("timm.layers").resample_abs_pos_embed
        return cast(Tensor, resample(tensor, list(grid), num_prefix_tokens=num_others))

    def _pooled(self, scaled: Tensor, counts: list[int]) -> Tensor:
        for first in self._firsts:
            first.counts = counts
        return cast(Tensor, self.backbone(scaled))


class _ByModality(nn.Module):
    """A convolution per modality, for a batch sorted by modality."""

    def __init__(self, convolution: nn.Module, num_modalities: int) -> None:
        super().__init__()
        self.by_modality = nn.ModuleList(copy.deepcopy(convolution) for _ in range(num_modalities))
        self.counts: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return stemmed(self.by_modality, x, self.counts)


def _copy_first_convolutions(
    backbone: nn.Module, num_modalities: int, name: str
) -> list[_ByModality]:
    firsts = []
    for place, module in list(backbone.named_modules()):
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            parent, _, child = place.rpartition(".")
            first = _ByModality(module, num_modalities)
            setattr(backbone.get_submodule(parent), child, first)
            firsts.append(first)
    if not firsts:
        raise ValueError(f"name must be a backbone that begins with a convolution, got {name!r}")
    return firsts


def _settings(config: Any) -> dict[str, Any]:
    """Settings of a backbone's weights in timm: normalization, and whether its size is fixed."""
    return dict(config.to_dict()) if config is not None else {}


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError('backbones "timm:NAME" need timm: pip install "mabm[timm]"') from error
