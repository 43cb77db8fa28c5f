"""The two stages of the method, from a configuration to a tested encoder.

Stage 1 clusters each modality alone and contrasts within it; stage 2 also clusters all images
together, splits the clusters into prototypes of each modality and contrasts across. What is drawn
at random depends on the seed and the place in the run alone, so that a run which was killed goes on
from its last checkpoint to the same result: to the bit on one CPU with one number of threads.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabm._core.devices import find_device
from mabm._core.files import write_text
from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm.evaluation import SearchScores
from mabm.models import build_encoder, save_encoder
from mabm.report.page import require_packages
from mabm.train import distributed, reporting
from mabm.train.batches import Place, View, draw_batches, view_batch
from mabm.train.config import Config
from mabm.train.config_files import to_toml, to_tree
from mabm.train.diagnostics import diagnose_epoch
from mabm.train.epoch import GLOBAL, Clusters, EpochState, begin_epoch, find_clusters
from mabm.train.errors import TrainingStopped
from mabm.train.inputs import Inputs, check_start, read_inputs
from mabm.train.learner import Learner
from mabm.train.position import (
    FINISHED,
    Position,
    last_epoch,
    skip_empty_stages,
)
from mabm.train.progress import Progress, describe_entry
from mabm.train.records.checkpoint import clear_parts, load_newest, save_checkpoint
from mabm.train.records.environment import describe_environment
from mabm.train.records.files import (
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    REPORT,
    RESULT,
    RESULTS,
    STAGE1,
    WEIGHTS,
)
from mabm.train.records.history import History
from mabm.train.records.resuming import KINDS, check_same, last_scores
from mabm.train.records.run_lock import locked
from mabm.train.records.tensorboard import TensorBoardLog, require_tensorboard
from mabm.train.scoring import extract_test_features, score_searches
from mabm.train.steps import contrast_across, contrast_within, extract_features, read_batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: Where everything is.
        scores: Of the last epoch, one entry a search: the result.
        history: One entry an epoch, the start first.

    Example:
        >>> from pathlib import Path
        >>> from mabm.train import TrainResult
        >>> TrainResult(Path("runs/emoji"), scores=[], history=[]).folder.name
        'emoji'
    """

    folder: Path
    scores: list[SearchScores]
    history: list[dict[str, Any]]


