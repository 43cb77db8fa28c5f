"""Where a run stands: what comes next, what lies behind it, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from mabm._core.names import NamedMapping
from mabm.data import DATA_SETS
from mabm.evaluation import SearchScores
from mabm.models.weights import SHIPPED
from mabm.train.checkpoint import Position
from mabm.train.config import Config

FINISHED: Final = 3
"""The stage after the last."""

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


def skip_empty_stages(config: Config, position: Position) -> Position:
    """The position, or the start of the next stage that has epochs, or the end."""
    while position.stage != FINISHED and not config.stage(position.stage).epochs:
        position = Position(position.stage + 1, 0, 0)
    return position


def name_position(position: Position) -> str:
    """What comes next, for people."""
    if position.stage == FINISHED:
        return "the end of training"
    after = f", after {position.iteration} iterations" if position.iteration else ""
    return f"stage {position.stage} epoch {position.epoch + 1}{after}"


def iterations_before(config: Config, position: Position) -> int:
    """How many iterations of a whole run lie before ``position``."""
    count = 0
    for number in (1, 2):
        stage = config.stage(number)
        if number < position.stage:
            count += stage.epochs * stage.iterations
        elif number == position.stage:
            count += position.epoch * stage.iterations + position.iteration
    return count


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


def last_entry(config: Config, position: Position) -> tuple[int, int]:
    """Stage and number of the last whole epoch before ``position``; (0, 0) is the start."""
    if position.stage != FINISHED and position.epoch:
        return position.stage, position.epoch
    for stage in range(min(position.stage - 1, 2), 0, -1):
        if config.stage(stage).epochs:
            return stage, config.stage(stage).epochs
    return 0, 0


def last_scores(history: list[dict[str, Any]]) -> list[SearchScores]:
    """Scores of the last entry that has any; none where none has."""
    for entry in reversed(history):
        if "evaluation" in entry:
            return [SearchScores.from_dict(scores) for scores in entry["evaluation"].values()]
    return []


def describe_entry(entry: Mapping[str, Any], config: Config) -> str:
    """One line on an epoch, for the log."""
    stage, epoch = entry["stage"], entry["epoch"]
    where = f"stage {stage} epoch {epoch}/{config.stage(stage).epochs}" if stage else "start"
    words = []
    if losses := entry.get("losses"):
        each = (f"{value:.3f} {name}" for name, value in losses.items())
        words.append(f"loss {', '.join(each)}")
    if clusters := entry.get("clusters"):
        each = (f"{count} {name}" for name, count in clusters.items())
        words.append(f"clusters {', '.join(each)}")
    for name, scores in entry.get("evaluation", {}).items():
        mean = scores["mean"]
        words.append(f"{name} R1 {100 * mean['rank1']:.1f} mAP {100 * mean['mAP']:.1f}")
    words.append(f"{entry['seconds']:.1f} s")
    return f"{where}: {'; '.join(words)}"
