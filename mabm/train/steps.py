"""The steps of an epoch as plain functions: extract, cluster, build memories, contrast.

None of them needs the trainer, keeps a state or draws a random number. Put them into another order,
leave one out, or replace it: :mod:`mabm.train.run` is one way to combine them.
"""

from __future__ import annotations

import os
from collections.abc import Sized
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mabm._core.arguments import check_integer
from mabm._core.arrays import check_features
from mabm._core.columns import (
    Column,
    Labels,
    check_categories,
    check_labels,
    check_modality,
    check_visible_infrared,
)
from mabm._core.partition import NOISE
from mabm.cluster.association import associate_clusters
from mabm.cluster.dbscan import DBSCAN
from mabm.contrast.losses.cluster_contrast import cluster_contrast_loss
from mabm.contrast.losses.hybrid_contrast import hybrid_contrast_loss
from mabm.contrast.losses.split_contrast import split_contrast_loss
from mabm.contrast.memories.hard import HardMemory
from mabm.contrast.memories.hybrid import HybridMemory
from mabm.contrast.memories.mean import MeanMemory
from mabm.contrast.prototypes import PrototypeSplit, split_prototypes
from mabm.distance.jaccard import encode_features, prune
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import PRESETS
from mabm.models import extract
from mabm.train import distributed
from mabm.train.config import ClusteringConfig, ContrastConfig
from mabm.train.errors import TrainingError
from mabm.train.workers import begin_worker

Memory: TypeAlias = MeanMemory | HardMemory | HybridMemory

