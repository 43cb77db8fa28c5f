"""Random augmentation of a batch of images, on the device of the images.

The random numbers of an image depend only on (seed, key), so an image is augmented the same way in
any batch, worker, process or device, and a resumed run needs no random state.

The order is that of the released implementations of visible-infrared re-identification: padding and
crop, flip, color jitter, random erasing, channels. So jitter also changes black borders: lower
contrast turns them gray. Resizing comes before (where images are decoded) and normalization after
(inside the encoder); the released implementations normalize before they erase and copy channels. So
a copied channel is the same *pixel* in all three channels here, as in a real infrared image, and
the same *normalized* number there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mabm._core.arrays import IntArray
from mabm.data.philox import uniform_draws

Channels = Literal["keep", "exchange", "infrared"]

# The released implementations fill with 0.4914, 0.4822, 0.4465 after they normalized by ImageNet's
# mean and deviation. As pixels that is 255 * (mean + fill * deviation).
ERASING_FILL: Final = (152.3703, 143.8233, 129.1479)
_LUMINANCE: Final = (0.2989, 0.587, 0.114)  # ITU-R BT.601, digits as torchvision has them

# A rectangle that does not fit is drawn again. About one in eight fails on 2:1 images, one in ten
# on square ones, so that ten in a row fail less often than once in 10**8.
_ERASING_ATTEMPTS: Final = 10

# Columns of an image's uniform draws. Every recipe draws all of them: what one option draws does
# not move another's numbers.
_JITTER: Final = slice(0, 4)
_JITTER_ORDER: Final = 4
_CROP: Final = slice(5, 7)
_FLIP: Final = 7
_CHANNEL: Final = 8
_GRAY: Final = 9
_ERASE: Final = 10
_ERASING_PLACE: Final = slice(11, 13)
_ERASING_AREA: Final = slice(13, 13 + _ERASING_ATTEMPTS)
_ERASING_ASPECT: Final = slice(13 + _ERASING_ATTEMPTS, 13 + 2 * _ERASING_ATTEMPTS)
_NUM_DRAWS: Final = 13 + 2 * _ERASING_ATTEMPTS

_ORDERS: Final = np.array(list(itertools.permutations(range(4))), dtype=np.int64)
_UNCHANGED: Final = 3  # as a channel number of "infrared": none of the three is copied

Draws = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random augmentation; the defaults are the published first visible view.

    Attributes:
        padding: Black pixels added on every side before a random crop of the old size, >= 0.
        flip: Probability of a horizontal flip.
        erasing: Probability of erasing a rectangle (Zhong et al., AAAI 2020).
        erasing_area: Smallest and largest share of the image to erase, drawn uniformly.
        erasing_aspect: Smallest and largest height / width of the rectangle, drawn uniformly (not
            log-uniformly), as published: from 0.3 to 1 / 0.3.
        erasing_fill: Red, green and blue of an erased pixel; the default is that of the released
            implementations. ImageNet's mean, (123.675, 116.28, 103.53), would be zero in an encoder
            that normalizes by it.
        jitter: Strength of color jitter: brightness, contrast and saturation are multiplied by
            factors in [max(0, 1 - jitter), 1 + jitter], hue is shifted by at most min(jitter, 0.5)
            of a circle, in a random order per image. 0 does not change colors.
        channels: ``"keep"`` does not change them. ``"exchange"`` copies one channel, drawn
            uniformly, to all three (the published second visible view). ``"infrared"`` draws one of
            four with equal probability: each channel copied to all three, or, as the fourth, the
            image unchanged or in gray (half each).

    Raises:
        ValueError: If an option is out of its range.

    Example:
        >>> from mabm.data import Augmentation
        >>> Augmentation(padding=4, jitter=0.5, channels="exchange").flip
        0.5
    """

    padding: int = 10
    flip: float = 0.5
    erasing: float = 0.5
    erasing_area: tuple[float, float] = (0.02, 0.4)
    erasing_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    erasing_fill: tuple[float, float, float] = ERASING_FILL
    jitter: float = 0.0
    channels: Channels = "keep"

    def __post_init__(self) -> None:
        if self.padding < 0 or self.padding != int(self.padding):
            raise ValueError(f"padding must be a number of pixels >= 0, got {self.padding!r}")
        for name in ("flip", "erasing"):
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a chance in [0, 1], got {chance!r}")
        for name, most in (("erasing_area", 1.0), ("erasing_aspect", math.inf)):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                limit = " <= 1" if most == 1 else ""
                raise ValueError(
                    f"{name} must be (least, most), 0 < least <= most{limit}, got {bounds!r}"
                )
        if len(self.erasing_fill) != 3 or not all(0 <= c <= 255 for c in self.erasing_fill):
            raise ValueError(
                f"erasing_fill must be three numbers in [0, 255], got {self.erasing_fill!r}"
            )
        if not (0 <= self.jitter < math.inf):
            raise ValueError(f"jitter must be finite and >= 0, got {self.jitter!r}")
        if self.channels not in get_args(Channels):
            raise ValueError(
                f"channels must be one of {list(get_args(Channels))}, got {self.channels!r}"
            )


