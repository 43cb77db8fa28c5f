"""Reads image files as pixels of one size, decoded each time or cached."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mabm._core.arguments import check_choice
from mabm.data.decode_cache import DecodeCache, cache_key
from mabm.data.records import ByteArray, ImageSet

if TYPE_CHECKING:
    from PIL import Image

Resampling = Literal["bicubic", "lanczos"]


class ImageReader(Dataset[Tensor]):
    """The pixels of an :class:`ImageSet`, all of one size.

    Files are decoded with Pillow, converted to RGB as by :func:`decode_image`, and resized. Arrays
    of another size are resized with the same filter; arrays of the right size are returned
    unchanged.

    It can be pickled and used by any number of processes, including DataLoader workers: with a
    batch sampler, ``collate_fn=lambda batch: batch`` returns the batches as they are read.

    Args:
        images: The images to read.
        size: Height and width in pixels. ``None`` keeps the size of arrays; files need a size.
        resampling: Pillow filter for resizing. The published pipelines use ``"bicubic"`` for
            training images, also when clustering them, and ``"lanczos"`` for test images.
        cache: Folder that caches decoded images, created if it does not exist; each image is
            written when it is first read. Arrays are not cached. See below.

    **The cache** is one file per set of images and size, N * 3 * H * W bytes when full, which
    grows as images are read. Any number of processes can share it. Its name is a digest of the
    files' relative paths, sizes and modification times, the image size and filter, and the versions
    of Pillow and its decoders: if any of these changes, a new file is started, and the old one is
    left for you to delete. Every image has a checksum, written after its pixels: if a process is
    killed or the machine crashes, at most the image being written is lost, and wrong pixels are
    never returned. If the disk is full, decoding continues uncached, and a warning is logged.

    Raises:
        ImportError: Pillow is not installed, and there is something to decode or resize.
        FileNotFoundError: A file is missing; raised at once with a cache, otherwise when it is
            read.
        ValueError: The size or filter is invalid, or the cache file is not a cache.

    Example:
        >>> import numpy as np
        >>> from mabm.data import ImageReader, ImageSet
        >>> pixels = np.zeros((2, 3, 48, 48), dtype=np.uint8)
        >>> reader = ImageReader(ImageSet(pixels, [0, 0], [1, 2], [0, 1]))
        >>> reader[1].shape, reader.__getitems__([0, 1, 1]).shape
        (torch.Size([3, 48, 48]), torch.Size([3, 3, 48, 48]))
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        size: tuple[int, int] | None = None,
        resampling: Resampling = "bicubic",
        cache: Path | str | None = None,
    ) -> None:
        self.images = images
        self.size = _check_size(images, size)
        self.resampling = _check_resampling(resampling)
        self._cache: DecodeCache | None = None
        if not isinstance(images.images, np.ndarray):
            _require_pillow()
            if cache is not None:
                key = cache_key(images.images, self.size, self.resampling)
                name = f"images-{key}.cache"
                self._cache = DecodeCache(Path(cache) / name, len(images), (3, *self.size))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        """Returns the image of one row as (3, H, W) uint8.

        Raises:
            IndexError: The row is not in [0, N).
            ValueError: The file cannot be decoded; the message names it.
        """
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> Tensor:
        """Returns the images of some rows as (B, 3, H, W) uint8, in the order asked for.

        Raises:
            IndexError: A row is not in [0, N).
            ValueError: A file cannot be decoded; the message names it.
        """
        batch = torch.empty((len(rows), 3, *self.size), dtype=torch.uint8)
        pixels = batch.numpy()
        for place, row in enumerate(rows):
            number = operator.index(row)
            if not 0 <= number < len(self):
                raise IndexError(f"row must be in [0, {len(self)}), got {number}")
            self._read(number, pixels[place])
        return batch

    @property
    def num_cached(self) -> int:
        """Number of cached images, 0 without a cache."""
        return 0 if self._cache is None else self._cache.num_written()

    def _read(self, row: int, pixels: ByteArray) -> None:
        if self._cache is not None and self._cache.read(row, pixels):
            return
        images = self.images.images
        if not isinstance(images, np.ndarray):
            pixels[...] = decode_image(images[row], size=self.size, resampling=self.resampling)
            if self._cache is not None:
                self._cache.write(row, pixels)
        elif images.shape[2:] == self.size:
            pixels[...] = images[row]
        else:
            _require_pillow()
            from PIL import Image

            picture = Image.fromarray(np.ascontiguousarray(images[row].transpose(1, 2, 0)))
            pixels[...] = _resized(picture, self.size, self.resampling)


def decode_image(
    path: Path | str,
    *,
    size: tuple[int, int] | None = None,
    resampling: Resampling = "bicubic",
) -> ByteArray:
    """Reads one image file.

    All formats are converted to RGB: grayscale is repeated three times; 16-bit grayscale keeps its
    upper eight bits; palettes are looked up; CMYK is converted without color profiles; transparency
    is dropped, which shows the color underneath; of several frames, the first is read. The EXIF
    orientation is **not** applied: no published pipeline does so, and cameras that write one are
    rare in this field.

    Args:
        path: A file of any format that Pillow reads.
        size: Height and width to resize to; ``None`` keeps the size.
        resampling: Pillow filter for resizing, ``"bicubic"`` or ``"lanczos"``.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        ImportError: Pillow is not installed.
        OSError: The file cannot be opened (FileNotFoundError, PermissionError and the like).
        ValueError: The file is empty, not an image, truncated or damaged, or its pixels have no
            standard range (32-bit integers, floats); the message names the file. Or the filter is
            unknown.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from mabm.data import decode_image
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("L", (24, 48), 128).save(file.name)
        ...     image = decode_image(file.name, size=(288, 144))
        >>> image.shape, image.dtype
        ((3, 288, 144), dtype('uint8'))
    """
    _check_resampling(resampling)
    _require_pillow()
    from PIL import Image

    with open(path, "rb") as stream:
        try:
            with Image.open(stream) as picture:
                return _resized(_to_rgb(picture), size, resampling)
        except Exception as error:  # whatever the decoders say of damaged files
            empty = os.fstat(stream.fileno()).st_size == 0
            reason = "the file is empty" if empty else str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be decoded as an image: {reason}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        upper = np.asarray(picture).astype(np.int64) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if picture.mode in {"I", "F"}:
        raise ValueError(f"pixels of mode {picture.mode!r} have no agreed range")
    picture.load()
    picture.info.pop("transparency", None)  # dropped: without it Pillow has nothing to warn of
    return picture.convert("RGB")


def _resized(
    picture: Image.Image, size: tuple[int, int] | None, resampling: Resampling
) -> ByteArray:
    if size is not None and (picture.height, picture.width) != size:
        from PIL import Image

        picture = picture.resize((size[1], size[0]), Image.Resampling[resampling.upper()])
    return np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1)


def _check_size(images: ImageSet, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        if not isinstance(images.images, np.ndarray):
            raise ValueError("size must be (height, width) for image files, got None")
        return (images.images.shape[2], images.images.shape[3])
    height, width = (operator.index(edge) for edge in size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width), each >= 1, got {size}")
    return height, width


def _check_resampling(resampling: Resampling) -> Resampling:
    check_choice("resampling", resampling, get_args(Resampling))
    return resampling


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ImportError('reading image files needs Pillow: pip install "mabm[train]"') from error