_MEMORIES: Final[dict[str, type[Memory]]] = {
    "hybrid": HybridMemory,
    "mean": MeanMemory,
    "hard": HardMemory,
}


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
    """Features of all images: ``0.5 * (g(image) + g(mirrored image))``, where g has length one.

    Where several processes train together, each extracts its share and all get all features.

    Args:
        encoder: Takes ``(images, modality)`` and gives (B, D) features; images go to the device of
            its parameters, batch by batch.
        images: N images of one size, read a batch at a time: an ``ImageReader``, for instance.
        modality: (N,) integers, 0 visible and 1 infrared, or these two words.
        batch_size: Number of images in a forward pass.
        workers: Number of processes that read ahead.
        normalize_mean: Whether to normalize the mean again, as evaluation does and clustering does
            not.
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
    count, ranks = len(images), distributed.world_size()
    modality = check_visible_infrared(modality, count, "modality", "one per image").cpu()
    bounds = [count * part // ranks for part in range(ranks + 1)]
    first, last = bounds[distributed.rank()], bounds[distributed.rank() + 1]
    batches = [
        list(range(start, min(start + batch_size, last)))
        for start in range(first, last, batch_size)
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
            f"{int(bad[0])}: training has diverged; lower the learning rate"
        )
    return features


def read_batches(images: Images, batches: list[list[int]], workers: int) -> DataLoader[Any]:
    """A loader of (B, 3, H, W) uint8 images, one batch for each list of rows.

    It does not touch the global random state.

    Args:
        images: N images of one size, read a batch at a time.
        batches: Rows of the images of each batch.
        workers: Number of processes that read ahead. There is at most one for each CPU, since
            PyTorch warns of more.
    """
    dataset: Dataset[Any] = images  # type: ignore[assignment]  # it has what a loader asks for
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(workers, _num_cpus()),
        collate_fn=_as_read,  # type: ignore[arg-type]  # what __getitems__ gave
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # else a seed for the workers is drawn from the global one
    )


def _num_cpus() -> int:
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_read(images: Tensor) -> Tensor:
    return images


def cluster_modalities(
    features: Tensor,
    modality: Column,
    options: ClusteringConfig | None = None,
    *,
    chosen: Tensor | None = None,
) -> Tensor:
    """Clusters each modality alone, by the classic distance (preset ``spcl``).

    Args:
        features: (N, D).
        modality: (N,) integers >= 0, bool or words.
        options: ``k1_alone``, ``k2_alone``, ``eps`` and ``min_samples`` are read.
        chosen: (N,) bool, the samples to cluster; all by default.

    Returns:
        (N,) int64 labels from 0 in each modality, on the features' device; noise, and what was not
        chosen, is -1.

    Example:
        >>> import torch
        >>> from mabm import train
        >>> features, modality = torch.eye(4).repeat_interleave(10, dim=0), torch.arange(40) % 2
        >>> options = train.ClusteringConfig(k1=10, k2=2)
        >>> train.cluster_modalities(features, modality, options)[::10].tolist()
        [0, 1, 2, 3]
    """
    options = options or ClusteringConfig()
    x = check_features(features)
    groups = check_modality(modality, len(x), x.device, "modality")
    labels = torch.full_like(groups, NOISE)
    distance, clusterer = options.distance_alone, options.clusterer
    for group in torch.unique(groups).tolist():
        members = torch.nonzero((groups == group) & _mask(chosen, labels)).flatten()
        if len(members):
            labels[members] = _cluster(x[members], None, distance, clusterer)
    return labels


def _cluster(
    x: Tensor, groups: Tensor | None, distance: DistanceOptions, clusterer: DBSCAN
) -> Tensor:
    # Without the advice of pseudo_labels on eps: clusters are large in the first epochs, and the
    # history records them for every epoch.
    return clusterer(prune(encode_features(x, groups, distance), clusterer.max_distance))


def _groups(modality: object, features: Tensor) -> Tensor:
    each = "one group per row of features"
    found = check_categories(modality, len(features), "modality", each, takes_bool=True)
    return found.columns[0].to(features.device)


def _mask(chosen: Tensor | None, labels: Tensor) -> Tensor:
    if chosen is None:
        return torch.ones_like(labels, dtype=torch.bool)
    return chosen.to(labels.device)


def cluster_together(
    features: Tensor,
    modality: Column,
    alone: Labels,
    options: ClusteringConfig | None = None,
    *,
    chosen: Tensor | None = None,
    camera: Column | None = None,
) -> Tensor:
    """Finds clusters across modalities, as ``options.association`` says.

    Args:
        features: (N, D).
        modality: (N,) integers >= 0, bool or words.
        alone: (N,) labels, or :class:`mabm.PseudoLabels`, of each modality alone; what
            ``"hungarian"`` and ``"sinkhorn"`` match.
        options: Association and its parameters.
        chosen: (N,) bool, the samples to cluster globally; all by default. Matching takes what
            ``alone`` has clustered.
        camera: (N,) integers or words, read by presets that tell cameras apart
            (``"ca_jaccard"``): their groups are the cameras of each modality, or, where ``None`` is
            given, the modalities.

    Returns:
        (N,) int64 labels on the features' device; noise, and what was not chosen, is -1.

    Example:
        >>> import torch
        >>> from mabm import train
        >>> features, modality = torch.eye(4).repeat_interleave(10, dim=0), torch.arange(40) % 2
        >>> options = train.ClusteringConfig(k1=10, k2=2)
        >>> alone = train.cluster_modalities(features, modality, options)
        >>> train.cluster_together(features, modality, alone, options)[::10].tolist()
        [0, 1, 2, 3]
    """
    options = options or ClusteringConfig()
    x = check_features(features)
    groups = check_modality(modality, len(x), x.device, "modality")
    labels = torch.full_like(groups, NOISE)
    if options.association == "off":
        return labels
    if options.association in ("hungarian", "sinkhorn"):
        return associate_clusters(features, alone, groups, method=options.association).labels
    if camera is not None:
        found = check_categories(camera, len(x), "camera", "one per row of features")
        camera = found.columns[0].to(x.device)
    groups = distance_groups(groups, camera, options)
    rows = torch.nonzero(_mask(chosen, labels)).flatten()
    if len(rows):
        present = groups[rows]
        num_groups = len(torch.unique(present))
        distance = distance_together(options, num_groups).for_groups(num_groups)
        labels[rows] = _cluster(x[rows], present, distance, options.clusterer)
    return labels


def distance_groups(modality: Tensor, camera: Tensor | None, options: ClusteringConfig) -> Tensor:
    """The groups that the distance across modalities tells apart.

    Args:
        modality: (N,) int64.
        camera: (N,) int64, or ``None`` where it is not known.
        options: Preset and association.

    Returns:
        (N,) int64: the modality, or a number for each camera of each modality where the preset
        tells cameras apart.
    """
    is_camera = options.association != "naive" and options.distance.preset.group_is_camera
    if camera is None or not is_camera:
        return modality
    # A camera that sees by day and by night has two kinds of images.
    pairs = torch.stack([modality, camera])
    groups: Tensor = torch.unique(pairs, dim=1, return_inverse=True)[1]
    return groups


def distance_together(options: ClusteringConfig, num_modalities: int) -> DistanceOptions:
    """The distance by which samples of so many modalities are clustered together.

    Blind to modality (``"naive"``), as many rows are averaged in all as by the modality-aware
    distance, which takes ``k2`` of each modality.
    """
    distance = options.distance
    if options.association == "naive":
        k2 = min(distance.k2 * num_modalities, distance.k1)
        return replace(distance, preset=PRESETS["spcl"], k2=k2)
    return distance


def build_memory(
    source: PrototypeSplit[Tensor] | Tensor, options: ContrastConfig | None = None
) -> Memory:
    """Builds a memory, of the kind that the options name, from the prototypes of ``source``.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes of one cluster each.
        options: Kind of the memory (``memory``) and its ``momentum``.

    Returns:
        A :class:`mabm.HybridMemory`, :class:`mabm.MeanMemory` or :class:`mabm.HardMemory`.

    Example:
        >>> import torch
        >>> from mabm import train
        >>> train.build_memory(torch.eye(3), train.ContrastConfig(memory="mean", momentum=0.2))
        MeanMemory(3 prototypes of 3 dimensions, momentum=0.2)
    """
    options = options or ContrastConfig()
    kind: type[Memory] = _MEMORIES[options.memory]
    return kind(source, momentum=options.momentum)


def split_within(
    features: Tensor, labels: Labels, modality: Column, group: int
) -> PrototypeSplit[Tensor]:
    """Prototypes of the clusters of one modality; samples of the others count as noise.

    Args:
        features: (N, D).
        labels: (N,) labels, or :class:`mabm.PseudoLabels`.
        modality: (N,) integers >= 0, bool or words.
        group: Number of the modality whose clusters count.
    """
    each = "one per row of features"
    clusters = check_labels(labels, len(features), "labels", each).to(features.device)
    counts = _groups(modality, features) == group
    return split_prototypes(features, torch.where(counts, clusters, NOISE))


def contrast_within(
    features: Tensor, targets: Tensor, memory: Memory, options: ContrastConfig | None = None
) -> Tensor:
    """Loss within a modality: against both banks of a hybrid memory, or the one of another kind.

    Args:
        features: (B, D).
        targets: (B,) rows of the memory, -1 for noise.
        memory: Memory of the clusters of the modality.
        options: The ``temperature``, and the ``margin`` of a hybrid memory.

    Returns:
        Scalar loss.

    Example:
        >>> import torch
        >>> from mabm import train
        >>> memory, targets = train.build_memory(torch.eye(3)), torch.tensor([0, 2, -1])
        >>> f"{train.contrast_within(torch.eye(3)[targets], targets, memory):.4f}"
        '0.0000'
    """
    options = options or ContrastConfig()
    if isinstance(memory, HybridMemory):
        return hybrid_contrast_loss(
            features,
            memory.prototypes,
            targets,
            temperature=options.temperature,
            margin=options.margin,
        )
    return cluster_contrast_loss(
        features, memory.prototypes, targets, temperature=options.temperature
    )


def contrast_across(
    features: Tensor, targets: Tensor, memory: Memory, options: ContrastConfig | None = None
) -> Tensor:
    """Loss across modalities: all prototypes of a sample's cluster against the hardest others.

    Args:
        features: (B, D).
        targets: (B,) rows of the memory, -1 for noise.
        memory: Memory of the split prototypes.
        options: The ``temperature``, and ``num_selected``, the number of prototypes in the softmax.

    Returns:
        Scalar loss.

    Example:
        >>> import torch, mabm
        >>> from mabm import train
        >>> features, labels = torch.randn(40, 8), torch.arange(40) % 5
        >>> split = mabm.split_prototypes(features, labels, torch.arange(40) // 20)
        >>> memory = train.build_memory(split)
        >>> train.contrast_across(features[:4], split.targets[:4], memory).shape
        torch.Size([])
    """
    options = options or ContrastConfig()
    return split_contrast_loss(
        features,
        targets,
        memory,
        temperature=options.temperature,
        num_selected=options.num_selected,
    )
