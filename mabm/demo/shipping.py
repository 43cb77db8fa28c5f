"""``python -m mabm.demo.shipping`` computes the features of seed 0 that ship with the package."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from mabm._core.files import moved_into
from mabm.demo.features import SHIPPED_FILE, SHIPPED_SEED, compute_features, list_images

logger = logging.getLogger(__name__)


def main() -> None:
    """Computes the features of seed 0 and writes them into the package."""
    path = Path(__file__).with_name(SHIPPED_FILE)
    images = list_images(seed=SHIPPED_SEED)
    features = compute_features(images).astype(np.float16)
    with moved_into(path) as stream:
        np.savez_compressed(stream, features=features, identity=images.identity)
    logger.info("saved %s, %d x %d", path, *features.shape)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
