"""The batches of an epoch, and their images augmented in one or two views.

Everything is drawn from the seed of the run, a position in it, and the stream of a contrast. So a
resumed run draws what an uninterrupted one draws, and several processes draw what one would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from mabm._core.modalities import INFRARED, MODALITIES, VISIBLE
from mabm.contrast.samplers import IdentityBatchSampler
from mabm.data.augmentation import Augmentation, Channels, augment
from mabm.train import distributed
from mabm.train.config import AugmentationConfig, BatchConfig
from mabm.train.position import Position


@dataclass(frozen=True)
class View:
    """The batch of one step, as this process passes it through the encoder.

    Attributes:
        images: (B, 3, H, W) float32.
        modality: (B,) int64 on the CPU, where encoders read it without waiting for a GPU.
        rows: (J,) int64 image numbers of the joined batch, in the order of its features.
        sections: Sizes of this process's parts: visible, second visible view, infrared.
    """

    images: Tensor
    modality: Tensor
    rows: Tensor
    sections: tuple[int, ...]

    def by_modality(self, joined: Tensor) -> dict[int, Tensor]:
        """Splits (J, ...) values of the joined batch; a modality without images is left out."""
        *visible, infrared = (size * distributed.world_size() for size in self.sections)
        parts = torch.split(joined, [sum(visible), infrared])
        return {group: part for group, part in zip(MODALITIES, parts, strict=True) if len(part)}


def draw_batches(
    targets: Mapping[int, Tensor],
    cameras: Tensor | None,
    position: Position,
    *,
    seed: int,
    stream: int,
    iterations: int,
    options: BatchConfig,
) -> list[dict[int, list[int]]]:
    """Draws the image numbers that this process uses in each remaining iteration of an epoch.

    Args:
        targets: For each modality that takes part, (N,) targets of all samples, -1 for those that
            are not drawn.
        cameras: (N,) cameras, or ``None``.
        position: Stage, epoch, and the first iteration to draw.
        seed: Seed of the run.
        stream: Separates the random numbers of different contrasts.
        iterations: Number of iterations in the whole epoch.
        options: Sizes of a batch.

    Returns:
        For each remaining iteration, image numbers by modality.
    """
    stage, epoch, first = position
    drawn: list[dict[int, list[int]]] = [{} for _ in range(first, iterations)]
    ranks = distributed.world_size()
    for group, labels in targets.items():
        sampler = IdentityBatchSampler(
            labels,
            cameras,
            num_identities=options.identities_of(group) // ranks,
            num_instances=options.instances,
            num_batches=iterations,
            sampling=options.sampling,
            seed=Position(stage).seed(seed, stream, group),
            num_replicas=ranks,
            rank=distributed.rank(),
        )
        sampler.set_epoch(epoch)
        for batch, rows in zip(drawn, islice(sampler, first, None), strict=True):
            batch[group] = rows
    return drawn


def in_order(batch: Mapping[int, list[int]]) -> list[int]:
    """The image numbers of a batch in the order they are read: visible, then infrared."""
    return [row for group in MODALITIES for row in batch.get(group, ())]


def view_batch(
    images: Tensor,
    rows: Mapping[int, list[int]],
    position: Position,
    *,
    seed: int,
    stream: int,
    options: AugmentationConfig,
    device: torch.device,
) -> View:
    """Augments the images of a batch, visible ones in two views.

    Args:
        images: (B, 3, H, W) uint8, the images of ``rows``, visible ones first.
        rows: Image numbers of this process, by modality.
        position: Position of the step; each position has its own draws.
        seed: Seed of the run.
        stream: Separates the random numbers of different contrasts at one position.
        options: Augmentation.
        device: Device on which the views are computed.

    Returns:
        Views of this process's images: its share of the views that a single process would compute
        of the joined batch.
    """
    counts = [len(rows.get(group, ())) for group in MODALITIES]
    numbers = [torch.tensor(rows.get(group, ()), dtype=torch.int64) for group in MODALITIES]
    sides = torch.split(images.to(device, non_blocking=True), counts)
    read = dict(zip(MODALITIES, sides, strict=True))
    recipes = [(VISIBLE, recipe) for recipe in _visible_recipes(options)]
    recipes.append((INFRARED, _infrared_recipe(options, position.stage)))
    parts, modality, joined = [], [], []
    for view, (group, recipe) in enumerate(recipes):
        size = counts[group]
        keys = torch.arange(size) + distributed.rank() * size
        parts.append(augment(read[group], recipe, seed=(seed, *position, stream, view), keys=keys))
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
    first = _recipe(options)
    if not options.second_view:
        return [first]
    second = _recipe(
        options, jitter=options.jitter, channels="exchange" if options.exchange else "keep"
    )
    return [first, second]


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
        erasing_fill=options.erasing_fill,
        jitter=jitter,
        channels=channels,
    )
