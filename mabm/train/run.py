"""A run of the trainer: a loop over epochs that calls listeners.

:class:`Run` clusters, draws batches and takes steps. Everything else (evaluation, history, log,
TensorBoard, weights, checkpoints, report) is done by a :class:`Listener`, which is called after
each iteration, after each epoch, and at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mabm.train import distributed
from mabm.train.batches import in_order, view_batch
from mabm.train.config import Config
from mabm.train.contrasts import Contrast
from mabm.train.diagnostics import diagnose_epoch
from mabm.train.epoch import EpochState, begin_epoch, cluster_epoch
from mabm.train.errors import TrainingStopped
from mabm.train.extraction import extract_features, read_batches
from mabm.train.inputs import Inputs
from mabm.train.learner import Learner
from mabm.train.position import FINISHED, STAGES, Position, next_epoch
from mabm.train.progress import Progress

Step: TypeAlias = tuple[Contrast, Tensor, dict[int, list[int]]]
"""A contrast, (B, 3, H, W) uint8 images of its batch, and their numbers by modality."""


class Listener:
    """Follows a run, and records or reports on it. A listener defines the methods it needs.

    When several processes train together, each has its own listeners.
    """

    def after_iteration(self, run: Run) -> None:
        """Called after each iteration; ``run.position`` is what comes next."""

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Called before the first epoch and after each; ``run.position`` is what comes next.

        Args:
            run: The run.
            entry: The history entry of the epoch: its stage and its number from 1 (stage 0, epoch 0
                before the first), and more. Listeners may add to it for later listeners.
        """

    def before_stop(self, run: Run) -> None:
        """Called when the run was asked to stop before ``run.position``."""

    def after_training(self, run: Run) -> None:
        """Called after the last epoch."""


