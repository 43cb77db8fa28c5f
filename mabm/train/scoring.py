"""An encoder's scores on the searches of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mabm._core.names import find_name
from mabm.data import ImageReader
from mabm.evaluation import (
    SEARCH_TASKS,
    RerankOptions,
    SearchScores,
    SearchTask,
    check_trial,
    evaluate_search,
)
from mabm.models import Encoder, load_encoder
from mabm.train.config import Config
from mabm.train.config_files import parse_config
from mabm.train.inputs import read_inputs
from mabm.train.steps import extract_features


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
        root: Folder of the data set; by default where the run had it.
        trial: Trial to test on, which must be the one trained on; that one by default.
        tasks: Names of searches; all of the data set by default.
        rerank: Re-rank with these options.
        device: ``"auto"`` takes a GPU where there is one, else the CPU; or a device by name.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: There are no weights, or a part of the data set is missing.
        ValueError: Another trial than the one trained on, an unknown task, or weights that no run
            wrote.

    Example:
        >>> from mabm import RerankOptions, train
        >>> options = RerankOptions(k1=20, k2=6)
        >>> scores = train.evaluate_weights("runs/emoji", rerank=options)  # doctest: +SKIP
        >>> print(scores[0])  # doctest: +SKIP
    """
    encoder, config = load_run(path)
    check_trial(config.data.trial, config.data.trial if trial is None else trial)
    chosen = _named(config.data.name, tasks)
    data = config.data if root is None else replace(config.data, root=root)
    inputs = read_inputs(data)
    features = extract_test_features(
        encoder.to(choose_device(device)),
        inputs.test,
        batch_size=config.batch.evaluation,
        workers=data.workers,
        progress=progress,
    )
    return score_searches(
        features, inputs.test, data.name, tasks=chosen, rerank=rerank, trial=inputs.data.trial
    )


def load_run(path: str | Path) -> tuple[Encoder, Config]:
    """The encoder of a run, on the CPU in evaluation mode, and what it was trained by.

    Args:
        path: The folder of a run, or a file of weights that a run wrote.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: They are weights that no run wrote.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "weights.pt"
    if not place.is_file():
        raise FileNotFoundError(f"path must be a finished run or a file of weights, got {path}")
    encoder, meta = load_encoder(place)
    if "config" not in meta:
        raise ValueError(f"path must be weights that a run wrote, with its configuration: {path}")
    return encoder, parse_config(meta["config"], str(place))


def choose_device(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is a GPU where there is one, else the CPU.

    A GPU without a number (``"auto"``, ``"cuda"``) is that of the process's local rank under
    ``torchrun``, else the first.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type != "cuda":
        return device
    number = device.index if ":" in name else int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise ValueError(
            f"device must be one of the {torch.cuda.device_count()} GPUs there are, "
            f"got {name!r} in the process of local rank {os.environ.get('LOCAL_RANK', '0')}"
        )
    return torch.device("cuda", number)


def _named(data: str, names: Sequence[str] | None) -> tuple[SearchTask, ...]:
    tasks = SEARCH_TASKS[data]
    if names is None:
        return tasks
    known = {task.name: task for task in tasks}
    chosen = []
    for name in names:
        if (found := find_name(name, known)) is None:
            raise ValueError(f"tasks must be of {', '.join(known)}, got {name!r}")
        chosen.append(known[found])
    return tuple(chosen)
