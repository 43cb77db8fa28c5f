"""Encoders: networks that turn images of either modality into features."""

from mabm.models.two_stream import (
    TwoStreamEncoder,
    extract,
    load_pretrained,
    load_weights,
    save_weights,
)

__all__ = ["TwoStreamEncoder", "extract", "load_pretrained", "load_weights", "save_weights"]