def train(
    config: Config,
    output: str | Path,
    *,
    resume: bool = True,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Runs both stages, or what is left of them.

    Started again with the same folder it goes on from the last checkpoint; a finished run is left
    as it is. No other run can use the folder meanwhile. Under ``torchrun`` the processes share each
    batch and end with equal weights. The random state of the process is put back in the end.

    Args:
        config: Of the run.
        output: Folder of the run, made if need be: ``config.toml``, ``environment.json``,
            ``history.jsonl``, checkpoints, ``stage1.pt`` and ``weights.pt``, ``result.json`` and
            ``report.html``.
        resume: Whether to go on with a run that is there; otherwise a folder with one is refused.
        progress: Whether to show a progress bar; without one the log tells how far it is.
        stop: Asked after every iteration and between the parts of an epoch whether to stop; what a
            handler of SIGTERM sets, for instance. Where several processes train together, all have
            one or none, and the yes of one stops all.

    Raises:
        ImportError: An extra is missing.
        OSError: A file cannot be read or written.
        RunInUseError: Another run is going on in the folder.
        TrainingError: Training cannot go on.
        TrainingStopped: ``stop`` said so; a checkpoint holds all that was done.
        ValueError: The configuration does not fit the data, the processes, or the run that is
            there; or the checkpoints of that one are gone or damaged.

    Example:
        >>> from mabm import train
        >>> config = train.load_config("emoji-xm", ["stage2.epochs=5"])
        >>> result = train.train(config, "runs/emoji")  # doctest: +SKIP
        >>> print(result.scores[0])  # doctest: +SKIP
    """
    device = find_device(config.run.device)
    folder = Path(output)
    with distributed.process_group(device), _settings(config, device):
        _check_processes(config)
        with locked(folder):
            run = _Run(config, folder, device, progress, stop)
            run.prepare(resume)
            return run.finish()


@contextmanager
def _settings(config: Config, device: torch.device) -> Iterator[None]:
    """Random state, device and algorithms as the run wants them, and as they were afterwards."""
    on_gpu = device.type == "cuda"
    was = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.random.fork_rng(devices=[device] if on_gpu else []),
        torch.cuda.device(device) if on_gpu else nullcontext(),
    ):
        if config.run.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=only_warned)


class _Run:
    """A run in the making."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        device: torch.device,
        progress: bool,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.config, self.folder, self.device, self.stop = config, folder, device, stop
        self.is_first = distributed.rank() == 0
        self.progress = Progress(config, bar=progress, speaks=self.is_first)
        self.inputs: Inputs = read_inputs(config.data)
        self.modality = self.inputs.modality.to(device)
        _check_modalities(self.inputs)
        self.there = load_newest(folder, KINDS)
        weights = config.model.weights if self.there is None else None  # a checkpoint holds all
        if self.there is None:
            self._check_start()
        encoder = build_encoder(
            config.model.name,
            weights=weights,
            seed=config.run.seed,
            image_size=(config.data.height, config.data.width),
        ).to(device)
        distributed.copy_from_first(encoder)
        self.encoder = distributed.join_batch_norm(encoder)
        self.history = History(folder / HISTORY)
        self.position = Position(1, 0, 0)
        self.state: EpochState | None = None
        self.scores: list[SearchScores] = []

    # Beginning and end

    def _check_start(self) -> None:
        check_start(self.config.model.weights, self.inputs.data)
        if self.config.model.weights is None and self.is_first:
            logger.warning(
                "model.weights is not set: %s starts from random weights, where published runs "
                "start from ImageNet's",
                self.config.model.name,
            )

    def prepare(self, resume: bool) -> None:
        """Makes the folder and goes to where the run stands."""
        if self.config.run.report:
            require_packages()  # now, not when training is over
        if self.config.run.tensorboard:
            require_tensorboard()
        if self.is_first:
            clear_parts(self.folder)
        distributed.barrier()
        there, self.there = self.there, None
        if there is not None and not resume:
            raise ValueError(f"output must hold no run unless it is resumed, got {self.folder}")
        if there is None:
            self._check_folder()
            distributed.barrier()  # before the first process writes there
        self.learner = self._make_learner()
        if there is None or there[0].stage != FINISHED:
            self.progress.announce(self.inputs, self.device, self.folder)
        if there is None:
            self._start()
        else:
            self._restore(*there)

    def _check_folder(self) -> None:
        """Refuses to replace what a run has left that came further than its first checkpoint."""
        kept = [name for name in RESULTS if (self.folder / name).exists()]
        if any(entry["stage"] for entry in self.history.read()):
            kept.append(HISTORY)
        if kept:
            raise ValueError(
                "output must not hold a run whose checkpoints are gone or damaged, which a new one "
                f"would replace, got {self.folder} with {', '.join(kept)}"
            )

    def finish(self) -> TrainResult:
        """Trains to the end."""
        with self.progress.shown(self.position):
            while self.position.stage != FINISHED:
                self._run_epoch()
        self._stop_if_asked(self.position)
        if self.is_first:
            self._write_end()
        if self.config.run.report and not (self.folder / REPORT).exists():
            if self.is_first:
                logger.info("report: clusters and searches of the last epoch")
            reporting.report_run(self.encoder, self.inputs, self.config, self.folder)
        distributed.barrier()
        history = self.history.read()
        return TrainResult(self.folder, last_scores(history), history)  # the same in every process

    def _start(self) -> None:
        if self.is_first:
            write_text(self.folder / CONFIG, to_toml(self.config))
            environment = json.dumps(describe_environment(), indent=2)
            write_text(self.folder / ENVIRONMENT, environment + "\n")
            (self.folder / HISTORY).unlink(missing_ok=True)  # of a start that was cut short
        started = time.perf_counter()
        entry: dict[str, Any] = {"stage": 0, "epoch": 0, **self._evaluate()}
        self._record({**entry, "seconds": time.perf_counter() - started})
        self._move(skip_empty_stages(self.config, Position(1, 0, 0)))

    def _make_learner(self) -> Learner:
        stage = self.config.stage(min(self.position.stage, 2))
        run = self.config.run
        optimizer = torch.optim.Adam(
            [each for each in self.encoder.parameters() if each.requires_grad],
            lr=stage.lr,
            weight_decay=stage.weight_decay,
        )
        return Learner(
            self.encoder,
            optimizer,
            precision=run.precision,
            micro_batches=self.config.batch.micro_batches,
            max_skipped=run.max_skipped,
            compile=run.compile,
        )

    # An epoch

    def _run_epoch(self) -> None:
        position, started = self.position, time.perf_counter()
        self._stop_if_asked(position)
        stage = self.config.stage(position.stage)
        place = Place(self.config.run.seed, position.stage, position.epoch)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = stage.lr * stage.gamma ** (position.epoch // stage.step)
        self.progress.describe(position, "clusters")
        if self.state is None:
            self.state, diagnostics = self._begin(place)
            self.diagnostics = diagnostics
            self._stop_if_asked(position, saved=False)
        self.progress.describe(position, "training")
        self._iterate(place, stage.iterations)
        next_position = Position(position.stage, position.epoch + 1, 0)
        is_last = next_position.epoch == stage.epochs
        entry: dict[str, Any] = {
            "stage": position.stage,
            "epoch": position.epoch + 1,
            "losses": self.state.means(),
            "clusters": self.state.clusters,
            "diagnostics": self.diagnostics,
            "warnings": self.state.warnings,
            "skipped_steps": self.state.skipped,
        }
        every = self.config.run.evaluate_every
        if is_last or (every and next_position.epoch % every == 0):
            self.progress.describe(position, "evaluation")
            entry.update(self._evaluate())
        self._record({**entry, "seconds": time.perf_counter() - started})
        self.state = None
        if is_last:
            if position.stage == 1:
                self._save_encoder(STAGE1)
            next_position = skip_empty_stages(self.config, Position(position.stage + 1, 0, 0))
        self._move(next_position)

    def _begin(self, place: Place) -> tuple[EpochState, dict[str, Any]]:
        features = extract_features(
            self.encoder,
            self.inputs.train,
            self.inputs.modality,
            batch_size=self.config.batch.evaluation,
            workers=self.config.data.workers,
        ).to(self.device)
        self._stop_if_asked(self.position)
        clusters = find_clusters(features, self.modality, self.config, place)
        state = begin_epoch(features, self.modality, clusters, self.config)
        return state, self._diagnose(features, clusters) if self.is_first else {}

    def _diagnose(self, features: Tensor, clusters: Clusters) -> dict[str, Any]:
        return diagnose_epoch(
            features,
            self.modality,
            alone=clusters.alone,
            together=clusters.together,
            identity=torch.from_numpy(self.inputs.data.train.identity.copy()),
            chosen=clusters.chosen,
            others=clusters.others,
        )

    def _iterate(self, place: Place, iterations: int) -> None:
        assert self.state is not None
        first = self.position.iteration
        plans = self._plans(place, first, iterations)
        rows = [
            _in_order(batch) for batches in zip(*plans.values(), strict=True) for batch in batches
        ]
        reading = iter(read_batches(self.inputs.train, rows, self.config.data.workers))
        every = self.config.run.checkpoint_every
        for iteration in range(first, iterations):
            for step, batches in plans.items():
                here = Place(place.seed, place.stage, place.epoch, iteration, step)
                view = view_batch(
                    next(reading),
                    batches[iteration - first],
                    here,
                    options=self.config.augmentation,
                    device=self.device,
                )
                self._seed(here.number(distributed.rank()))
                self._step(step, view)
            done = Position(place.stage, place.epoch, iteration + 1)
            self.progress.advance(done)
            if every and done.iteration % every == 0 and done.iteration < iterations:
                self._move(done)
            self._stop_if_asked(done, saved=done == self.position)

    def _plans(
        self, place: Place, first: int, iterations: int
    ) -> dict[int, list[dict[int, list[int]]]]:
        """For each kind of step that there is to take, its batches."""
        assert self.state is not None
        banks, batch = self.state.banks, self.config.batch
        within = {
            group: banks[MODALITY_NAMES[group]].targets
            for group in MODALITIES
            if MODALITY_NAMES[group] in banks
        }
        across = {}
        if GLOBAL in banks:
            for group in MODALITIES:
                targets = banks[GLOBAL].targets.masked_fill(self.modality != group, -1)
                if bool((targets >= 0).any()):
                    across[group] = targets
        cameras = self.inputs.cameras if batch.cameras else None
        return {
            step: draw_batches(
                targets,
                cameras,
                Place(place.seed, place.stage, place.epoch, 0, step),
                iterations=iterations,
                first=first,
                options=batch,
            )
            for step, targets in enumerate((within, across))
            if targets
        }

    def _step(self, step: int, view: View) -> None:
        assert self.state is not None
        banks, contrast = self.state.banks, self.config.contrast
        sizes = [size * distributed.world_size() for size in view.sections]
        split = [sum(sizes[:-1]), sizes[-1]]
        parts = {
            group: (rows, banks[GLOBAL if step else MODALITY_NAMES[group]])
            for group, rows in zip(MODALITIES, torch.split(view.rows, split), strict=True)
            if len(rows)
        }

        def losses_of(features: Tensor) -> dict[str, Tensor]:
            of = dict(zip(MODALITIES, torch.split(features, split), strict=True))
            losses = {}
            for group, (rows, bank) in parts.items():
                targets = bank.targets[rows]
                if step:
                    loss = 0.5 * contrast_across(of[group], targets, bank.memory, contrast)
                    losses[f"across {MODALITY_NAMES[group]}"] = loss
                else:
                    loss = contrast_within(of[group], targets, bank.memory, contrast)
                    losses[f"within {MODALITY_NAMES[group]}"] = loss
            return losses

        taken = self.learner.step(view.images, view.modality, losses_of, view.sections)
        if taken is None:
            self.state.skipped += 1
            return
        losses, features = taken
        self.state.add(losses)
        if step:
            # Both modalities at once: where they share a prototype, neither has the last word.
            bank = banks[GLOBAL]
            bank.memory.update(features, bank.targets[view.rows], gather=False)  # joined already
            return
        for group, own in zip(MODALITIES, torch.split(features, split), strict=True):
            if group in parts:
                rows, bank = parts[group]
                bank.memory.update(own, bank.targets[rows], gather=False)

    # What is kept

    def _stop_if_asked(self, position: Position, *, saved: bool = True) -> None:
        """Stops before ``position`` if any process is to, and saves what no checkpoint has yet."""
        if self.stop is None or not distributed.any_of(self.stop(), self.device):
            return
        if not saved:
            self._move(position)
        raise TrainingStopped(f"training goes on from {position}")

    def _move(self, position: Position) -> None:
        """Goes on to ``position``, and saves a checkpoint there."""
        is_new_stage = position.stage != self.position.stage
        self.position = position
        if is_new_stage and position.stage != FINISHED:
            self.learner = self._make_learner()
        if self.is_first:
            save_checkpoint(
                self.folder,
                position,
                {
                    "config": to_tree(self.config),
                    "images": self.inputs.digest(),
                    "encoder": self.encoder.state_dict(),
                    "optimizer": self.learner.optimizer.state_dict(),
                    "scaler": self.learner.scaler.state_dict(),
                    "skipped": self.learner.skipped,
                    "epoch": None if self.state is None else self.state.to_tree(),
                    "diagnostics": None if self.state is None else self.diagnostics,
                },
            )
        distributed.barrier()

    def _restore(self, position: Position, kept: Mapping[str, Any]) -> None:
        check_same(kept["config"], to_tree(self.config))
        if kept["images"] != self.inputs.digest():
            raise ValueError(
                f"the training images must be those that the run in {self.folder} began with"
            )
        self.position = position
        self.learner = self._make_learner()
        self.encoder.load_state_dict(kept["encoder"])
        self.learner.optimizer.load_state_dict(kept["optimizer"])
        if kept["scaler"]:
            self.learner.scaler.load_state_dict(kept["scaler"])
        self.learner.skipped = kept["skipped"]
        if kept["epoch"] is not None:
            self.state = EpochState.from_tree(kept["epoch"], self.config, self.device)
            self.diagnostics = kept["diagnostics"]
        if self.is_first:
            stage, epoch = last_epoch(self.config, position)
            self.history.truncate(stage=stage, epoch=epoch)
        distributed.barrier()
        self.scores = last_scores(self.history.read())
        if position.stage == FINISHED:
            logger.info("%s holds a finished run", self.folder)
        else:
            logger.info("going on at %s", position)

    def _record(self, entry: Mapping[str, Any]) -> None:
        if not self.is_first:
            return
        self.history.append(entry)
        left = self.progress.time_left(Position(entry["stage"], entry["epoch"], 0))
        words = describe_entry(entry, self.config)
        logger.info("%s", f"{words}; {left}" if left else words)
        if self.config.run.tensorboard:
            before = len(self.history.read()) - 1
            with TensorBoardLog(self.folder / "tensorboard", first_step=before) as log:
                log.append(entry)

    def _evaluate(self) -> dict[str, Any]:
        features = extract_test_features(
            self.encoder,
            self.inputs.test,
            batch_size=self.config.batch.evaluation,
            workers=self.config.data.workers,
        )
        if not self.is_first:
            return {}
        data = self.inputs.data
        self.scores = score_searches(features, self.inputs.test, data.name, trial=data.trial)
        return {"evaluation": {scores.task: scores.to_dict() for scores in self.scores}}

    def _save_encoder(self, name: str) -> None:
        if self.is_first:
            save_encoder(
                self.encoder,
                self.folder / name,
                name=self.config.model.name,
                meta={
                    "data": self.inputs.data.name,
                    "trial": self.inputs.data.trial,
                    "config": to_tree(self.config),
                },
            )

    def _write_end(self) -> None:
        self._save_encoder(WEIGHTS)
        result = {"scores": [scores.to_dict() for scores in self.scores]}
        write_text(self.folder / RESULT, json.dumps(result, indent=2) + "\n")

    # Small things

    def _seed(self, number: int) -> None:
        """Not by torch.manual_seed, which would seed every GPU, not this process's alone."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)


def _in_order(batch: Mapping[int, list[int]]) -> list[int]:
    return [row for group in MODALITIES for row in batch.get(group, ())]


def _check_processes(config: Config) -> None:
    ranks = distributed.world_size()
    if config.batch.identities % ranks:
        raise ValueError(
            f"batch.identities must be a multiple of the {ranks} processes, "
            f"got {config.batch.identities}"
        )
    share = config.batch.identities // ranks * config.batch.instances
    if share % config.batch.micro_batches:
        raise ValueError(
            f"batch.micro_batches must divide the {share} images of a modality that each process "
            f"has, got {config.batch.micro_batches}"
        )


def _check_modalities(inputs: Inputs) -> None:
    for group in MODALITIES:
        if not bool((inputs.modality == group).any()):
            raise ValueError(f"data must have {MODALITY_NAMES[group]} training images, got none")
