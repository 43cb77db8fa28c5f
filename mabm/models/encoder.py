"""The base of all encoders: interface, routing of images to stems, pooling and neck.

The layout is the usual one (Ye et al., TPAMI 2021): a stem per modality, a shared trunk, GeM
pooling (Radenovic et al., TPAMI 2019) and a BNNeck with frozen bias (Luo et al., CVPRW 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mabm._core.precision import full_precision

# Added to the mean of powers, as released: its root has a gradient even if a channel is all zero.
_GEM_EPS = 1e-12


class Encoder(nn.Module):
    """Maps images of several modalities to features in one space; the base of all encoders.

    A subclass sets ``neck`` and defines ``_pooled``, which sends each modality through its own stem
    (``stemmed``) and all of them through the same trunk.

    Args:
        num_features: D, columns of the features.
        num_modalities: G, the number of stems, >= 1.
        pixel_mean: Red, green and blue, in [0, 255], subtracted from every pixel.
        pixel_deviation: Red, green and blue; each channel is divided by it afterwards.

    Attributes:
        num_features: D.
        num_modalities: G.
        image_size: Height and width of the images if the network accepts one size only; otherwise
            ``None``.
        top: Prefixes of the names of parameters that a file of pretrained weights may lack.

    Example:
        >>> import torch
        >>> from mabm.models import build_encoder
        >>> encoder = build_encoder("small")
        >>> images = torch.zeros(3, 3, 48, 48, dtype=torch.uint8)
        >>> features = encoder(images, torch.tensor([0, 1, 1]))
        >>> features.shape == (3, encoder.num_features)
        True
    """

    top: ClassVar[tuple[str, ...]] = ()
    neck: nn.BatchNorm1d
    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(
        self,
        num_features: int,
        num_modalities: int,
        *,
        pixel_mean: Sequence[float],
        pixel_deviation: Sequence[float],
    ) -> None:
        super().__init__()
        if num_modalities < 1:
            raise ValueError(f"num_modalities must be >= 1, got {num_modalities}")
        self.num_features = num_features
        self.num_modalities = num_modalities
        self.image_size: tuple[int, int] | None = None
        for name, values in (("pixel_mean", pixel_mean), ("pixel_deviation", pixel_deviation)):
            column = torch.tensor(tuple(values)).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        """Computes features after the BNNeck, not normalized.

        A stem whose modality is absent from the batch does not run: its statistics do not change
        and its parameters get no gradient. So with ``SyncBatchNorm`` every process must pass the
        same modalities, otherwise the processes wait for each other forever.

        If ``modality`` is on the CPU, nothing waits for a GPU; if it is on a GPU, the host waits
        once for the number of images per modality. ``torch.compile`` breaks the graph there and
        compiles the rest, once for each composition of batches.

        Args:
            images: (N, 3, H, W) uint8 or floating, pixels in [0, 255], on the device of the
                parameters. Infrared images repeat their single channel three times.
            modality: (N,) int64 in [0, num_modalities): the stem for each image, in any order; on
                the device of ``images`` or on the CPU.

        Returns:
            (N, D) features. Under autocast, pooling and neck stay in full precision.

        Raises:
            TypeError: If ``images`` is neither uint8 nor floating, or ``modality`` is not int64.
            ValueError: If a shape does not fit or a modality is out of range.
        """
        _check(images, modality)
        if len(images) == 0:
            return self.neck.weight.new_zeros(0, self.num_features)
        order, counts = _by_modality(modality, self.num_modalities)
        if order is not None:
            images = images[order.to(images.device, non_blocking=True)]
        pixels = images.to(self.pixel_mean.dtype)
        scaled = (pixels - self.pixel_mean) / self.pixel_deviation
        # Channels last is the faster layout for convolutions on CPUs, by about a third for the
        # small encoder, and the layout of tensor cores on GPUs.
        pooled = self._pooled(scaled.contiguous(memory_format=torch.channels_last), counts)
        if order is not None:
            # Restores the order of the batch.
            pooled = pooled[torch.argsort(order).to(pooled.device, non_blocking=True)]
        return cast(Tensor, self.neck(pooled))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copies tensors into the encoder, all or nothing: if it raises, nothing has changed.

        Args:
            state_dict: Tensors by the names of ``state_dict()``.
            strict: Whether the names must be exactly those of the encoder.
            assign: Whether the tensors replace the old ones instead of being copied into them.

        Returns:
            The names that were missing and the unexpected names.
        """
        before = [
            (tensors, name, tensor, tensor.detach().clone())
            for module in self.modules()
            for tensors in cast(list[dict[str, Any]], [module._parameters, module._buffers])
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except BaseException:
            with torch.no_grad():
                for tensors, name, tensor, values in before:
                    tensors[name] = tensor.copy_(values)
            raise

    def pretrained_name(self, name: str) -> str:
        """The name of ``name`` (of ``state_dict()``) in a file of pretrained weights.

        Args:
            name: A name of ``state_dict()``.

        Returns:
            The same name; a subclass with stems returns the name in the one stem of its backbone.
        """
        return name

    def adapted(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor from a file, resized to fit ``name`` if its size depends on the image size.

        Args:
            name: A name of ``state_dict()``.
            tensor: The tensor from the file.

        Returns:
            The same tensor; a subclass resizes position embeddings here.
        """
        return tensor

    def _pooled(self, scaled: Tensor, counts: list[int]) -> Tensor:
        """Features before the neck, of images sorted by modality."""
        raise NotImplementedError  # each encoder has its own


def stemmed(stems: nn.ModuleList, images: Tensor, counts: list[int]) -> Tensor:
    """Sends images, sorted by modality, through the stem of each: ``counts[g]`` of modality g."""
    parts = zip(stems, torch.split(images, counts), strict=True)
    return torch.cat([stem(part) for stem, part in parts if len(part)])


def bnneck(num_features: int) -> nn.BatchNorm1d:
    """Batch normalization whose bias is frozen at zero."""
    neck = nn.BatchNorm1d(num_features)
    neck.bias.requires_grad_(False)
    return neck


def generalized_mean(maps: Tensor, power: Tensor | float) -> Tensor:
    """Pools (N, C, H, W) to (N, C): the mean of ``x ** p``, plus 1e-12, to the power ``1 / p``.

    Negative values count as zero. Powers are computed in full precision even under autocast, since
    300 ** 3 overflows float16.
    """
    lifted = full_precision(maps).clamp(min=0).pow(power)
    return (lifted.mean(dim=(2, 3)) + _GEM_EPS).pow(1 / power)


def _check(images: Tensor, modality: Tensor) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    if modality.dtype != torch.int64:
        raise TypeError(f"modality must be int64, got {modality.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
    if modality.shape != images.shape[:1]:
        raise ValueError(f"modality must have shape ({len(images)},), got {tuple(modality.shape)}")


def _by_modality(modality: Tensor, num_modalities: int) -> tuple[Tensor | None, list[int]]:
    """The stable order by modality (``None`` if already sorted), and the image counts."""
    groups = torch.arange(num_modalities, device=modality.device)
    sizes = (modality.unsqueeze(1) == groups).sum(dim=0)
    unsorted = (modality[1:] < modality[:-1]).any()
    # One transfer for both, to wait for a GPU only once.
    *counts, is_unsorted = torch.cat([sizes, unsorted.to(sizes.dtype).view(1)]).tolist()
    if sum(counts) != len(modality):
        least, most = (int(bound) for bound in torch.aminmax(modality))
        raise ValueError(
            f"modality must be in [0, {num_modalities}), got values in [{least}, {most}]"
        )
    return (torch.argsort(modality, stable=True) if is_unsorted else None), counts
