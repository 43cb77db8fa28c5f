"""An encoder's scores on the searches of a data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mabm.data import ImageReader
from mabm.evaluation import SEARCH_TASKS, RerankOptions, SearchScores, SearchTask, evaluate_search
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
        normalise_mean=True,
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
