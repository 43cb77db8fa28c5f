"""The demo's images and their features.

The encoder's features of 7,634 images take half a minute, and are the same every time. Those of
seed 0 ship in ``emoji_xm_features.npz``, which ``mabm/demo/shipping.py`` writes. Computed features
are rounded to float16 like the shipped ones, so both give the same table. The last bit of a
convolution can differ between two machines, and so can the third decimal of a score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mabm._core.arguments import check_integer
from mabm._core.arrays import IntArray
from mabm.data import identity_splits, load_drawings, render_drawings
from mabm.data.drawings import frames_of
from mabm.models import extract, load_pretrained

FloatArray = npt.NDArray[np.float32]

SHIPPED_SEED: Final = 0
SHIPPED_FILE: Final = "emoji_xm_features.npz"
_IMAGES_PER_STEP: Final = 512  # one tick of the progress bar, about a second
# Later seeds must not repeat frames of earlier ones: no camera has more frames than this.
_FRAMES_PER_SEED: Final = 3
_MAX_SEED: Final = 2**20


@dataclass(frozen=True)
class Images:
    """Images of the demo, which are rendered when they are needed.

    Attributes:
        seed: Seed that chose the frames.
        drawing: (N,) int64, row of :func:`mabm.data.load_drawings`.
        frame: (N,) int64, number of the frame of that drawing.
        identity: (N,) int64, ascending.
        camera: (N,) int64.
        modality: (N,) int64, 0 visible and 1 infrared.
    """

    seed: int
    drawing: IntArray
    frame: IntArray
    identity: IntArray
    camera: IntArray
    modality: IntArray

    def __len__(self) -> int:
        return len(self.drawing)

    def render(self, chosen: IntArray | slice) -> npt.NDArray[np.uint8]:
        """The chosen images, (M, 3, 48, 48) uint8."""
        return render_drawings(self.drawing[chosen], self.frame[chosen]).images


def list_images(identities: Sequence[int] | IntArray | None = None, seed: int = 0) -> Images:
    """Lists the images of some identities, about 10 visible and 11 infrared ones each.

    Args:
        identities: Identities of Emoji-XM, without repeats; default the 350 that the encoder has
            never seen.
        seed: Chooses the frames of each drawing, in [0, 2**20]. No two seeds share a frame.

    Raises:
        TypeError: If ``seed`` is no integer.
        ValueError: If ``seed`` or an identity is out of range, or one is repeated.
    """
    check_integer("seed", seed, at_least=0, at_most=_MAX_SEED)
    wanted = identity_splits().unlabeled if identities is None else identities
    drawing, frame = frames_of(wanted, first_frame=seed * _FRAMES_PER_SEED)
    known = load_drawings()
    return Images(
        seed,
        drawing,
        frame,
        known.identity[drawing],
        known.camera[drawing],
        known.modality[drawing],
    )


def features_of(images: Images, tick: Callable[[], object] = lambda: None) -> FloatArray:
    """Features of the images, read from the package if they ship, otherwise computed.

    Args:
        images: N images.
        tick: Called ``count_steps(images)`` times.

    Returns:
        (N, 192) float32, rounded to float16.
    """
    if not is_shipped(images):
        return compute_features(images, tick)
    identity, features = _shipped()
    chosen: FloatArray = features[np.isin(identity, images.identity)].astype(np.float32)
    return chosen


@functools.cache
def _shipped() -> tuple[IntArray, npt.NDArray[np.float16]]:
    """The identity of each image of seed 0, and its features."""
    resource = resources.files("mabm.demo").joinpath(SHIPPED_FILE)
    with resource.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return archive["identity"], archive["features"]


def is_shipped(images: Images) -> bool:
    """Whether the features of these images ship."""
    return images.seed == SHIPPED_SEED and bool(np.isin(images.identity, _shipped()[0]).all())


def count_steps(images: Images) -> int:
    """How many steps :func:`features_of` takes."""
    return 0 if is_shipped(images) else -(-len(images) // _IMAGES_PER_STEP)


def compute_features(images: Images, tick: Callable[[], object] = lambda: None) -> FloatArray:
    """Renders the images and extracts their features with the encoder that ships."""
    encoder = load_pretrained("emoji_xm")
    parts = []
    for start in range(0, len(images), _IMAGES_PER_STEP):
        chosen = slice(start, start + _IMAGES_PER_STEP)
        pixels = torch.from_numpy(images.render(chosen))
        parts.append(extract(encoder, pixels, torch.from_numpy(images.modality[chosen])))
        tick()
    features: FloatArray = torch.cat(parts).half().float().numpy()
    return features
