"""Positions in a run: their order, what lies before and after them, and their names."""

import itertools

import pytest
from extras import needs_training

from mabm.train import Config, StageConfig
from mabm.train.position import (
    FINISHED,
    STAGES,
    Position,
    count_iterations,
    last_epoch,
    next_epoch,
    skip_empty_stages,
)

pytestmark = needs_training

END = Position(FINISHED)


def config_of(first: int, second: int) -> Config:
    """Stages of so many epochs, of three and of five iterations."""
    return Config(
        stage1=StageConfig(epochs=first, iterations=3),
        stage2=StageConfig(epochs=second, iterations=5),
    )


def whole_run(config: Config) -> list[Position]:
    """Where each epoch of a run begins, and its end."""
    positions = [skip_empty_stages(config, Position(STAGES[0]))]
    while positions[-1] != END:
        positions.append(next_epoch(config, positions[-1]))
    return positions


@pytest.mark.parametrize(("first", "second"), [(2, 3), (0, 2), (2, 0), (0, 0)])
def test_a_run_takes_each_epoch_of_its_stages_once(first: int, second: int) -> None:
    config = config_of(first, second)
    epochs = [(1, epoch) for epoch in range(first)] + [(2, epoch) for epoch in range(second)]
    positions = whole_run(config)
    assert positions == [*itertools.starmap(Position, epochs), END]
    assert positions == sorted(positions)
    numbers = [(0, 0), *((stage, epoch + 1) for stage, epoch in epochs)]
    assert [last_epoch(config, position) for position in positions] == numbers
    before = [0, *itertools.accumulate(3 if stage == 1 else 5 for stage, _ in epochs)]
    assert [count_iterations(config, position) for position in positions] == before


def test_within_an_epoch() -> None:
    config, position = config_of(2, 3), Position(2, 1, 4)
    assert next_epoch(config, position) == Position(2, 2)
    assert skip_empty_stages(config, position) == position
    assert last_epoch(config, position) == (2, 1)
    assert last_epoch(config, Position(2, 0, 4)) == (1, 2)
    assert count_iterations(config, position) == 2 * 3 + 5 + 4
    assert Position(2, 1) < position < Position(2, 2)


@pytest.mark.parametrize(
    ("position", "name"),
    [
        (Position(1), "stage 1 epoch 1"),
        (Position(2, 3, 7), "stage 2 epoch 4, after 7 iterations"),
        (END, "the end of training"),
    ],
)
def test_a_position_has_a_name(position: Position, name: str) -> None:
    assert str(position) == name
