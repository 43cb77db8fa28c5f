"""Data sets of two modalities: published ones, your own images, and the open Emoji-XM.

Each is a record, :class:`DataSet`, in :data:`DATA_SETS`. Pillow is needed only to read image files.
"""

from mabm._core.modalities import INFRARED, VISIBLE
from mabm.data.augmentation import Augmentation, augment
from mabm.data.census import Census, take_census
from mabm.data.counts import CensusRow
from mabm.data.data_set import DataSet
from mabm.data.drawings import (
    Drawings,
    Frames,
    load_drawings,
    render_drawings,
    render_identities,
)
from mabm.data.emoji_xm import IdentitySplits, identity_splits, read_emoji_xm
from mabm.data.image_list import ListedImages, list_images, read_image_list
from mabm.data.images import ImageReader, decode_image
from mabm.data.llcm import read_llcm
from mabm.data.records import UNKNOWN, ImageRecord, ImageSet, ReidData
from mabm.data.regdb import read_regdb
from mabm.data.sets import DATA_SETS, read_data
from mabm.data.sysu_mm01 import read_sysu_mm01

__all__ = [
    "DATA_SETS",
    "INFRARED",
    "UNKNOWN",
    "VISIBLE",
    "Augmentation",
    "Census",
    "CensusRow",
    "DataSet",
    "Drawings",
    "Frames",
    "IdentitySplits",
    "ImageReader",
    "ImageRecord",
    "ImageSet",
    "ListedImages",
    "ReidData",
    "augment",
    "decode_image",
    "identity_splits",
    "list_images",
    "load_drawings",
    "read_data",
    "read_emoji_xm",
    "read_image_list",
    "read_llcm",
    "read_regdb",
    "read_sysu_mm01",
    "render_drawings",
    "render_identities",
    "take_census",
]


def __dir__() -> list[str]:
    return __all__
