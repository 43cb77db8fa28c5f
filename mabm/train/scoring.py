"""An encoder's scores on the searches of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mabm._core.devices import find_device
from mabm._core.names import find_name
from mabm.data import ImageReader
from mabm.evaluation import (
    MORE_SEARCH_TASKS,
    SEARCH_TASKS,
    RerankOptions,
    SearchScores,
    SearchTask,
    check_trial,
    evaluate_search,
    evaluate_within_modalities,
)
from mabm.models import Encoder, load_encoder
from mabm.train.config import Config
from mabm.train.config_files import parse_config
from mabm.train.extraction import extract_features
from mabm.train.inputs import read_inputs
from mabm.train.records.files import WEIGHTS


def extract_test_features(
    encoder: nn.Module,
    images: ImageReader,
    *,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """(N, D) float32 features of length one, the mean of an image's and its mirror image's."""
    return extract_features(
        encoder,
        images,
        torch.from_numpy(images.images.modality.copy()),
        batch_size=batch_size,
        workers=workers,
        normalize_mean=True,
        progress=progress,
    )


def score_searches(
    features: Tensor,
    images: ImageReader,
    data: str,
    *,
    tasks: tuple[SearchTask, ...] | None = None,
    rerank: RerankOptions | None = None,
    trial: int | None = None,
) -> list[SearchScores]:
    """Scores every search of the data set, or the given ``tasks``."""
    records = images.images
    return [
        evaluate_search(
            features,
            torch.from_numpy(records.identity.copy()),
            torch.from_numpy(records.camera.copy()),
            torch.from_numpy(records.modality.copy()),
            task=task,
            rerank=rerank,
            trial=trial,
        )
        for task in (SEARCH_TASKS[data] if tasks is None else tasks)
    ]


def score_within_modalities(features: Tensor, images: ImageReader) -> dict[str, dict[str, float]]:
    """Scores of searches of each modality in itself, by its name."""
    records = images.images
    return evaluate_within_modalities(
        features,
        torch.from_numpy(records.identity.copy()),
        torch.from_numpy(records.camera.copy()),
        torch.from_numpy(records.modality.copy()),
    )


def evaluate_weights(
    path: str | Path,
    *,
    root: str | None = None,
    trial: int | None = None,
    tasks: Sequence[str] | None = None,
    rerank: RerankOptions | None = None,
    device: str = "auto",
    progress: bool = True,
) -> list[SearchScores]:
    """Scores a trained encoder on the data set that it was trained for.

    Args:
        path: The folder of a run, or a file of weights that a run wrote.
        root: Folder of the data set; by default the one that the run used.
        trial: Trial to test on; it must be the one trained on, and is by default.
        tasks: Names of searches; all of the data set by default.
        rerank: Options of a re-ranking; none by default.
        device: ``"auto"`` takes a GPU if there is one, else the CPU; or a device by name.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: There are no weights, or a part of the data set is missing.
        ValueError: The trial is not the one trained on, a task is unknown, or the weights were not
            written by a run.

    Example:
        >>> from mabm import RerankOptions, train
        >>> options = RerankOptions(k1=20, k2=6)
        >>> scores = train.evaluate_weights("runs/emoji", rerank=options)  # doctest: +SKIP
        >>> print(scores[0])  # doctest: +SKIP
    """
    encoder, config = load_run(path)
    check_trial(config.data.trial, config.data.trial if trial is None else trial)
    chosen = _choose_tasks(config.data.name, tasks)
    data = config.data if root is None else replace(config.data, root=root)
    inputs = read_inputs(data)
    features = extract_test_features(
        encoder.to(find_device(device)),
        inputs.test,
        batch_size=config.batch.evaluation,
        workers=data.workers,
        progress=progress,
    )
    return score_searches(
        features, inputs.test, data.name, tasks=chosen, rerank=rerank, trial=inputs.data.trial
    )


def load_run(path: str | Path) -> tuple[Encoder, Config]:
    """The encoder of a run, on the CPU in evaluation mode, and the configuration of the run.

    Args:
        path: The folder of a run, or a file of weights that a run wrote.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The weights were not written by a run.
    """
    file = Path(path)
    if file.is_dir():
        file = file / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"path must be a finished run or a file of weights, got {path}")
    encoder, meta = load_encoder(file)
    if "config" not in meta:
        raise ValueError(f"path must be weights that a run wrote, with its configuration: {path}")
    return encoder, parse_config(meta["config"], str(file))


def _choose_tasks(data: str, names: Sequence[str] | None) -> tuple[SearchTask, ...]:
    tasks = SEARCH_TASKS[data]
    if names is None:
        return tasks
    known = {task.name: task for task in (*tasks, *MORE_SEARCH_TASKS[data])}
    chosen = []
    for name in names:
        if (spelled := find_name(name, known)) is None:
            raise ValueError(f"tasks must be of {', '.join(known)}, got {name!r}")
        chosen.append(known[spelled])
    return tuple(chosen)
