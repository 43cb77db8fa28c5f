"""The two modalities of visible-infrared re-identification: their numbers and their names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

VISIBLE: Final = 0
"""The modality of visible images, 0."""
INFRARED: Final = 1
"""The modality of infrared images, 1."""

MODALITIES: Final = (VISIBLE, INFRARED)
MODALITY_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {VISIBLE: "visible", INFRARED: "infrared"}
)
