"""Positions in a run, and the seeds of the random numbers drawn there.

Everything random in a run is drawn from the run's seed and a position. A run that is resumed from a
checkpoint therefore draws the same numbers as without the interruption.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from mabm.train.config import Config

STAGES: Final = (1, 2)
"""Numbers of the stages; each has a table in the configuration and its contrasts."""

FINISHED: Final = STAGES[-1] + 1
"""The stage number of the position after the last epoch."""


class Position(NamedTuple):
    """A place in a run: what comes next. Positions compare in the order of a run.

    Attributes:
        stage: 1 or 2; ``FINISHED`` (3) at the end.
        epoch: Number of the epoch within the stage, from 0.
        iteration: Number of the iteration within the epoch, from 0.
    """

    stage: int
    epoch: int = 0
    iteration: int = 0

    def seed(self, run_seed: int, stream: int, *more: int) -> int:
        """A seed in [0, 2**63) for the random numbers at this position.

        Args:
            run_seed: Seed of the run.
            stream: Separates the random numbers of different contrasts at one position.
            more: Separates several draws of one contrast.
        """
        key = (run_seed, *self, stream, *more)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    def __str__(self) -> str:
        if self.stage == FINISHED:
            return "the end of training"
        after = f", after {self.iteration} iterations" if self.iteration else ""
        return f"stage {self.stage} epoch {self.epoch + 1}{after}"


def skip_empty_stages(config: Config, position: Position) -> Position:
    """Moves a position in a stage without epochs to the next stage with epochs, or to the end."""
    while position.stage != FINISHED and not config.stage(position.stage).epochs:
        position = Position(position.stage + 1)
    return position


def next_epoch(config: Config, position: Position) -> Position:
    """The start of the epoch after that of ``position``, in its stage or the next, or the end."""
    if position.epoch + 1 < config.stage(position.stage).epochs:
        return Position(position.stage, position.epoch + 1)
    return skip_empty_stages(config, Position(position.stage + 1))


def last_epoch(config: Config, position: Position) -> tuple[int, int]:
    """Stage and number, from 1, of the last whole epoch before ``position``; (0, 0) if none."""
    if position.stage != FINISHED and position.epoch:
        return position.stage, position.epoch
    for stage in reversed(STAGES):
        if stage < position.stage and config.stage(stage).epochs:
            return stage, config.stage(stage).epochs
    return 0, 0


def count_iterations(config: Config, before: Position) -> int:
    """Number of iterations of a whole run before a position."""
    count = 0
    for number in STAGES:
        stage = config.stage(number)
        if number < before.stage:
            count += stage.epochs * stage.iterations
        elif number == before.stage:
            count += before.epoch * stage.iterations + before.iteration
    return count