def augment(
    images: Tensor,
    recipe: Augmentation,
    *,
    seed: int | Sequence[int],
    keys: Tensor | npt.ArrayLike,
) -> Tensor:
    """Augments a batch by ``recipe``, with random numbers from (``seed``, ``keys[i]``) for image i.

    Random numbers are drawn on the host and are the same everywhere; pixels are changed on the
    device of ``images``, without waiting for it. Nothing is rounded between steps.

    Args:
        images: (B, 3, H, W) uint8; not changed.
        recipe: The augmentation.
        seed: Seed for ``numpy.random.SeedSequence``: an integer >= 0 or a sequence of them, such as
            (run seed, stage, epoch, view).
        keys: (B,) integers on the host, one per image: its number in the data set, or its position
            in the epoch if repeated images should differ. Equal keys give equal random numbers.

    Returns:
        (B, 3, H, W) float32 pixels in [0, 255] on the device of ``images``.

    Raises:
        TypeError: If ``images`` is not a uint8 tensor or ``keys`` are not integers.
        ValueError: If a shape is out of contract, or ``seed`` is negative.

    Example:
        >>> import torch
        >>> from mabm.data import Augmentation, augment
        >>> images = torch.full((2, 3, 48, 24), 128, dtype=torch.uint8)
        >>> augmented = augment(images, Augmentation(padding=4), seed=[0, 1], keys=[17, 4])
        >>> augmented.shape, augmented.dtype
        (torch.Size([2, 3, 48, 24]), torch.float32)
    """
    rows = _checked_keys(images, keys)
    changes = recipe.padding or recipe.flip or recipe.erasing or recipe.jitter
    if not len(rows) or not (changes or recipe.channels != "keep"):
        return images.to(torch.float32)
    draws = uniform_draws(seed, rows, _NUM_DRAWS)
    result = images
    if recipe.padding:
        result = _crop(result, draws, recipe.padding)
    if recipe.flip:
        result = _flip(result, draws, recipe.flip)
    result = result.to(torch.float32)
    if recipe.jitter:
        result = _jitter(result, draws, recipe.jitter)
    if recipe.erasing:
        result = _erase(result, draws, recipe)
    if recipe.channels != "keep":
        result = _channels(result, draws, recipe.channels)
    return result


def _checked_keys(images: object, keys: Tensor | npt.ArrayLike) -> IntArray:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a uint8 tensor, got {found}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
    rows = np.asarray(keys.cpu() if isinstance(keys, Tensor) else keys)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"keys must be integers, got dtype {rows.dtype}")
    if rows.shape != (len(images),):
        raise ValueError(f"keys must have shape ({len(images)},), got {rows.shape}")
    return rows.astype(np.int64)


