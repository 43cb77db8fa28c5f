"""Records of images: the form in which every data set is read.

The reader of a data set sets the modality as documented by that data set; this library never
guesses it from a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from mabm._core.arrays import IntArray

ByteArray: TypeAlias = npt.NDArray[np.uint8]

UNKNOWN: Final = -1
"""An identity or a camera that is not known, -1."""


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and what is known about it.

    Two records are equal if all their fields are; arrays are compared element by element.

    Attributes:
        image: Its file, or its pixels as a (3, H, W) uint8 array, RGB.
        identity: Identity shown, >= 0; ``None`` if unknown.
        camera: Number of the camera, >= 0, or ``UNKNOWN``.
        modality: ``VISIBLE``, ``INFRARED``, or another group >= 0.

    Example:
        >>> from pathlib import Path
        >>> from mabm.data import VISIBLE, ImageRecord
        >>> ImageRecord(Path("cam1/0001/0001.jpg"), identity=1, camera=1, modality=VISIBLE).identity
        1
    """

    image: Path | ByteArray
    identity: int | None
    camera: int
    modality: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageRecord):
            return NotImplemented
        columns = (self.identity, self.camera, self.modality)
        if columns != (other.identity, other.camera, other.modality):
            return False
        if isinstance(self.image, np.ndarray) and isinstance(other.image, np.ndarray):
            return np.array_equal(self.image, other.image)
        return type(self.image) is type(other.image) and self.image == other.image

    def __hash__(self) -> int:
        image = self.image.shape if isinstance(self.image, np.ndarray) else self.image
        return hash((image, self.identity, self.camera, self.modality))


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Sequence[ImageRecord]):
    """Many images, column by column; immutable, and a sequence of :class:`ImageRecord`.

    Args:
        images: Files as a sequence of paths, or pixels as one (N, 3, H, W) uint8 array, RGB. The
            array is not copied and must not be changed afterwards.
        identity: (N,) integers >= 0, or ``UNKNOWN``.
        camera: (N,) integers >= 0, or ``UNKNOWN``.
        modality: (N,) integers >= 0.

    Attributes:
        images: The files as a tuple, or the array, read-only.
        identity: (N,) int64, ``UNKNOWN`` if unknown; read-only, like all columns.
        camera: (N,) int64, ``UNKNOWN`` if unknown.
        modality: (N,) int64.

    Raises:
        TypeError: An array of images is not uint8, or a column does not contain integers.
        ValueError: Shapes do not fit, or a number is too small.

    Example:
        >>> from pathlib import Path
        >>> from mabm.data import INFRARED, UNKNOWN, VISIBLE, ImageSet
        >>> files = [Path("cam1/0001/0001.jpg"), Path("cam3/0001/0001.jpg")]
        >>> images = ImageSet(files, [1, UNKNOWN], [1, 3], [VISIBLE, INFRARED])
        >>> images
        ImageSet(2 files: 1 of modality 0, 1 of modality 1)
        >>> images[1].identity is None
        True
    """

    images: tuple[Path, ...] | ByteArray
    identity: IntArray
    camera: IntArray
    modality: IntArray

    def __init__(
        self,
        images: Iterable[Path] | ByteArray,
        identity: npt.ArrayLike,
        camera: npt.ArrayLike,
        modality: npt.ArrayLike,
    ) -> None:
        held: tuple[Path, ...] | ByteArray
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8:
                raise TypeError(f"images must contain uint8, got an array of {images.dtype}")
            if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
                raise ValueError(f"images must have shape (N, 3, H, W), got {images.shape}")
            held = images.view()
            held.setflags(write=False)
        else:
            held = tuple(Path(image) for image in images)
        object.__setattr__(self, "images", held)
        columns = (("identity", identity), ("camera", camera), ("modality", modality))
        for name, values in columns:
            least = 0 if name == "modality" else UNKNOWN
            object.__setattr__(self, name, _check_column(name, values, len(held), least))

    @classmethod
    def from_records(cls, records: Iterable[ImageRecord]) -> ImageSet:
        """Returns records as a set, in their order.

        Args:
            records: Records that all have files, or all have pixels of one size.

        Raises:
            ValueError: Some have files and others arrays, or arrays have different sizes.

        Example:
            >>> from pathlib import Path
            >>> from mabm.data import UNKNOWN, VISIBLE, ImageRecord, ImageSet
            >>> record = ImageRecord(Path("0001.jpg"), None, UNKNOWN, VISIBLE)
            >>> ImageSet.from_records([record])
            ImageSet(1 files: 1 of modality 0)
        """
        rows = list(records)
        columns = [
            [UNKNOWN if row.identity is None else row.identity for row in rows],
            [row.camera for row in rows],
            [row.modality for row in rows],
        ]
        arrays = [row.image for row in rows if isinstance(row.image, np.ndarray)]
        if not arrays:
            return cls([cast("Path", row.image) for row in rows], *columns)
        if len(arrays) < len(rows):
            raise ValueError(
                f"records must contain either files or arrays, got {len(rows) - len(arrays)} files "
                f"and {len(arrays)} arrays"
            )
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"records must contain arrays of one size, got {sorted(shapes)}")
        return cls(np.stack(arrays), *columns)

    def select(self, rows: npt.ArrayLike) -> ImageSet:
        """Returns the given images, in the given order.

        Args:
            rows: Integers in [0, N), repeats allowed, or an (N,) bool mask.

        Raises:
            TypeError: ``rows`` contains neither integers nor bool.
            ValueError: A mask does not fit, or an index is out of range.

        Example:
            >>> import numpy as np
            >>> from mabm.data import ImageSet
            >>> images = ImageSet(np.zeros((3, 3, 8, 4), np.uint8), [5, 6, 7], [1, 2, 3], [0, 0, 1])
            >>> images.select(images.modality == 0).identity.tolist()
            [5, 6]
        """
        asked = np.asarray(rows)
        if asked.size == 0 and asked.dtype.kind == "f":  # NumPy's dtype of an empty list
            asked = asked.astype(np.int64)
        if asked.dtype.kind not in "iub":
            raise TypeError(f"rows must be integers or a bool mask, got {asked.dtype}")
        if asked.ndim != 1 or (asked.dtype == bool and len(asked) != len(self)):
            expected = f"({len(self)},)" if asked.dtype == bool else "(R,)"
            raise ValueError(f"rows must have shape {expected}, got {asked.shape}")
        chosen = np.flatnonzero(asked) if asked.dtype == bool else asked
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(outside):
            raise ValueError(f"rows must be in [0, {len(self)}), got {outside[0]}")
        images = self.images
        return ImageSet(
            images[chosen] if isinstance(images, np.ndarray) else [images[row] for row in chosen],
            self.identity[chosen],
            self.camera[chosen],
            self.modality[chosen],
        )

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, row: slice) -> ImageSet: ...

    def __getitem__(self, row: int | slice) -> ImageRecord | ImageSet:
        if isinstance(row, slice):
            return self.select(np.arange(len(self))[row])
        identity = int(self.identity[row])
        return ImageRecord(
            image=self.images[row],
            identity=None if identity == UNKNOWN else identity,
            camera=int(self.camera[row]),
            modality=int(self.modality[row]),
        )

    def __repr__(self) -> str:
        numbers, counts = np.unique(self.modality, return_counts=True)
        parts = [f"{c} of modality {n}" for n, c in zip(numbers, counts, strict=True)]
        kind = "arrays" if isinstance(self.images, np.ndarray) else "files"
        return f"ImageSet({len(self)} {kind}{': ' if parts else ''}{', '.join(parts)})"

    # Pickled as plain state, the columns would come back writeable.
    def __reduce__(self) -> tuple[Any, ...]:
        return ImageSet, (self.images, self.identity, self.camera, self.modality)


