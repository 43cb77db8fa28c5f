"""Where a run stands: what comes next, what lies behind it, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from mabm._core.names import NamedMapping
from mabm.data import DATA_SETS
from mabm.evaluation import SearchScores
from mabm.models.weights import SHIPPED

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
"""What a checkpoint of a run holds, and of which type."""

# What may differ between the start of a run and its continuation: it changes no number, but for the
# device, which rounds in its own way.
_FREE = (
    "data.root",
    "data.cache",
    "data.workers",
    "run.device",
    "run.checkpoint_every",
    "run.evaluate_every",
    "run.tensorboard",
    "run.report",
)

# Settings that are names: a run of an earlier version may have kept them in another spelling.
_NAMES: Final[Mapping[str, NamedMapping[Any]]] = {
    "data.name": DATA_SETS,
    "model.weights": SHIPPED,
}


def check_same(kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on with other settings than a run began with, those that are free left out.

    Args:
        kept: Configuration of the checkpoint, as :func:`mabm.train.config_files.to_tree` gives it.
        now: Configuration of today, likewise.

    Raises:
        ValueError: A setting differs; it is named, with both values.
    """
    before, after = _flat(kept), _flat(now)
    for name, known in _NAMES.items():
        if (spelled := known.find(before.get(name))) is not None:
            before[name] = spelled
    for name in sorted({*before, *after}):
        if name not in _FREE and before.get(name) != after.get(name):
            raise ValueError(
                f"{name} must be {before.get(name)!r} as in the run that is resumed, "
                f"got {after.get(name)!r}"
            )


def _flat(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{table}.{key}": value for table, keys in tree.items() for key, value in keys.items()}


def last_scores(history: list[dict[str, Any]]) -> list[SearchScores]:
    """Scores of the last entry that has any; none where none has."""
    for entry in reversed(history):
        if "evaluation" in entry:
            return [SearchScores.from_dict(scores) for scores in entry["evaluation"].values()]
    return []
