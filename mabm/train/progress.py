"""The progress of a run: a progress bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm.train import distributed
from mabm.train.config import Config
from mabm.train.inputs import Inputs
from mabm.train.position import FINISHED, STAGES, Position, count_iterations
from mabm.train.records.files import REPORT

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES: Final = 60.0
_WITHOUT_BFLOAT16: Final = ("AVX2", "NO AVX")  # PyTorch's names for x86 CPUs


class Progress:
    """Shows the progress of a run and the estimated time left in the stage.

    Args:
        config: Configuration of the run.
        bar: Whether to show a bar; without one, a line is logged every minute, and the lines about
            epochs include the time left.
        speaks: Whether this process shows or logs anything; true for the first of several.
    """

    def __init__(self, config: Config, *, bar: bool, speaks: bool) -> None:
        self._config = config
        self._shows_bar, self._speaks = bar and speaks, speaks
        self._bar: tqdm[Any] | None = None
        self._pace = _Pace(-1)
        self._said = time.monotonic()

    def announce(self, inputs: Inputs, device: torch.device, folder: Path) -> None:
        """Logs the device, the data, the length of the run, and where results are written."""
        if not self._speaks:
            return
        on = [_name(device), _count(torch.get_num_threads(), "thread", "threads")]
        if (processes := distributed.world_size()) > 1:
            on.append(f"the first of {processes} processes")
        images = " and ".join(
            f"{int((inputs.modality == group).sum()):,} {MODALITY_NAMES[group]}"
            for group in MODALITIES
        )
        tested = (
            f"{len(inputs.test)} test images" if len(inputs.test) else "no test images: no scores"
        )
        logger.info("on %s: %s training images, %s", ", ".join(on), images, tested)
        if self._config.batch.cameras and inputs.cameras is None:
            logger.info("no cameras are known: images of a cluster are drawn from any camera")
        if (
            self._config.run.precision == "bfloat16"
            and device.type == "cpu"
            and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BFLOAT16
        ):
            logger.warning(
                "this CPU has no bfloat16 instructions, so bfloat16 convolutions are many times "
                "slower than float32: stop, and start again with --set run.precision=float32 in "
                "another folder"
            )
        stages = [
            f"stage {number}: {_count(stage.epochs, 'epoch', 'epochs')} of "
            f"{_count(stage.iterations, 'iteration', 'iterations')}"
            for number, stage in ((n, self._config.stage(n)) for n in STAGES)
            if stage.epochs
        ]
        if stages:
            logger.info("%s", "; ".join(stages))
        report = f"; the report {folder / REPORT} is updated after every epoch"
        logger.info("writing to %s%s", folder, report if self._config.run.report else "")

    @contextmanager
    def shown(self, position: Position) -> Iterator[None]:
        """Within the ``with``, shows the bar, with log messages above it."""
        total = sum(self._config.stage(s).epochs * self._config.stage(s).iterations for s in STAGES)
        with (
            tqdm(
                total=total,
                initial=count_iterations(self._config, position),
                disable=not self._shows_bar or position.stage == FINISHED,
                dynamic_ncols=True,
            ) as self._bar,
            logging_redirect_tqdm(_loggers_on_terminal()) if self._shows_bar else nullcontext(),
        ):
            yield

    def describe(self, position: Position, what: str) -> None:
        """Shows which part of an epoch is running."""
        if self._pace.stage != position.stage:
            self._pace = _Pace(position.stage)
        self._pace.count_rest()
        words = f"{self._name_epoch(position)}: {what}"
        if self._bar is not None:
            self._bar.set_description(words)
        self._say(words)

    def advance(self, position: Position) -> None:
        """Counts an iteration; ``position`` is what comes next."""
        self._pace.count_iteration()
        if self._bar is not None:
            self._bar.update()
        where = f"iteration {position.iteration}/{self._config.stage(position.stage).iterations}"
        left = self.time_left(position)
        self._say(f"{self._name_epoch(position)}, {where}" + (f"; {left}" if left else ""))

    def tell_epoch(self, entry: Mapping[str, Any]) -> None:
        """Logs one line about a finished epoch; the entry must have its duration."""
        if not self._speaks:
            return
        words = describe_entry(entry, self._config)
        left = self.time_left(Position(entry["stage"], entry["epoch"]))
        logger.info("%s", f"{words}; {left}" if left else words)

    def time_left(self, position: Position) -> str:
        """The time left in the stage, in words; empty with a bar, or while it is unknown.

        Stage 2 cannot be estimated before it begins: its iterations take more steps.
        """
        if position.stage != self._pace.stage:
            return ""
        stage = self._config.stage(position.stage)
        epochs = stage.epochs - position.epoch
        seconds = self._pace.estimate(
            iterations=epochs * stage.iterations - position.iteration,
            epochs=epochs - (position.iteration > 0),
        )
        if self._shows_bar or not seconds:
            return ""
        return f"about {_in_words(seconds)} left of stage {position.stage}"

    def _say(self, words: str) -> None:
        now = time.monotonic()
        if self._speaks and not self._shows_bar and now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            logger.info("%s", words)

    def _name_epoch(self, position: Position) -> str:
        stage, epoch, _ = position
        return f"stage {stage} epoch {epoch + 1}/{self._config.stage(stage).epochs}"


class _Pace:
    """Durations of a stage's iterations, and of the rest of an epoch (clustering, evaluation)."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self._last = time.monotonic()
        self._iterating = self._resting = 0.0
        self._iterations = self._epochs = 0
        self._within = False

    def count_iteration(self) -> None:
        self._iterating += self._since_last()
        self._iterations += 1
        if not self._within:
            self._within, self._epochs = True, self._epochs + 1

    def count_rest(self) -> None:
        self._resting += self._since_last()
        self._within = False

    def estimate(self, *, iterations: int, epochs: int) -> float | None:
        """Seconds that some iterations and the rest of some epochs will take."""
        if not self._iterations:
            return None
        a_rest = self._resting / self._epochs
        return iterations * self._iterating / self._iterations + epochs * a_rest

    def _since_last(self) -> float:
        before, self._last = self._last, time.monotonic()
        return self._last - before


def _loggers_on_terminal() -> list[logging.Logger]:
    """Loggers that write to the terminal of the bar; a message that reaches two is shown once."""
    return [
        logger
        for logger in (logging.getLogger("mabm"), logging.getLogger())
        if any(getattr(h, "stream", None) in (sys.stdout, sys.stderr) for h in logger.handlers)
    ]


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the {device.type.upper()}"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def describe_entry(entry: Mapping[str, Any], config: Config) -> str:
    """One line about an epoch, for the log."""
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
