"""The two stages of the method, from a configuration to a tested encoder.

Stage 1 clusters each modality separately and contrasts within it. Stage 2 also clusters all images
together, splits the clusters into one prototype per modality and contrasts across modalities.
Random numbers depend only on the seed and the position in the run. A killed run therefore resumes
from its last checkpoint to the same result, bit for bit on one CPU with the same number of threads.

This module checks the requirements of a run, and starts or resumes it; :mod:`mabm.train.run` is the
loop.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mabm._core.devices import find_device
from mabm._core.files import write_text
from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm._core.processes import process_group
from mabm.evaluation import SearchScores
from mabm.models import build_encoder
from mabm.report.page import require_packages
from mabm.train import distributed
from mabm.train.config import Config
from mabm.train.config_files import to_toml, to_tree
from mabm.train.inputs import Inputs, check_start, read_inputs
from mabm.train.listeners import (
    Checkpoints,
    Evaluation,
    HistoryRecord,
    Log,
    Report,
    TensorBoardRecord,
    Weights,
)
from mabm.train.position import FINISHED, STAGES, Position, last_epoch, skip_empty_stages
from mabm.train.progress import Progress
from mabm.train.records.checkpoint import clear_parts, load_newest
from mabm.train.records.environment import describe_environment
from mabm.train.records.files import CONFIG, ENVIRONMENT, HISTORY, RESULTS
from mabm.train.records.history import History
from mabm.train.records.resuming import KINDS, check_same, last_scores, restore
from mabm.train.records.run_lock import locked
from mabm.train.records.tensorboard import require_tensorboard
from mabm.train.run import Listener, Run, build_learner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        folder: Folder of the run, with all its files.
        scores: Scores of the last epoch, one entry for each search.
        history: One entry for the start, then one for each epoch.

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
    """Trains an encoder in both stages, or resumes a run.

    Called again with the same folder, it resumes from the last checkpoint; a finished run is not
    changed. No other run can use the folder at the same time. Under ``torchrun`` the processes
    share each batch and end with equal weights. The random state of the process is restored at the
    end.

    Args:
        config: Configuration of the run.
        output: Folder of the run, created if it does not exist. Written there: ``config.toml``,
            ``environment.json``, ``history.jsonl``, checkpoints, ``stage1.pt``, ``weights.pt``,
            ``result.json`` and ``report.html``.
        resume: Whether to resume a run in the folder; otherwise such a folder is an error.
        progress: Whether to show a progress bar; without one, progress is logged.
        stop: Called after every iteration and between the parts of an epoch; training stops when it
            returns true, for instance after a SIGTERM. When several processes train together,
            either all or none must pass it, and one that returns true stops all.

    Raises:
        ImportError: An extra is not installed.
        OSError: A file cannot be read or written.
        RunInUseError: Another run uses the folder.
        TrainingError: Training cannot continue.
        TrainingStopped: ``stop`` returned true; a checkpoint contains the progress so far.
        ValueError: The configuration does not fit the data, the number of processes, or the run in
            the folder; or the checkpoints of that run are missing or damaged.

    Example:
        >>> from mabm import train
        >>> config = train.load_config("emoji-xm", ["stage2.epochs=5"])
        >>> result = train.train(config, "runs/emoji")  # doctest: +SKIP
        >>> print(result.scores[0])  # doctest: +SKIP
    """
    device = find_device(config.run.device)
    folder = Path(output)
    with process_group(device), _settings(config, device):
        _check_processes(config)
        with locked(folder):
            run = open_run(config, folder, device, resume=resume, bar=progress, stop=stop)
            run.train()
            distributed.barrier()
            history = History(folder / HISTORY).read()
            return TrainResult(folder, last_scores(history), history)  # the same in every process


@contextmanager
def _settings(config: Config, device: torch.device) -> Iterator[None]:
    """Sets device and algorithms for the run; restores them and the random state afterwards."""
    on_gpu = device.type == "cuda"
    before = torch.are_deterministic_algorithms_enabled()
    warned_only_before = torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.random.fork_rng(devices=[device] if on_gpu else []),
        torch.cuda.device(device) if on_gpu else nullcontext(),
    ):
        if config.run.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned_only_before)


def open_run(
    config: Config,
    folder: Path,
    device: torch.device,
    *,
    resume: bool = True,
    bar: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Run:
    """Starts a run in a folder, or opens the existing run at its last checkpoint.

    Args:
        config: Configuration of the run.
        folder: Folder of the run, which exists.
        device: Device to train on.
        resume: Whether to resume a run in the folder; otherwise it is an error.
        bar: Whether to show a progress bar.
        stop: Called after every iteration and between the parts of an epoch; the run stops when it
            returns true.

    Raises:
        ImportError: An extra is not installed.
        OSError: A file cannot be read or written.
        ValueError: The configuration does not fit the data, or the run in the folder.
    """
    inputs = read_inputs(config.data)
    _check_modalities(inputs)
    _check_cameras(config, inputs)
    checkpoint = load_newest(folder, KINDS)
    _check_one_folder(None if checkpoint is None else checkpoint[0], folder)
    encoder = _build_encoder(config, inputs, device, is_new=checkpoint is None)
    _check_extras(config)
    is_first = distributed.rank() == 0
    if is_first:
        clear_parts(folder)
    distributed.barrier()
    history = History(folder / HISTORY)
    if checkpoint is None:
        _check_folder(folder, history)
        distributed.barrier()  # before the first process writes there
        position, state = skip_empty_stages(config, Position(STAGES[0])), None
    elif not resume:
        raise ValueError(f"output must not contain a run unless it is resumed, got {folder}")
    else:
        position, state = checkpoint
    progress = Progress(config, bar=bar, speaks=is_first)
    if state is None or position.stage != FINISHED:
        progress.announce(inputs, device, folder)
    learner = build_learner(encoder, config, position.stage)
    epoch, saved = None, None
    if state is not None:
        _check_same_run(state, config, inputs, folder)
        epoch = restore(state, config, learner, position.stage, inputs.modality)
        saved = position, epoch is not None
        _cut_history(history, config, position)
    run = Run(
        config,
        inputs,
        learner,
        position,
        epoch,
        progress=progress,
        listeners=_listeners(config, history, saved),
        stop=stop,
    )
    if state is None:
        if is_first:
            _write_start(config, folder)
        run.tell_start()
    elif position.stage == FINISHED:
        logger.info("%s contains a finished run", folder)
    else:
        logger.info("resuming at %s", position)
    return run


def _build_encoder(
    config: Config, inputs: Inputs, device: torch.device, *, is_new: bool
) -> nn.Module:
    """The encoder, equal in all processes; the weights of a resumed run are loaded later."""
    weights = config.model.weights if is_new else None  # a checkpoint contains all weights
    if is_new:
        check_start(weights, inputs.data)
        if weights is None and distributed.rank() == 0:
            logger.warning(
                "model.weights is not set: %s starts from random weights, whereas published runs "
                "start from ImageNet weights",
                config.model.name,
            )
    encoder = build_encoder(
        config.model.name,
        weights=weights,
        seed=config.run.seed,
        image_size=(config.data.height, config.data.width),
    ).to(device)
    distributed.copy_from_first(encoder)
    return distributed.join_batch_norm(encoder)


def _listeners(
    config: Config, history: History, saved: tuple[Position, bool] | None
) -> list[Listener]:
    """The listeners of a run, in the order they are called.

    Args:
        config: Configuration of the run.
        history: History of the run, in its folder.
        saved: Position of the newest checkpoint, and whether it is within an epoch; ``None`` for a
            new run.
    """
    folder, is_first = history.path.parent, distributed.rank() == 0
    evaluation = Evaluation([] if saved is None else last_scores(history.read()))
    listeners: list[Listener] = [evaluation]
    if is_first:
        listeners += [HistoryRecord(history), Log()]
        if config.run.tensorboard:
            listeners.append(TensorBoardRecord(folder, history))
        listeners.append(Weights(folder, evaluation))
    listeners.append(Checkpoints(folder, saved))
    if config.run.report:
        listeners.append(Report(folder))
    return listeners


def _write_start(config: Config, folder: Path) -> None:
    """Writes configuration and environment of a new run, and removes an unfinished history."""
    write_text(folder / CONFIG, to_toml(config))
    write_text(folder / ENVIRONMENT, json.dumps(describe_environment(), indent=2) + "\n")
    (folder / HISTORY).unlink(missing_ok=True)  # of an interrupted start


def _cut_history(history: History, config: Config, position: Position) -> None:
    """Removes the entries of epochs that the run will train again."""
    if distributed.rank() == 0:
        stage, epoch = last_epoch(config, position)
        history.truncate(stage=stage, epoch=epoch)
    distributed.barrier()


def _check_extras(config: Config) -> None:
    """Raises ImportError before training, not after it, if a package is missing."""
    if config.run.report:
        require_packages()
    if config.run.tensorboard:
        require_tensorboard()


def _check_one_folder(position: Position | None, folder: Path) -> None:
    """Rejects processes that see another checkpoint than the first: they would wait forever."""
    first = distributed.share(position)
    if position != first:
        raise ValueError(
            f"output must be one folder that all processes share, got {folder}: the first process "
            f"resumes from {first or 'the start'}, process {distributed.rank()} from "
            f"{position or 'the start'}"
        )


def _check_folder(folder: Path, history: History) -> None:
    """Raises an error instead of replacing the results of a run without checkpoints."""
    kept = [name for name in RESULTS if (folder / name).exists()]
    if any(entry["stage"] for entry in history.read()):
        kept.append(HISTORY)
    if kept:
        raise ValueError(
            "output must not contain a run whose checkpoints are missing or damaged, since a new "
            f"run would replace it, got {folder} with {', '.join(kept)}"
        )


def _check_same_run(state: Mapping[str, Any], config: Config, inputs: Inputs, folder: Path) -> None:
    """Raises an error if settings or images differ from those the run started with."""
    check_same(state["config"], to_tree(config))
    if state["images"] != inputs.digest():
        raise ValueError(
            f"the training images differ from those that the run in {folder} started with"
        )


def _check_processes(config: Config) -> None:
    ranks = distributed.world_size()
    batch = config.batch
    if ranks > 1 and batch.normalization != "whole":
        raise ValueError(
            f"batch.normalization must be 'whole' with {ranks} processes, "
            f"got {batch.normalization!r}"
        )
    for name in ("identities", "infrared_identities"):
        count = getattr(batch, name)
        if count is not None and count % ranks:
            raise ValueError(
                f"batch.{name} must be a multiple of {ranks}, the number of processes, got {count}"
            )
    for group in MODALITIES:
        share = batch.identities_of(group) // ranks * batch.instances
        if share % batch.micro_batches:
            raise ValueError(
                f"batch.micro_batches must divide {share}, the {MODALITY_NAMES[group]} images per "
                f"process, got {batch.micro_batches}"
            )


def _check_modalities(inputs: Inputs) -> None:
    for group in MODALITIES:
        if not bool((inputs.modality == group).any()):
            raise ValueError(f"data must have {MODALITY_NAMES[group]} training images, got none")


def _check_cameras(config: Config, inputs: Inputs) -> None:
    clustering = config.clustering
    if clustering.distance.preset.group_is_camera and inputs.cameras is None:
        raise ValueError(
            "clustering.preset must be one that does not compare cameras: none are known, got "
            f"{clustering.preset!r}"
        )
