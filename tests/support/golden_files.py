"""Outputs of the released implementations on random inputs (tests/golden/README.md)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mabm import PRESETS, Preset


@dataclass(frozen=True)
class Golden:
    """One released distance with its input and, where there are any, its DBSCAN labels by eps."""

    name: str
    features: NDArray[np.float32]
    modality: NDArray[np.int64]
    k1: int
    k2: int
    preset: Preset
    distance: NDArray[np.float32]
    labels: dict[float, NDArray[np.int64]]

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments shared by the library and its reference."""
        return {"k1": self.k1, "k2": self.k2, "preset": self.preset}

    def __str__(self) -> str:
        return f"{self.name}-{self.preset.name}"


def _read() -> list[Golden]:
    goldens = []
    for path in sorted((Path(__file__).parents[1] / "golden").glob("jaccard_*.npz")):
        with np.load(path) as data:
            for name in ("bmil", "spcl"):
                labels = {eps: data[f"{name}_dbscan_{eps}"].astype(np.int64) for eps in (0.3, 0.6)}
                goldens.append(
                    Golden(
                        path.stem,
                        data["features"],
                        data["modality"].astype(np.int64),
                        int(data["k1"]),
                        int(data["k2"]),
                        PRESETS[name],
                        data[name],
                        labels,
                    )
                )
            if "ca_jaccard" in data:
                fields = ("k1_intra", "k1_inter", "k2_intra", "k2_inter")
                lengths = dict(zip(fields, data["ca_args"].tolist(), strict=True))
                goldens.append(
                    Golden(
                        path.stem,
                        data["ca_features"],
                        data["camera"].astype(np.int64),
                        30,
                        6,
                        replace(PRESETS["ca_jaccard"], **lengths),
                        data["ca_jaccard"],
                        {},
                    )
                )
    assert goldens, "tests/golden holds no file"
    return goldens


GOLDEN = _read()
