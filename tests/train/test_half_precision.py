"""Whole runs in bfloat16 and float16, cut short again and again: they end as if never stopped."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from extras import needs_training
from training_cases import fewer_data, history_of, small_config, weights_of

from mabm.train import inputs, train

pytestmark = [needs_training, pytest.mark.slow]

TINY = ("batch.identities=2", "batch.instances=2")
TINY += ("stage1.epochs=1", "stage1.iterations=3", "stage2.epochs=1", "stage2.iterations=3")


class Killed(BaseException):
    """Ends a run on the spot: unlike SIGTERM, it leaves no time for a checkpoint."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bits are those of one number of threads."""
    data = fewer_data(10, 2)
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: data)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed_at(moment: int) -> Callable[[], bool]:
    """A ``stop`` that kills the run when it is called for the ``moment``-th time."""
    calls = itertools.count(1)

    def stop() -> bool:
        if next(calls) == moment:
            raise Killed
        return False

    return stop


def scaling_in(folder: Path) -> list[dict[str, Any]]:
    """The state of the loss scaling in each checkpoint that is kept."""
    files = sorted(folder.glob("checkpoint-*.pt"))
    return [torch.load(file, weights_only=True)["scaler"] for file in files]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_killed_at_any_moment_it_ends_with_the_same_bits(precision: str, tmp_path: Path) -> None:
    config = small_config(*TINY, f"run.precision={precision}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole, progress=False)
    kills = 0
    # From the start of an epoch, the fourth call follows its first iteration and its checkpoint.
    for moment in itertools.chain((3, 5, 2, 4), itertools.repeat(5)):
        try:
            train(config, broken, progress=False, stop=killed_at(moment))
        except Killed:
            kills += 1
        else:
            break
    assert kills >= 4
    expected, found = weights_of(whole), weights_of(broken)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    assert history_of(whole) == history_of(broken)
    assert scaling_in(whole) == scaling_in(broken)
    if precision == "float16":  # its scale was not the one that a run begins with
        start = torch.amp.GradScaler("cpu").get_scale()
        assert history_of(whole)[1]["skipped_steps"] > 0
        assert all(0 < state["scale"] < start for state in scaling_in(whole))
