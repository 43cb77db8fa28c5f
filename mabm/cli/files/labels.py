"""Labels of ``mabm cluster``: written to a file or standard output, and read by ``mabm assign``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import torch

from mabm._core.arguments import check_choice, shown
from mabm._core.arrays import IntArray, to_tensor
from mabm._core.columns import check_column
from mabm.cli.command import write
from mabm.cli.files.arrays import Source, open_arrays, suffix_of
from mabm.cli.files.inputs import STANDARD
from mabm.cli.files.outputs import save_arrays
from mabm.cluster.dbscan import DBSCAN
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import PRESETS

KINDS: Final = (".npy", ".csv", ".npz")
"""Extensions of the files that labels can be written to."""


@dataclass(frozen=True)
class Settings:
    """Settings of a clustering, stored as JSON with its labels in ``.npz``.

    Attributes:
        clusterer: DBSCAN with its parameters.
        distance: The options of the distance, with a published preset.
        modality_names: Names of the modalities 0, 1, ... if the input had words.
        center_modalities: Whether features were centered by modality first.
    """

    clusterer: DBSCAN = field(default_factory=DBSCAN)
    distance: DistanceOptions = field(default_factory=DistanceOptions)
    modality_names: tuple[str, ...] | None = None
    center_modalities: bool = False

    def __post_init__(self) -> None:
        """Rejects names that are not words, since a file may contain anything."""
        if not all(isinstance(name, str) for name in self.modality_names or ()):
            raise TypeError(f"modality_names must be words, got {shown(self.modality_names)}")

    def to_json(self) -> str:
        """The settings as JSON, which :meth:`from_json` reads."""
        distance = self.distance
        values = {
            "eps": self.clusterer.eps,
            "min_samples": self.clusterer.min_samples,
            "k1": distance.k1,
            "k2": distance.k2,
            "preset": distance.preset.name,
            "precision": distance.precision,
            "modality_names": self.modality_names,
        }
        if self.center_modalities:  # files without it can be read by earlier versions
            values["center_modalities"] = True
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Reads the text of :meth:`to_json`.

        Raises:
            ValueError: The text is something else.
        """
        try:
            values = json.loads(text)
            names = values.pop("modality_names")
            centered = bool(values.pop("center_modalities", False))
            clusterer = DBSCAN(values.pop("eps"), values.pop("min_samples"))
            check_choice("preset", values["preset"], tuple(PRESETS))
            distance = DistanceOptions.resolve(**values, num_groups=1)
            settings = cls(clusterer, distance, None if names is None else tuple(names), centered)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"settings must be as mabm cluster writes them: {error}") from error
        return settings


def write_labels(
    typed: str, labels: IntArray, beside: Mapping[str, npt.NDArray[Any] | None]
) -> None:
    """Writes labels to a file, or one per line to standard output for ``-``.

    Args:
        typed: ``-``, or a file of one of ``KINDS``.
        labels: (N,) int64.
        beside: Arrays that ``.npz`` stores with the labels; those that are ``None`` are left out.

    Raises:
        OSError: The file or standard output cannot be written to.
        OutputClosedError: Nothing reads standard output any more.
    """
    if typed == STANDARD:
        if len(labels):
            write("\n".join(map(str, labels.tolist())))
        return
    arrays: dict[str, npt.NDArray[Any]] = {"labels": labels}
    if suffix_of(Path(typed)) == ".npz":
        arrays |= {name: array for name, array in beside.items() if array is not None}
    save_arrays(Path(typed), arrays)


def read_clustering(path: Path) -> tuple[PseudoLabels[torch.Tensor], Settings]:
    """Reads what ``mabm cluster`` wrote to ``.npz``: labels, modality, core samples, settings.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is of another kind, or one of these arrays is missing.
    """
    remedy = "write it with mabm cluster --output labels.npz"
    source = Source.of(path)
    if source.kind != ".npz":
        raise ValueError(f"--labels must be the .npz file of a clustering, got {path}: {remedy}")
    arrays = open_arrays(source)
    missing = [name for name in ("labels", "core", "settings") if name not in arrays]
    if missing:
        raise ValueError(f"{path} must contain {', '.join(missing)} of a clustering: {remedy}")
    try:
        settings = Settings.from_json(str(arrays["settings"].read()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    columns: dict[str, Any] = {}
    try:
        for name in {"labels", "modality"} & set(arrays):
            columns[name] = check_column(arrays[name].read(), None, name, "one per row of features")
        columns["core"] = to_tensor(arrays["core"].read(), "core")
        return PseudoLabels(**columns), settings
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
