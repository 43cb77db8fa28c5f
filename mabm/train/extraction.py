"""Features of a set of images, and the loader of image batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mabm._core.arguments import check_integer
from mabm._core.columns import Column, check_visible_infrared
from mabm.models import extract
from mabm.train import distributed
from mabm.train.errors import TrainingError
from mabm.train.workers import begin_worker


class Images(Sized, Protocol):
    """N images of one size, read a batch at a time: an ``ImageReader``, for instance."""

    def __getitems__(self, rows: list[int]) -> Tensor:
        """(B, 3, H, W) uint8 images of the given rows."""


def extract_features(
    encoder: nn.Module,
    images: Images,
    modality: Column,
    *,
    batch_size: int = 256,
    workers: int = 0,
    normalize_mean: bool = False,
    progress: bool = False,
) -> Tensor:
    """Returns the features of all images: ``0.5 * (g(image) + g(flipped image))``.

    Before the mean, each of the two has length 1.

    When several processes train together, each extracts its share and all get all features.

    Args:
        encoder: Takes ``(images, modality)`` and returns (B, D) features; images are moved to the
            device of its parameters, batch by batch.
        images: N images of one size, read a batch at a time: an ``ImageReader``, for instance.
        modality: (N,) integers, 0 visible and 1 infrared, or these two words.
        batch_size: Number of images per forward pass.
        workers: Number of processes that read ahead.
        normalize_mean: Whether to normalize the mean of the two features to length one again, as
            in evaluation but not in clustering.
        progress: Whether to show a progress bar.

    Returns:
        (N, D) float32 on the CPU.

    Raises:
        TrainingError: A feature is not finite.
        ValueError: ``batch_size`` is below 1, or the numbers of modalities and images differ.

    Source:
        Wang et al., AAAI 2026 (BMIL), as released.

    Example:
        >>> import torch
        >>> from mabm import data, models, train
        >>> frames = data.render_identities(data.identity_splits().unlabeled[:2])
        >>> images = data.ImageSet(frames.images, frames.identity, frames.camera, frames.modality)
        >>> encoder, modality = models.build_encoder("small"), torch.from_numpy(frames.modality)
        >>> reader = data.ImageReader(images, size=(48, 48))
        >>> features = train.extract_features(encoder, reader, modality)
        >>> len(features) == len(images)
        True
    """
    check_integer("batch_size", batch_size, at_least=1)
    count = len(images)
    modality = check_visible_infrared(modality, count, "modality", "one per image").cpu()
    share = range(count)[distributed.own_rows(count)]
    batches = [
        list(share[start : start + batch_size]) for start in range(0, len(share), batch_size)
    ]
    parts: list[Tensor] = []
    loader = read_batches(images, batches, workers)
    for rows, read in zip(
        batches, tqdm(loader, "features", disable=not progress, leave=False), strict=True
    ):
        part = extract(
            encoder,
            read,
            modality[rows[0] : rows[-1] + 1],
            batch_size=batch_size,
            normalize_mean=normalize_mean,
        )
        parts.append(part)
    if not parts:
        num_features: Any = encoder.num_features  # which nn.Module does not declare
        parts = [torch.empty(0, num_features)]
    device = next(encoder.parameters()).device
    features = distributed.join_ragged(torch.cat(parts).to(device)).cpu()
    bad = torch.nonzero(~features.isfinite().all(dim=1)).flatten()
    if len(bad):
        raise TrainingError(
            f"features must be finite, got {len(bad)} of {count} that are not, the first in row "
            f"{int(bad[0])}: training diverged; lower the learning rate"
        )
    return features


def read_batches(images: Images, batches: list[list[int]], workers: int) -> DataLoader[Any]:
    """A loader of (B, 3, H, W) uint8 images, one batch for each list of rows.

    It does not touch the global random state. If an image cannot be read, the reader's exception is
    raised, also from a worker process.

    Args:
        images: N images of one size, read a batch at a time.
        batches: Rows of the images of each batch.
        workers: Number of processes that read ahead; at most one per CPU is started, since PyTorch
            warns about more.
    """
    return _Loader(
        _Attempts(images),
        batch_sampler=batches,
        num_workers=min(workers, _num_cpus()),
        collate_fn=_as_read,  # type: ignore[arg-type]  # the result of __getitems__
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # otherwise the workers' seed is drawn from the global one
    )


class _Attempts(Dataset[Any]):
    """Reads a batch of images, or returns the exception that reading raised.

    PyTorch would re-raise an exception of a worker with the whole traceback as its message.
    """

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitems__(self, rows: list[int]) -> Tensor | Exception:
        try:
            return self._images.__getitems__(rows)
        except Exception as error:  # raised in the process that asked for the images
            return error


class _Loader(DataLoader[Any]):
    """Raises the exceptions that arrive instead of batches."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # no one asks for more
        for read in super().__iter__():
            if isinstance(read, Exception):
                raise read
            yield read


def _num_cpus() -> int:
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_read(images: Tensor | Exception) -> Tensor | Exception:
    return images