def _on(images: Tensor, values: npt.NDArray[np.generic]) -> Tensor:
    """Values drawn on the host, as a tensor on the device of the images."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, non_blocking=True)


def _crop(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """A random window of the old size from each image with a black border."""
    height, width = images.shape[2:]
    top, left = (_on(images, column) for column in _whole(draws[:, _CROP].T, 2 * padding + 1))
    padded = F.pad(images, (padding, padding, padding, padding))
    # Every window as a view, (B, 3, 2 * padding + 1, 2 * padding + 1, H, W): picked in one copy.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _whole(draws: Draws, count: int | IntArray) -> IntArray:
    """Uniform whole numbers in [0, count)."""
    return (draws * count).astype(np.int64)


def _flip(images: Tensor, draws: Draws, chance: float) -> Tensor:
    mirrored = _on(images, draws[:, _FLIP] < chance).view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(3), images)


def _erase(images: Tensor, draws: Draws, recipe: Augmentation) -> Tensor:
    height, width = images.shape[2:]
    tall, wide, fits = _rectangles(draws, height, width, recipe)
    erased = fits & (draws[:, _ERASE] < recipe.erasing)
    place = draws[:, _ERASING_PLACE]
    top = _whole(place[:, 0], height - tall + 1)
    left = _whole(place[:, 1], width - wide + 1)
    inside_rows = _inside(height, top, np.where(erased, tall, 0))
    inside_columns = _inside(width, left, wide)
    mask = (
        _on(images, inside_rows)[:, None, :, None] & _on(images, inside_columns)[:, None, None, :]
    )
    fill = images.new_tensor(recipe.erasing_fill).view(1, 3, 1, 1)
    return torch.where(mask, fill, images)


def _rectangles(
    draws: Draws, height: int, width: int, recipe: Augmentation
) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """Height and width of each image's first rectangle that fits, and whether any did."""
    area = _between(draws[:, _ERASING_AREA], recipe.erasing_area) * (height * width)
    aspect = _between(draws[:, _ERASING_ASPECT], recipe.erasing_aspect)
    tall = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    wide = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (tall < height) & (wide < width)  # strictly, as published
    first = fits.argmax(axis=1)[:, None]
    found = np.take_along_axis(fits, first, 1)[:, 0]
    tall, wide = (np.take_along_axis(sides, first, 1)[:, 0] for sides in (tall, wide))
    return np.where(found, tall, 0), np.where(found, wide, 0), found


def _between(draws: Draws, bounds: tuple[float, float]) -> Draws:
    return bounds[0] + (bounds[1] - bounds[0]) * draws


def _inside(size: int, start: IntArray, length: IntArray) -> npt.NDArray[np.bool_]:
    position = np.arange(size)
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def _channels(images: Tensor, draws: Draws, channels: Channels) -> Tensor:
    count = 3 if channels == "exchange" else 4
    drawn = _whole(draws[:, _CHANNEL], count)
    # (B, 3) weights of the plane that is copied: one channel, or the luminance.
    weights = np.concatenate([np.eye(3), [_LUMINANCE]]).astype(np.float32)[drawn]
    plane = _on(images, weights)[:, :, None, None].mul(images).sum(dim=1, keepdim=True)
    copied = plane.expand_as(images)
    keep = (drawn == _UNCHANGED) & (draws[:, _GRAY] < 0.5)
    return torch.where(_on(images, keep).view(-1, 1, 1, 1), images, copied)


def _jitter(images: Tensor, draws: Draws, strength: float) -> Tensor:
    """Brightness, contrast, saturation, hue, in each image's order: changes and returns images."""
    least, most = max(0.0, 1 - strength), 1 + strength
    factors = _between(draws[:, _JITTER], (least, most))
    turn = min(strength, 0.5)
    factors[:, 3] = _between(draws[:, _JITTER][:, 3], (-turn, turn))
    order = _ORDERS[_whole(draws[:, _JITTER_ORDER], len(_ORDERS))]
    amount = _on(images, factors.astype(np.float32))
    for step in range(4):
        for kind, change in enumerate((_brightness, _contrast, _saturation, _hue)):
            members = np.flatnonzero(order[:, step] == kind)
            if len(members):
                rows = _on(images, members)
                images[rows] = change(images[rows], amount[rows, kind].view(-1, 1, 1, 1))
    return images


def _luminance(images: Tensor) -> Tensor:
    red, green, blue = _LUMINANCE
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _luminance(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 255)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luminance(images), images, factor).clamp_(0, 255)


def _hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue of HSV by a share of the circle; value and saturation stay."""
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    safe = torch.where(chroma > 0, chroma, 1)
    # Sixths of the circle, red at 0; a gray pixel's hue is free, as its chroma is zero.
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turn
    # Channel c is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (offset + hue) mod 6.
    offsets = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    sector = torch.remainder(offsets + hue, 6)
    return value - chroma * torch.minimum(sector, 4 - sector).clamp_(0, 1)