class Run:
    """A run at a position, from which it trains to the end.

    Args:
        config: Configuration of the run.
        inputs: Images to train and test on.
        learner: The encoder, and the optimizer of the stage that comes next.
        position: What comes next.
        epoch: State of the epoch to resume; ``None`` if a new one begins.
        progress: Shows the progress of the run.
        listeners: Called in this order after each iteration, after each epoch, and at the end.
        stop: Called after every iteration and between the parts of an epoch; the run stops when it
            returns true.
    """

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        learner: Learner,
        position: Position,
        epoch: EpochState | None,
        *,
        progress: Progress,
        listeners: Sequence[Listener],
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.config, self.inputs, self.learner = config, inputs, learner
        self.position, self.epoch = position, epoch
        self.progress, self.listeners, self.stop = progress, listeners, stop
        self.device = learner.device
        self.modality = inputs.modality.to(self.device)
        self.epoch_started = time.perf_counter()

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is being trained."""
        return self.learner.encoder

    def train(self) -> None:
        """Trains to the end of the last stage.

        Raises:
            TrainingError: Training cannot continue.
            TrainingStopped: The run was asked to stop.
        """
        with self.progress.shown(self.position):
            while self.position.stage != FINISHED:
                self._train_epoch()
        self._stop_if_asked()
        for listener in self.listeners:
            listener.after_training(self)

    def tell_start(self) -> None:
        """Calls the listeners before the first epoch, as after an epoch 0 of stage 0."""
        self.epoch_started = time.perf_counter()
        self._tell_epoch({"stage": 0, "epoch": 0})

    def _train_epoch(self) -> None:
        self._stop_if_asked()
        self.epoch_started = time.perf_counter()
        here = self.position
        stage = self.config.stage(here.stage)
        self.learner.set_learning_rate(stage.learning_rate(here.epoch))
        self.progress.describe(here, "clusters")
        epoch = self.epoch or self._begin_epoch()
        self.progress.describe(here, "training")
        for steps in _read_iterations(epoch, here, self.config, self.inputs):
            for step in steps:
                self._take_step(epoch, *step)
            self.position = self.position._replace(iteration=self.position.iteration + 1)
            for listener in self.listeners:
                listener.after_iteration(self)
            self._stop_if_asked()
        self._end_epoch(epoch)

    def _begin_epoch(self) -> EpochState:
        """Clusters the training images and builds the contrasts of the epoch."""
        features = extract_features(
            self.encoder,
            self.inputs.train,
            self.inputs.modality,
            batch_size=self.config.batch.evaluation,
            workers=self.config.data.workers,
        ).to(self.device)
        self._stop_if_asked()
        clusters = cluster_epoch(
            features, self.modality, self.config, self.position, camera=self.inputs.cameras
        )
        epoch = begin_epoch(features, self.modality, clusters, self.config, self.position.stage)
        if distributed.rank() == 0:
            epoch.diagnostics = diagnose_epoch(
                clusters.compared(features, self.modality, self.config.clustering),
                self.modality,
                alone=clusters.alone,
                together=clusters.together,
                identity=torch.from_numpy(self.inputs.data.train.identity.copy()),
                chosen=clusters.chosen,
                others=clusters.others,
            )
        self.epoch = epoch
        self._stop_if_asked()
        return epoch

    def _take_step(
        self, epoch: EpochState, contrast: Contrast, images: Tensor, rows: dict[int, list[int]]
    ) -> None:
        """Takes the optimizer step of one contrast, and updates its memories."""
        seed = self.config.run.seed
        view = view_batch(
            images,
            rows,
            self.position,
            seed=seed,
            stream=contrast.stream,
            options=self.config.augmentation,
            device=self.device,
        )
        joined = view.by_modality(view.rows)

        def losses_of(features: Tensor) -> dict[str, Tensor]:
            return contrast.losses(view.by_modality(features), joined)

        _seed(self.position.seed(seed, contrast.stream, distributed.rank()), self.device)
        taken = self.learner.step(view.images, view.modality, losses_of, view.sections)
        if taken is None:
            epoch.num_skipped += 1
            return
        losses, features = taken
        epoch.add(losses)
        contrast.update(view.by_modality(features), joined)

    def _end_epoch(self, epoch: EpochState) -> None:
        """Moves to the next epoch, with a new optimizer if that begins a stage."""
        stage, number = self.position.stage, self.position.epoch + 1
        self.epoch, self.position = None, next_epoch(self.config, self.position)
        if self.position.stage not in (stage, FINISHED):
            self.learner = build_learner(self.encoder, self.config, self.position.stage)
        self._tell_epoch(
            {
                "stage": stage,
                "epoch": number,
                "learning_rate": self.config.stage(stage).learning_rate(number - 1),
                "losses": epoch.mean_losses(),
                "clusters": epoch.num_clusters,
                "diagnostics": epoch.diagnostics,
                "warnings": epoch.warnings,
                "skipped_steps": epoch.num_skipped,
            }
        )

    def _tell_epoch(self, entry: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.after_epoch(self, entry)

    def _stop_if_asked(self) -> None:
        """Stops all processes if one of them was asked to."""
        if self.stop is None or not distributed.any_of(self.stop(), self.device):
            return
        for listener in self.listeners:
            listener.before_stop(self)
        raise TrainingStopped(f"training will resume from {self.position}")


def build_learner(encoder: nn.Module, config: Config, stage: int) -> Learner:
    """The encoder with a new optimizer, for the start of a stage.

    Args:
        encoder: The encoder to train.
        config: Configuration of the run.
        stage: Number of the stage; the end counts as the last one.
    """
    options = config.stage(min(stage, STAGES[-1]))
    optimizer = torch.optim.Adam(
        [each for each in encoder.parameters() if each.requires_grad],
        lr=options.lr,
        weight_decay=options.weight_decay,
    )
    return Learner(
        encoder,
        optimizer,
        precision=config.run.precision,
        micro_batches=config.batch.micro_batches,
        normalization=config.batch.normalization,
        max_skipped=config.run.max_skipped,
        compile=config.run.compile,
    )


def _read_iterations(
    epoch: EpochState, position: Position, config: Config, inputs: Inputs
) -> Iterator[Iterator[Step]]:
    """The steps of each iteration from a position to the end of its epoch, one per contrast."""
    contrasts = [contrast for contrast in epoch.contrasts if contrast.targets]
    plans = [
        contrast.draw_batches(
            inputs.cameras if config.batch.cameras else None,
            position,
            seed=config.run.seed,
            iterations=config.stage(position.stage).iterations,
            options=config.batch,
        )
        for contrast in contrasts
    ]
    iterations = list(zip(*plans, strict=True))
    wanted = [in_order(rows) for batches in iterations for rows in batches]
    reading = iter(read_batches(inputs.train, wanted, config.data.workers))
    for batches in iterations:
        yield (
            (contrast, next(reading), rows)
            for contrast, rows in zip(contrasts, batches, strict=True)
        )


def _seed(number: int, device: torch.device) -> None:
    """Seeds the CPU and this process's GPU; torch.manual_seed would seed every GPU."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
