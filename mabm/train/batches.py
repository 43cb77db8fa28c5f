"""Which images a step sees, and in what guise.

Everything is drawn from the seed and the place in the run (stage, epoch, iteration, step), so that
a run that was stopped goes on as if it had not been, and several processes draw what one would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mabm._core.modalities import INFRARED, MODALITIES, VISIBLE
from mabm.contrast.samplers import IdentityBatchSampler
from mabm.data.augmentation import Augmentation, Channels, augment
from mabm.train import distributed
from mabm.train.config import AugmentationConfig, BatchConfig


@dataclass(frozen=True)
class Place:
    """Where in a run something is drawn.

    Attributes:
        seed: Of the run.
        stage: 1 or 2.
        epoch: From 0, within the stage.
        iteration: From 0, within the epoch.
        step: 0 within modalities, 1 across.
    """

    seed: int
    stage: int
    epoch: int
    iteration: int = 0
    step: int = 0

    def number(self, *more: int) -> int:
        """A number that depends on the place, and on ``more``, and looks random."""
        key = (self.seed, self.stage, self.epoch, self.iteration, self.step, *more)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class View:
    """The batch of one step as this process puts it through the encoder.

    Attributes:
        images: (B, 3, H, W) float32.
        modality: (B,) int64 on the CPU, where encoders read it without waiting for a GPU.
        rows: (J,) int64 image numbers of the joined batch, in the order of its features.
        sections: Sizes of this process's parts: visible, again visible, infrared.
    """

    images: Tensor
    modality: Tensor
    rows: Tensor
    sections: tuple[int, ...]


def draw_batches(
    targets: Mapping[int, Tensor],
    cameras: Tensor | None,
    place: Place,
    *,
    iterations: int,
    first: int = 0,
    options: BatchConfig,
) -> list[dict[int, list[int]]]:
    """The image numbers that this process takes in each iteration, by modality.

    Args:
        targets: For each modality that takes part, (N,) targets of all samples, -1 for those that
            are not drawn.
        cameras: (N,) cameras, or ``None``.
        place: Stage, epoch and step that the batches are for.
        iterations: Of the epoch.
        first: Iterations that are over already.
        options: Sizes.
    """
    drawn: list[dict[int, list[int]]] = [{} for _ in range(first, iterations)]
    ranks = distributed.world_size()
    for group, labels in targets.items():
        sampler = IdentityBatchSampler(
            labels,
            cameras,
            num_identities=options.identities // ranks,
            num_instances=options.instances,
            num_batches=iterations,
            seed=Place(place.seed, place.stage, 0, 0, place.step).number(group),
            num_replicas=ranks,
            rank=distributed.rank(),
        )
        sampler.set_epoch(place.epoch)
        for batch, rows in zip(drawn, islice(sampler, first, None), strict=True):
            batch[group] = rows
    return drawn


def view_batch(
    images: Tensor,
    rows: Mapping[int, list[int]],
    place: Place,
    *,
    options: AugmentationConfig,
    device: torch.device,
) -> View:
    """Augments what was read, visible images in two views.

    Args:
        images: (B, 3, H, W) uint8, the images of ``rows``, visible ones first.
        rows: As :func:`draw_batches` gives them.
        place: Of the step; no other place has these draws.
        options: Augmentation.
        device: Where the views are made and stay.

    Returns:
        Views of this process's images; what one process would make of the joined batch, its share.
    """
    counts = [len(rows.get(group, ())) for group in MODALITIES]
    numbers = [torch.tensor(rows.get(group, ()), dtype=torch.int64) for group in MODALITIES]
    sides = torch.split(images.to(device, non_blocking=True), counts)
    read = dict(zip(MODALITIES, sides, strict=True))
    plan = [(VISIBLE, recipe) for recipe in _visible_recipes(options)]
    plan.append((INFRARED, _infrared_recipe(options, place.stage)))
    parts, modality, joined = [], [], []
    for view, (group, recipe) in enumerate(plan):
        size = counts[group]
        keys = torch.arange(size) + distributed.rank() * size
        seed = (place.seed, place.stage, place.epoch, place.iteration, place.step, view)
        parts.append(augment(read[group], recipe, seed=seed, keys=keys))
        modality.append(torch.full((size,), group))
        joined.append(numbers[group])
    sections = tuple(len(part) for part in parts)
    return View(
        torch.cat(parts),
        torch.cat(modality),
        distributed.join(torch.cat(joined).to(device), sections),
        sections,
    )


def _visible_recipes(options: AugmentationConfig) -> list[Augmentation]:
    plain = _recipe(options)
    if not options.second_view:
        return [plain]
    second = _recipe(
        options, jitter=options.jitter, channels="exchange" if options.exchange else "keep"
    )
    return [plain, second]


def _infrared_recipe(options: AugmentationConfig, stage: int) -> Augmentation:
    jitter = options.jitter if stage == 1 and options.jitter_infrared else 0.0
    return _recipe(options, jitter=jitter, channels="infrared")


def _recipe(
    options: AugmentationConfig, jitter: float = 0.0, channels: Channels = "keep"
) -> Augmentation:
    return Augmentation(
        padding=options.padding,
        flip=options.flip,
        erasing=options.erasing,
        jitter=jitter,
        channels=channels,
    )
