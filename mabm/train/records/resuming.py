"""The content of a checkpoint, and resuming a run from it, with the same settings only."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from torch import Tensor

from mabm._core.names import NamedMapping
from mabm.data import DATA_SETS
from mabm.distance.presets import PRESETS
from mabm.evaluation import SearchScores
from mabm.models.weights import SHIPPED
from mabm.train.config import ClusteringConfig, Config
from mabm.train.config_files import to_tree
from mabm.train.epoch import EpochState
from mabm.train.inputs import Inputs
from mabm.train.learner import Learner

KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "config": dict,
    "images": str,
    "encoder": dict,
    "optimizer": dict,
    "scaler": dict,
    "skipped": int,
    "epoch": (dict, NoneType),
    "diagnostics": (dict, NoneType),
}
"""Entries of a checkpoint of a run, and their types."""

# Settings that may differ when a run is resumed: they do not change results, except for the device,
# which rounds differently.
_FREE = (
    "data.root",
    "data.cache",
    "data.workers",
    "clustering.on_all_processes",
    "run.device",
    "run.checkpoint_every",
    "run.evaluate_every",
    "run.tensorboard",
    "run.report",
)

# Settings that are names: runs of earlier versions may have stored them in another spelling.
_NAMES: Final[Mapping[str, NamedMapping[Any]]] = {
    "data.name": DATA_SETS,
    "model.weights": SHIPPED,
}


def state_of(
    config: Config, inputs: Inputs, learner: Learner, epoch: EpochState | None
) -> dict[str, Any]:
    """Everything that a run needs to resume from its position, for a checkpoint.

    Args:
        config: Configuration of the run.
        inputs: Images of the run.
        learner: Encoder and optimizer of the run.
        epoch: State of the epoch, if the run is within one.
    """
    return {
        "config": to_tree(config),
        "images": inputs.digest(),
        **learner.state_dict(),
        "epoch": None if epoch is None else epoch.to_tree(),
        "diagnostics": None if epoch is None else epoch.diagnostics,
    }


def restore(
    state: Mapping[str, Any], config: Config, learner: Learner, stage: int, modality: Tensor
) -> EpochState | None:
    """Loads the result of :func:`state_of` into a learner.

    Args:
        state: Content of a checkpoint.
        config: Configuration of the run.
        learner: The encoder, and an optimizer for the stage.
        stage: Stage that comes next.
        modality: (N,) int64 modality of the training images.

    Returns:
        The epoch to resume; ``None`` if a new one begins.
    """
    learner.load_state_dict(state)
    if state["epoch"] is None:
        return None
    modality = modality.to(learner.device)
    epoch = EpochState.from_tree(state["epoch"], config, stage, modality)
    epoch.diagnostics = state["diagnostics"]
    return epoch


def check_same(kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises an error if settings differ from those the run started with; a few may differ.

    Args:
        kept: Configuration that the run started with, a dictionary for each table.
        now: Configuration to resume with, a dictionary for each table.

    Raises:
        ValueError: A setting differs; it is named, with both values.
    """
    before, after = _flat(kept), _flat(now)
    for name, known in _NAMES.items():
        if (spelled := known.find(before.get(name))) is not None:
            before[name] = spelled
    before, after = complete_settings(before), complete_settings(after)
    for name in sorted({*before, *after}):
        if name not in _FREE and before.get(name) != after.get(name):
            raise ValueError(
                f"{name} must be {before.get(name)!r} as in the run to resume, "
                f"got {after.get(name)!r}"
            )


# What runs did before these settings existed.
_EARLIER: Final[Mapping[str, Any]] = {
    "augmentation.erasing_fill": (123.675, 116.28, 103.53),
    "data.test_resampling": "bicubic",
    "batch.sampling": "even",
    "batch.normalization": "whole",
    "clustering.center_modalities": False,
    "clustering.on_all_processes": False,
}


def complete_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adds settings that earlier versions did not write, and the half list of the preset.

    Args:
        settings: Settings of a run by their dotted names.
    """
    preset = settings.get("clustering.preset", ClusteringConfig.preset)
    completed = {**_EARLIER, **settings, "clustering.preset": preset}
    if preset in PRESETS and completed.get("clustering.half_list") is None:
        completed["clustering.half_list"] = PRESETS[preset].half_list
    return completed


def _flat(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{table}.{key}": value for table, keys in tree.items() for key, value in keys.items()}


def last_scores(history: list[dict[str, Any]]) -> list[SearchScores]:
    """Scores of the last entry that has any; empty if there is none."""
    for entry in reversed(history):
        if "evaluation" in entry:
            return [SearchScores.from_dict(scores) for scores in entry["evaluation"].values()]
    return []
