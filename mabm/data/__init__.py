"""Data that ships with the library: Emoji-XM, open artwork in two modalities."""

from mabm.data.augmentation import Augmentation, augment
from mabm.data.emoji_xm import (
    INFRARED,
    VISIBLE,
    Drawings,
    Frames,
    IdentitySplits,
    identity_splits,
    load_drawings,
    render_drawings,
    render_identities,
)

__all__ = [
    "INFRARED",
    "VISIBLE",
    "Augmentation",
    "Drawings",
    "Frames",
    "IdentitySplits",
    "augment",
    "identity_splits",
    "load_drawings",
    "render_drawings",
    "render_identities",
]