@dataclass(frozen=True)
class ReidData:
    """A data set split into training and test images by one protocol.

    Attributes:
        name: Name of the data set, a key of ``DATA_SETS``; its protocol and searches have the same
            name.
        train: The training images. Their identities are for diagnostics only: unsupervised training
            must not use them.
        test: The test images, both queries and galleries of every search. Images of one identity
            in one camera are in the order of their file names, which drawing a gallery depends on.
        trial: Number of the trial; ``None`` if the data set has none.

    Example:
        >>> import numpy as np
        >>> from mabm.data import ImageSet, ReidData
        >>> images = ImageSet(np.zeros((2, 3, 8, 4), np.uint8), [5, 5], [1, 2], [0, 1])
        >>> ReidData("mine", train=images, test=images.select([])).train
        ImageSet(2 arrays: 1 of modality 0, 1 of modality 1)
    """

    name: str
    train: ImageSet
    test: ImageSet
    trial: int | None = None


def _check_column(name: str, values: npt.ArrayLike, length: int, least: int) -> IntArray:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)  # NumPy makes floats of an empty list
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must contain integers, got {array.dtype}")
    if array.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {array.shape}")
    if length and array.min() < least:
        raise ValueError(f"{name} must be >= {least}, got {array.min()}")
    column = array.astype(np.int64, copy=True)
    column.setflags(write=False)
    return column
