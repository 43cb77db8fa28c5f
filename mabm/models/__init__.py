"""Encoders: networks that turn images of either modality into features."""

from mabm.models.agw import AgwResNet50
from mabm.models.encoder import Encoder
from mabm.models.encoder_files import load_encoder, save_encoder
from mabm.models.extraction import extract
from mabm.models.registry import ENCODERS
from mabm.models.timm_encoder import TimmEncoder
from mabm.models.two_stream import TwoStreamEncoder
from mabm.models.weights import (
    LoadReport,
    build_encoder,
    load_pretrained,
    load_weights,
    save_weights,
)

__all__ = [
    "ENCODERS",
    "AgwResNet50",
    "Encoder",
    "LoadReport",
    "TimmEncoder",
    "TwoStreamEncoder",
    "build_encoder",
    "extract",
    "load_encoder",
    "load_pretrained",
    "load_weights",
    "save_encoder",
    "save_weights",
]


def __dir__() -> list[str]:
    return __all__
