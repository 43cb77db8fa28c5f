"""Scores of an encoder on the searches of a data set."""

from __future__ import annotations

from collections.abc import Sequence
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
    evaluate_search,
    evaluate_within_modalities,
)
from mabm.models import Encoder
from mabm.train.config import DataConfig
from mabm.train.extraction import extract_features
from mabm.train.inputs import read_inputs
from mabm.train.trained import data_to_test, read_trained


def extract_test_features(
    encoder: nn.Module,
    images: ImageReader,
    *,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """(N, D) float32 features of length one: the mean of those of an image and of its flip."""
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
    """Scores of searches within each modality, by its name."""
    records = images.images
    return evaluate_within_modalities(
        features,
        torch.from_numpy(records.identity.copy()),
        torch.from_numpy(records.camera.copy()),
        torch.from_numpy(records.modality.copy()),
    )


def evaluate_encoder(
    encoder: Encoder,
    data: DataConfig,
    *,
    tasks: Sequence[str] | None = None,
    rerank: RerankOptions | None = None,
    batch_size: int = 256,
    device: str = "auto",
    progress: bool = True,
) -> list[SearchScores]:
    """Evaluates any encoder on the searches of a data set.

    Args:
        encoder: The encoder; moved to the device.
        data: The data set, its folder and trial, and the size of images. If the data set has
            trials, this must be the trial that the encoder was trained on.
        tasks: Names of searches of the data set; by default those of :data:`mabm.SEARCH_TASKS`.
            Those of :data:`mabm.MORE_SEARCH_TASKS` run only if they are named.
        rerank: Options for re-ranking; ``None`` does not re-rank.
        batch_size: Images per batch of the encoder, >= 1.
        device: ``"auto"`` uses a GPU if there is one, otherwise the CPU; or a device by name.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: A part of the data set is missing.
        ValueError: A task is unknown, or the data set does not have its published layout.

    Example:
        >>> from mabm import models, train
        >>> encoder = models.build_encoder("agw-resnet50", weights="adca.pth.tar")  # doctest: +SKIP
        >>> data = train.DataConfig(name="sysu_mm01", root="datasets/SYSU-MM01")
        >>> scores = train.evaluate_encoder(encoder, data)  # doctest: +SKIP
    """
    chosen = _choose_tasks(data.name, tasks)
    inputs = read_inputs(data)
    if not len(inputs.test):
        raise ValueError(f"root must have test images to score, got none in {data.root}")
    features = extract_test_features(
        encoder.to(find_device(device)),
        inputs.test,
        batch_size=batch_size,
        workers=data.workers,
        progress=progress,
    )
    return score_searches(
        features, inputs.test, data.name, tasks=chosen, rerank=rerank, trial=inputs.data.trial
    )


def evaluate_weights(
    path: str | Path,
    *,
    model: str | None = None,
    data: str | None = None,
    root: str | None = None,
    trial: int | None = None,
    image_size: tuple[int, int] | None = None,
    tasks: Sequence[str] | None = None,
    rerank: RerankOptions | None = None,
    device: str = "auto",
    progress: bool = True,
) -> list[SearchScores]:
    """Evaluates any weights: those of a run (by default on its data set) or a released checkpoint.

    Args:
        path: The folder of a run, a file of weights written by a run, the name of shipped weights,
            or plain weights, such as a released checkpoint.
        model: Name of the encoder, for plain weights only: ``"agw-resnet50"`` for released
            checkpoints of AGW, ADCA, PGM or BMIL.
        data: Name of the data set; by default that of the run.
        root: Folder of the data set; by default the one that the run used.
        trial: Trial to test on, which must be the one trained on. The default is the run's; for
            other weights it is required if the data set has trials.
        image_size: Height and width that images are resized to; by default those used in training,
            for plain weights those of the data set's shipped configuration.
        tasks: Names of searches of the data set; by default those of :data:`mabm.SEARCH_TASKS`.
            Those of :data:`mabm.MORE_SEARCH_TASKS` run only if they are named.
        rerank: Options for re-ranking; ``None`` does not re-rank.
        device: ``"auto"`` uses a GPU if there is one, otherwise the CPU; or a device by name.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: There are no weights, or a part of the data set is missing.
        ValueError: The trial is not the one trained on, a task is unknown, the weights do not fit,
            or their encoder or data set is neither recorded nor given.

    Example:
        >>> from mabm import RerankOptions, train
        >>> options = RerankOptions(k1=20, k2=6)
        >>> scores = train.evaluate_weights("runs/emoji", rerank=options)  # doctest: +SKIP
        >>> print(scores[0])  # doctest: +SKIP
    """
    trained = read_trained(path, model=model, image_size=image_size)
    tested = data_to_test(trained, name=data, root=root, trial=trial, image_size=image_size)
    return evaluate_encoder(
        trained.encoder,
        tested,
        tasks=tasks,
        rerank=rerank,
        batch_size=trained.batch_size,
        device=device,
        progress=progress,
    )


def _choose_tasks(data: str, names: Sequence[str] | None) -> tuple[SearchTask, ...]:
    tasks = SEARCH_TASKS[data]
    if names is None:
        return tasks
    known = {task.name: task for task in (*tasks, *MORE_SEARCH_TASKS[data])}
    chosen = []
    for name in names:
        if (spelled := find_name(name, known)) is None:
            raise ValueError(f"tasks must be among {', '.join(known)}, got {name!r}")
        chosen.append(known[spelled])
    return tuple(chosen)
