"""The drawings of Emoji-XM, and the frames rendered from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mabm._core.arrays import IntArray
from mabm._core.modalities import INFRARED, VISIBLE
from mabm.data.records import ByteArray

FloatArray = npt.NDArray[np.float32]

FRAME_SIZE: Final = 48  # pixels; drawings and frames are square and of one size

# Bounds the memory of one rendering step: 512 frames are about 19 MB per float buffer.
_RENDER_CHUNK: Final = 512
# Gaussian blur of at most 1 px: beyond 3 px a weight is below 0.5 % of the center's.
_BLUR_RADIUS: Final = 3
_BACKGROUND_GRID: Final = 4


@dataclass(frozen=True)
class Drawings:
    """Every drawing of Emoji-XM, one row each; visible rows first. All arrays are read-only.

    Attributes:
        rgba: (R, 48, 48, 4) uint8, straight (not premultiplied) alpha. Infrared rows repeat their
            luminance three times.
        identity: (R,) int64, index into ``identity_name``.
        camera: (R,) int64, 1..5 visible, 6..9 infrared.
        modality: (R,) int64, ``VISIBLE`` or ``INFRARED``.
        vendor: (R,) str, maker of the drawing. One vendor can own several cameras.
        identity_name: (937,) str.
        is_test: (937,) bool, identities never used to choose anything.
        camera_source: (9,) str, artwork set of cameras 1..9.

    Example:
        >>> from mabm.data import load_drawings
        >>> drawings = load_drawings()
        >>> len(drawings), drawings.camera_source[drawings.camera[0] - 1].item()
        (8343, 'noto')
    """

    rgba: ByteArray
    identity: IntArray
    camera: IntArray
    modality: IntArray
    vendor: npt.NDArray[np.str_]
    identity_name: npt.NDArray[np.str_]
    is_test: npt.NDArray[np.bool_]
    camera_source: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True)
class Frames:
    """Rendered images with their identity, camera and modality.

    Attributes:
        images: (N, 3, 48, 48) uint8, RGB; infrared frames repeat their single channel three times.
        identity: (N,) int64.
        camera: (N,) int64, 1..9.
        modality: (N,) int64, ``VISIBLE`` or ``INFRARED``.

    Example:
        >>> from mabm.data import identity_splits, render_identities
        >>> frames = render_identities(identity_splits().test[:2])
        >>> len(frames), frames.images.shape[1:]
        (44, (3, 48, 48))
    """

    images: ByteArray
    identity: IntArray
    camera: IntArray
    modality: IntArray

    def __len__(self) -> int:
        return len(self.images)


@functools.cache
def load_drawings() -> Drawings:
    """Loads all drawings from the package (78 MB in memory, kept for the life of the process).

    Returns:
        The 8,343 drawings: 4,642 visible and 3,701 infrared, of 937 identities.

    Example:
        >>> from mabm.data import INFRARED, load_drawings
        >>> int((load_drawings().modality == INFRARED).sum())
        3701
    """
    resource = resources.files("mabm.data").joinpath("emoji_xm.npz")
    with resource.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        visible = archive["visible"]
        infrared = archive["infrared"]
        rgba = np.concatenate([visible, infrared[..., [0, 0, 0, 1]]])
        camera = _joined(archive, "camera")
        drawings = Drawings(
            rgba=rgba,
            identity=_joined(archive, "identity"),
            camera=camera,
            modality=np.repeat(np.array([VISIBLE, INFRARED]), [len(visible), len(infrared)]),
            vendor=archive["camera_vendor"][camera - 1],
            identity_name=archive["identity_name"],
            is_test=archive["is_test"],
            camera_source=archive["camera_source"],
        )
    for array in vars(drawings).values():
        array.setflags(write=False)
    return drawings


def _joined(archive: Any, field: str) -> IntArray:
    parts = [archive[f"visible_{field}"], archive[f"infrared_{field}"]]
    return np.concatenate(parts).astype(np.int64)


def render_identities(
    identities: Sequence[int] | IntArray,
    *,
    visible_frames: int = 2,
    infrared_frames: int = 3,
    first_frame: int = 0,
) -> Frames:
    """Renders every camera's frames of some identities, about 10 visible and 11 infrared ones each.

    Args:
        identities: Identities to render, each in [0, 937), no repeats. Their order does not matter.
        visible_frames: Frames per visible drawing, >= 0.
        infrared_frames: Frames per infrared drawing, >= 0.
        first_frame: Number of the first frame; different numbers give different frames.

    Returns:
        Frames ordered by identity, then camera, then frame number.

    Raises:
        ValueError: If an identity is out of range or repeated, or a count is negative.

    Example:
        >>> from mabm.data import identity_splits, render_identities
        >>> frames = render_identities(identity_splits().unlabeled[:3], visible_frames=1)
        >>> sorted(set(frames.modality.tolist()))
        [0, 1]
    """
    return render_drawings(
        *frames_of(
            identities,
            visible_frames=visible_frames,
            infrared_frames=infrared_frames,
            first_frame=first_frame,
        )
    )


def frames_of(
    identities: Sequence[int] | IntArray,
    *,
    visible_frames: int = 2,
    infrared_frames: int = 3,
    first_frame: int = 0,
) -> tuple[IntArray, IntArray]:
    """The frames that :func:`render_identities` renders, as the arguments of `render_drawings`.

    Returns:
        (N,) int64 rows of ``load_drawings()``, and (N,) int64 frame numbers.

    Raises:
        ValueError: If an identity is out of range or repeated, or a count is negative.
    """
    drawings = load_drawings()
    wanted = np.asarray(identities, dtype=np.int64).reshape(-1)
    num_identities = len(drawings.identity_name)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < num_identities):
        outside = wanted[(wanted < 0) | (wanted >= num_identities)][0]
        raise ValueError(f"identities must be in [0, {num_identities}), got {outside}")
    if np.unique(wanted).size != wanted.size:
        raise ValueError(f"identities must not repeat, got {wanted.size} with repeats")
    for name, value in (
        ("visible_frames", visible_frames),
        ("infrared_frames", infrared_frames),
        ("first_frame", first_frame),
    ):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")

    rows = np.flatnonzero(np.isin(drawings.identity, wanted))
    rows = rows[np.lexsort((drawings.camera[rows], drawings.identity[rows]))]
    counts = np.where(drawings.modality[rows] == VISIBLE, visible_frames, infrared_frames)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    frame = first_frame + np.arange(counts.sum()) - starts
    return np.repeat(rows, counts), frame


def render_drawings(rows: IntArray, frame: IntArray) -> Frames:
    """Renders one frame of each given drawing.

    A frame depends on (identity, camera, frame number) and nothing else: neither on the batch it is
    rendered in nor on any global random state, which is left untouched.

    Every frame: scale 0.75-1, rotation +-10 degrees, random position inside the frame, 20 % chance
    of an occluding rectangle of 6-14 px, composited by alpha. Visible: soft colored background
    (one color +-25), gain 0.6-1.2, offset +-15. Infrared: dark gray background, inverted luminance
    (hot is bright), blur 0.4-1.0 px, gain 0.5-0.9, +20, noise of standard deviation 10.

    Args:
        rows: (N,) int64 row of ``load_drawings()`` for each frame; any order, repeats allowed.
        frame: (N,) int64 frame number, >= 0.

    Returns:
        N frames, in the order given.

    Raises:
        ValueError: If the shapes differ or a value is out of range.

    Example:
        >>> import numpy as np
        >>> from mabm.data import render_drawings
        >>> frames = render_drawings(np.array([0, 0]), np.array([0, 1]))  # of one drawing
        >>> frames.identity[0] == frames.identity[1]
        np.True_
    """
    drawings = load_drawings()
    rows = np.asarray(rows, dtype=np.int64)
    frame = np.asarray(frame, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != frame.shape:
        raise ValueError(
            f"rows and frame must both have shape (N,), got {rows.shape} and {frame.shape}"
        )
    if rows.size and not (rows.min() >= 0 and rows.max() < len(drawings)):
        outside = rows[(rows < 0) | (rows >= len(drawings))][0]
        raise ValueError(f"rows must be in [0, {len(drawings)}), got {outside}")
    if frame.size and frame.min() < 0:
        raise ValueError(f"frame must be >= 0, got {frame.min()}")

    images = np.empty((len(rows), 3, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
    modality = drawings.modality[rows]
    for group, render in ((VISIBLE, _render_visible), (INFRARED, _render_infrared)):
        members = np.flatnonzero(modality == group)
        for start in range(0, len(members), _RENDER_CHUNK):
            chunk = members[start : start + _RENDER_CHUNK]
            images[chunk] = render(drawings, rows[chunk], frame[chunk])
    return Frames(images, drawings.identity[rows], drawings.camera[rows], modality)


def _generators(drawings: Drawings, rows: IntArray, frame: IntArray) -> list[np.random.Generator]:
    keys = zip(drawings.identity[rows], drawings.camera[rows], frame, strict=True)
    return [np.random.default_rng([int(i), int(c), int(f)]) for i, c, f in keys]


def _render_visible(drawings: Drawings, rows: IntArray, frame: IntArray) -> ByteArray:
    rngs = _generators(drawings, rows, frame)
    pose = _uniform(rngs, 10)
    color = _uniform(rngs, 6)
    grid = _uniform(rngs, 3 * _BACKGROUND_GRID**2).view(-1, 3, _BACKGROUND_GRID, _BACKGROUND_GRID)
    base = _between(color[:, :1], 110, 200) + _between(color[:, 1:4], -45, 45)
    size = (FRAME_SIZE, FRAME_SIZE)
    unevenness = F.interpolate(grid, size=size, mode="bilinear", align_corners=True)
    art = torch.from_numpy(drawings.rgba[rows]).permute(0, 3, 1, 2).float()
    scene = _composite(art, base[:, :, None, None] + _between(unevenness, -25, 25), pose)
    gain = _between(color[:, 4], 0.6, 1.2)[:, None, None, None]
    offset = _between(color[:, 5], -15, 15)[:, None, None, None]
    return _to_bytes(scene * gain + offset)


def _render_infrared(drawings: Drawings, rows: IntArray, frame: IntArray) -> ByteArray:
    rngs = _generators(drawings, rows, frame)
    pose = _uniform(rngs, 10)
    tone = _uniform(rngs, 3)
    shape = (FRAME_SIZE, FRAME_SIZE)
    noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
    art = torch.from_numpy(drawings.rgba[rows][..., 2:]).permute(0, 3, 1, 2).float()
    art[:, 0] = 255 - art[:, 0]
    background = _between(tone[:, 0], 20, 70)[:, None, None, None].expand(-1, 1, *shape)
    scene = _blur(_composite(art, background, pose), _between(tone[:, 1], 0.4, 1.0))
    gain = _between(tone[:, 2], 0.5, 0.9)[:, None, None, None]
    return _to_bytes(scene * gain + 20 + 10 * torch.from_numpy(noise)[:, None])


def _composite(art: torch.Tensor, background: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """Places drawings, (N, C + 1, S, S) with alpha last, and occluders on (N, C, S, S)."""
    scale = _between(pose[:, 0], 0.75, 1.0)
    angle = torch.deg2rad(_between(pose[:, 1], -10, 10))
    # In grid_sample's units the frame spans [-1, 1], so a drawing of this scale has 1 - scale to
    # move.
    shift_x = _between(pose[:, 2], -1, 1) * (1 - scale)
    shift_y = _between(pose[:, 3], -1, 1) * (1 - scale)
    axis = (2 * torch.arange(FRAME_SIZE) + 1) / FRAME_SIZE - 1
    x = (axis[None, None, :] - shift_x[:, None, None]) / scale[:, None, None]
    y = (axis[None, :, None] - shift_y[:, None, None]) / scale[:, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    grid = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)

    # Interpolating premultiplied color keeps transparent pixels from bleeding into the edges.
    alpha = art[:, -1:] / 255
    premultiplied = torch.cat([art[:, :-1] * alpha, alpha], dim=1)
    placed = F.grid_sample(premultiplied, grid, mode="bilinear", align_corners=False)
    scene = placed[:, :-1] + (1 - placed[:, -1:]) * background

    occluded = pose[:, 4] < 0.2
    width, height = torch.floor(_between(pose[:, 5:7], 6, 15)).unbind(1)
    left = torch.floor(pose[:, 7] * (FRAME_SIZE + 1 - width))
    top = torch.floor(pose[:, 8] * (FRAME_SIZE + 1 - height))
    pixel = torch.arange(FRAME_SIZE)
    inside_x = (pixel >= left[:, None]) & (pixel < (left + width)[:, None])
    inside_y = (pixel >= top[:, None]) & (pixel < (top + height)[:, None])
    hidden = (occluded[:, None, None] & inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(hidden, (255 * pose[:, 9])[:, None, None, None], scene)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of (N, 1, S, S) by (N,) pixels, edges repeated."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    r = _BLUR_RADIUS
    for dim, padding in ((3, (r, r, 0, 0)), (2, (0, 0, r, r))):
        padded = F.pad(images, padding, mode="replicate")
        images = sum(
            (
                weights[:, tap, None, None, None] * padded.narrow(dim, tap, FRAME_SIZE)
                for tap in range(len(offsets))
            ),
            start=torch.zeros(()),
        )
    return images


def _uniform(rngs: list[np.random.Generator], count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([rng.random(count, dtype=np.float32) for rng in rngs]))


def _between(unit: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * unit


def _to_bytes(images: torch.Tensor) -> ByteArray:
    rounded: ByteArray = images.round().clamp(0, 255).to(torch.uint8).numpy()
    return rounded
