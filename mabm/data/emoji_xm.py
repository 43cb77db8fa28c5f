"""Emoji-XM: the same emoji drawn by several vendors, in color and in monochrome.

Real visible-infrared person data requires a license, so none of it can ship. Emoji-XM is open
artwork with a real modality gap: color art plays the visible camera, monochrome art the infrared
camera. Identity = emoji, camera = artwork set, vendor = maker. Color helps within visible and is
useless across modalities, as in the real task. **These are drawings, not photographs**: say so
wherever a figure made from them is shown.

Frames are rendered on the fly from the drawings (:mod:`mabm.data.drawings`). Sources and licenses
of the artwork are in ``ATTRIBUTION.md`` next to this file.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from mabm._core.arrays import IntArray
from mabm._core.modalities import INFRARED, VISIBLE
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.data.data_set import DataSet
from mabm.data.drawings import load_drawings, render_identities
from mabm.data.records import ImageSet, ReidData

NAME: Final = "emoji_xm"
NUM_START_VISIBLE: Final = 176
NUM_START_INFRARED: Final = 177


@dataclass(frozen=True)
class IdentitySplits:
    """Disjoint groups of identities that together are all of Emoji-XM, each ascending, int64.

    Attributes:
        start_visible: (176,) labeled identities for pretraining, used in visible only.
        start_infrared: (177,) labeled identities for pretraining, used in infrared only. They
            differ from ``start_visible``, so no cross-modality pair is ever given.
        unlabeled: (350,) identities for unsupervised learning, not used in pretraining.
        test: (234,) identities for final evaluation, never used to choose anything.

    Example:
        >>> from mabm.data import identity_splits
        >>> splits = identity_splits()
        >>> len(splits.unlabeled), len(splits.test)
        (350, 234)
    """

    start_visible: IntArray
    start_infrared: IntArray
    unlabeled: IntArray
    test: IntArray


@functools.cache
def identity_splits() -> IdentitySplits:
    """The fixed split of the 937 identities.

    Test identities are marked in the data. The 703 others are ordered by the SHA-256 of their name,
    an arbitrary order that does not depend on a random generator: the first 176 are
    ``start_visible``, the next 177 ``start_infrared``, the last 350 ``unlabeled``.

    Returns:
        The groups, which are disjoint.

    Example:
        >>> from mabm.data import identity_splits
        >>> splits = identity_splits()
        >>> bool(set(splits.unlabeled) & set(splits.test))
        False
    """
    drawings = load_drawings()

    def digest(identity: int) -> bytes:
        return hashlib.sha256(str(drawings.identity_name[identity]).encode()).digest()

    training = sorted(np.flatnonzero(~drawings.is_test).tolist(), key=digest)
    start = NUM_START_VISIBLE + NUM_START_INFRARED
    groups = [
        np.sort(np.array(group, dtype=np.int64))
        for group in (
            training[:NUM_START_VISIBLE],
            training[NUM_START_VISIBLE:start],
            training[start:],
            np.flatnonzero(drawings.is_test),
        )
    ]
    for group in groups:
        group.setflags(write=False)
    return IdentitySplits(*groups)


def read_emoji_xm() -> ReidData:
    """Renders Emoji-XM as a data set to train and test on: 88 MB, in a few seconds.

    Returns:
        The frames of the 350 unlabeled identities, for training, and of the 234 test identities,
        both ordered by identity, camera and frame number. The two are disjoint, and the shipped
        encoder was trained on none of them.

    Example:
        >>> from mabm.data import read_emoji_xm
        >>> data = read_emoji_xm()
        >>> data.train
        ImageSet(7634 arrays: 3476 of modality 0, 4158 of modality 1)
    """
    splits = identity_splits()
    parts = [render_identities(identities) for identities in (splits.unlabeled, splits.test)]
    train, test = (ImageSet(p.images, p.identity, p.camera, p.modality) for p in parts)
    return ReidData(NAME, train=train, test=test)


def _identity_name(identity: int) -> str:
    return str(load_drawings().identity_name[identity])


def _camera_name(camera: int) -> str:
    return str(load_drawings().camera_source[camera - 1])


# Cameras of one maker, whose color and monochrome drawings are alike: emojione, Microsoft, Google
# (ATTRIBUTION.md). Queries must not be matched by the style of a maker.
_SAME_VENDOR: Final = ((6, 4), (7, 5), (8, 1), (8, 2))
_PROTOCOL: Final = RetrievalProtocol(
    NAME, excluded_cameras=_SAME_VENDOR + tuple((b, a) for a, b in _SAME_VENDOR)
)

DATA_SET: Final = DataSet(
    name=NAME,
    reader=read_emoji_xm,
    ships=True,
    search_tasks=(
        SearchTask(NAME, "infrared-to-visible", INFRARED, VISIBLE, _PROTOCOL),
        SearchTask(NAME, "visible-to-infrared", VISIBLE, INFRARED, _PROTOCOL),
    ),
    identity_name=_identity_name,
    camera_name=_camera_name,
    note="Emoji-XM: drawings, not photographs. Color emoji play the visible camera, monochrome "
    "ones the infrared camera.",
    more_configs=("emoji_xm_smoke",),
)
