"""Small test sets with the cameras of each data set."""

import numpy as np


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_test_set(data: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A small test set with the cameras of a data set; identities overlap in feature space."""
    cameras = {
        "sysu_mm01": [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0), (6, 1)],
        "regdb": [(1, 0), (2, 1)],
        "llcm": [(c, 0) for c in range(1, 10)] + [(c, 1) for c in (1, 2, 4, 5, 6, 7, 8, 9)],
        "emoji_xm": [(c, int(c > 5)) for c in range(1, 10)],
        "image_list": [(1, 0), (1, 1), (2, 0), (3, 1)],
    }[data]
    rng = np.random.default_rng(seed)
    rows = [
        (identity, camera, modality)
        for identity in rng.permutation(12).tolist()
        for camera, modality in cameras
        if rng.random() < 0.8
        for _ in range(int(rng.integers(1, 4)))
    ]
    identity, camera, modality = np.array(rows).T
    centers = rng.normal(size=(12, 16))
    features = unit(centers[identity] + 1.2 * rng.normal(size=(len(rows), 16)))
    return {
        "features": features.astype(np.float32),
        "identity": identity,
        "camera": camera,
        "modality": modality,
    }
