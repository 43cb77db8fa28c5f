"""Clusters as boxes of tiles: color drawings above, monochrome ones below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mabm._core.arrays import IntArray

_NUM_OTHERS: Final = 2  # tiles of other identities in a box; how many more there are is written
# In tiles: a box around its tiles, between two boxes, from one line to the next, and what is left
# for how many more there are.
_MARGIN: Final = 0.07
_GAP: Final = 0.12
_LINE: Final = 1.22
_MORE_TILES: Final = 0.6


@dataclass(frozen=True)
class Box:
    """What is shown of one cluster, or of the noise.

    Attributes:
        own: Images of the identity, the first of each drawing.
        others: Images of other identities, at most two, evenly spaced.
        num_more: Images of other identities that are not shown.
        is_cluster: Whether it is a cluster; noise has no box.
    """

    own: tuple[int, ...]
    others: tuple[int, ...]
    num_more: int
    is_cluster: bool

    @property
    def images(self) -> tuple[int, ...]:
        """All images that are shown."""
        return (*self.own, *self.others)


@dataclass(frozen=True)
class Place:
    """Where a box is, in tiles from the upper left corner of its panel."""

    column: float
    line: float
    width: float
    height: float
    tiles: dict[int, tuple[float, float]]


def boxes_of(labels: IntArray, identity: int, identities: IntArray, cameras: IntArray) -> list[Box]:
    """The boxes that contain the first image of each drawing of an identity, fullest first.

    Args:
        labels: (N,) int64, -1 for noise.
        identity: Which one.
        identities: (N,) int64, ascending.
        cameras: (N,) int64, one drawing of an identity each.
    """
    own = np.flatnonzero(identities == identity)
    first = own[np.unique(cameras[own], return_index=True)[1]]
    boxes = []
    for label in np.unique(labels[first]):
        members = first[labels[first] == label]
        others = np.flatnonzero((labels == label) & (identities != identity))
        if label < 0:
            others = others[:0]
        shown = others[np.linspace(0, len(others) - 1, min(_NUM_OTHERS, len(others))).astype(int)]
        boxes.append(
            Box(
                tuple(members.tolist()),
                tuple(shown.tolist()),
                len(others) - len(shown),
                bool(label >= 0),
            )
        )
    return sorted(boxes, key=lambda box: (not box.is_cluster, -len(box.own), box.own))


def place_boxes(boxes: Sequence[Box], modality: IntArray) -> Iterator[tuple[Box, Place]]:
    """Places boxes from left to right: visible tiles on the upper line, infrared on the lower one.

    A box of one modality uses only its line, so two of them can be above each other.
    """
    ends = [0.0, 0.0]
    for box in boxes:
        lines = [[index for index in box.images if modality[index] == line] for line in range(2)]
        used = [line for line in range(2) if lines[line]]
        start = max(ends[line] for line in used)
        longest = max(len(line) for line in lines)
        width = longest + 2 * _MARGIN + (_MORE_TILES if box.num_more else 0)
        tiles = {
            index: (start + _MARGIN + place, _LINE * line + _MARGIN)
            for line in used
            for place, index in enumerate(lines[line])
        }
        height = _LINE * (len(used) - 1) + 1 + 2 * _MARGIN
        yield box, Place(start, _LINE * used[0], width, height, tiles)
        for line in used:
            ends[line] = start + width + _GAP
