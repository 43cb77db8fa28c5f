"""The steps of an epoch as plain functions: cluster, build memories, contrast.

None of them needs the trainer, keeps state or draws random numbers. They can be reordered, skipped
or replaced: :mod:`mabm.train.run` is one way to combine them.

With ``shared=True``, all processes that train together call the steps that cluster, with the same
arguments. Each clusters its share of the samples, and all get the labels that one process would
find.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor

from mabm._core.arrays import check_features
from mabm._core.columns import (
    Column,
    Labels,
    check_categories,
    check_labels,
    check_modality,
)
from mabm._core.partition import NOISE
from mabm._core.processes import PATIENCE
from mabm.cluster.association import associate_clusters
from mabm.cluster.dbscan import DBSCAN
from mabm.contrast.losses.cluster_contrast import cluster_contrast_loss
from mabm.contrast.losses.hybrid_contrast import hybrid_contrast_loss
from mabm.contrast.losses.split_contrast import split_contrast_loss
from mabm.contrast.memories.hard import HardMemory
from mabm.contrast.memories.hybrid import HybridMemory
from mabm.contrast.memories.mean import MeanMemory
from mabm.contrast.prototypes import PrototypeSplit, split_prototypes
from mabm.distance.centering import center_groups
from mabm.distance.jaccard import encode_features, prune
from mabm.distance.options import DistanceOptions
from mabm.distance.presets import PRESETS
from mabm.distributed.calls import open_call
from mabm.distributed.pseudo_labels import cluster_call
from mabm.train import distributed
from mabm.train.config import ClusteringConfig, ContrastConfig

Memory: TypeAlias = MeanMemory | HardMemory | HybridMemory

_MEMORIES: Final[dict[str, type[Memory]]] = {
    "hybrid": HybridMemory,
    "mean": MeanMemory,
    "hard": HardMemory,
}


def cluster_modalities(
    features: Tensor,
    modality: Column,
    options: ClusteringConfig | None = None,
    *,
    chosen: Tensor | None = None,
    shared: bool = False,
) -> Tensor:
    """Clusters each modality separately, by the classic distance (preset ``spcl``).

    Args:
        features: (N, D).
        modality: (N,) integers >= 0, bool or words.
        options: ``k1_alone``, ``k2_alone``, ``eps`` and ``min_samples`` are used.
        chosen: (N,) bool, the samples to cluster; all by default.
        shared: Whether all processes that train together call this with the same arguments, and
            each clusters its share of the samples. All get the same labels.

    Returns:
        (N,) int64 labels, numbered from 0 in each modality, on the device of the features; noise
        and samples that were not chosen are -1.

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
    for group in torch.unique(groups).tolist():
        members = torch.nonzero((groups == group) & _mask(chosen, labels)).flatten()
        if len(members):
            labels[members] = _cluster(
                x[members], None, options.distance_alone, options.clusterer, shared
            )
    return labels


def _cluster(
    x: Tensor,
    groups: Tensor | None,
    distance: DistanceOptions,
    clusterer: DBSCAN,
    shared: bool,
) -> Tensor:
    if not shared or distributed.world_size() == 1:
        # Without the warnings of pseudo_labels about eps: clusters are large in the first epochs,
        # and the history records them for every epoch.
        return clusterer(prune(encode_features(x, groups, distance), clusterer.max_distance))
    own = distributed.own_rows(len(x))
    with open_call(
        "clustering",
        x[own],
        None if groups is None else groups[own],
        None,
        PATIENCE,
        k1=distance.k1,
        k2=distance.k2,
        preset=distance.preset,
        precision=distance.precision,
        check_more=lambda: (None, {"clusterer": clusterer}),
    ) as call:
        found = cluster_call(call, clusterer)
    return distributed.join_ragged(found.labels)


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
    shared: bool = False,
) -> Tensor:
    """Finds clusters across modalities by the method ``options.association``.

    Args:
        features: (N, D).
        modality: (N,) integers >= 0, bool or words.
        alone: (N,) labels, or :class:`mabm.PseudoLabels`, within each modality; ``"hungarian"``
            and ``"sinkhorn"`` match these clusters.
        options: Association and its parameters.
        chosen: (N,) bool, the samples to cluster globally; all by default. Matching uses the
            clusters in ``alone`` instead.
        camera: (N,) integers or words, used by presets that compare cameras (``"ca_jaccard"``):
            their groups are the cameras of each modality, or the modalities if ``None``.
        shared: Whether all processes that train together call this with the same arguments, and
            each clusters its share of the samples. All get the same labels.

    Returns:
        (N,) int64 labels on the device of the features; noise and samples that were not chosen
        are -1.

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
        matched = associate_clusters(features, alone, groups, method=options.association).labels
        if shared:  # machines may round similarities differently
            matched = distributed.share(matched.cpu()).to(x.device)
        return matched
    rows = torch.nonzero(_mask(chosen, labels)).flatten()
    members = x[rows]
    if centers(options):
        members = center_groups(members, groups[rows])
    if camera is not None:
        found = check_categories(camera, len(x), "camera", "one per row of features")
        camera = found.columns[0].to(x.device)
    groups = distance_groups(groups, camera, options)
    if len(rows):
        present = groups[rows]
        num_groups = len(torch.unique(present))
        distance = distance_together(options, num_groups).for_groups(num_groups)
        labels[rows] = _cluster(members, present, distance, options.clusterer, shared)
    return labels


def centers(options: ClusteringConfig) -> bool:
    """Whether clustering across modalities centers the features first.

    Matching the clusters of each modality (``"hungarian"``, ``"sinkhorn"``) does not.
    """
    return options.center_modalities and options.association in ("modality-aware", "naive")


def distance_groups(modality: Tensor, camera: Tensor | None, options: ClusteringConfig) -> Tensor:
    """The groups that the distance across modalities distinguishes.

    Args:
        modality: (N,) int64.
        camera: (N,) int64, or ``None`` if not known.
        options: Preset and association.

    Returns:
        (N,) int64: the modality, or a number for each camera of each modality if the preset
        compares cameras.
    """
    is_camera = options.association != "naive" and options.distance.preset.group_is_camera
    if camera is None or not is_camera:
        return modality
    # A camera that records both by day and by night has two kinds of images.
    pairs = torch.stack([modality, camera])
    groups: Tensor = torch.unique(pairs, dim=1, return_inverse=True)[1]
    return groups


def distance_together(options: ClusteringConfig, num_modalities: int) -> DistanceOptions:
    """The distance for clustering samples of several modalities together.

    With ``"naive"``, which ignores modality, as many neighbors are averaged in total as by the
    modality-aware distance, which averages ``k2`` per modality.
    """
    distance = options.distance
    if options.association == "naive":
        k2 = min(distance.k2 * num_modalities, distance.k1)
        return replace(distance, preset=PRESETS["spcl"], k2=k2)
    return distance


def build_memory(
    source: PrototypeSplit[Tensor] | Tensor, options: ContrastConfig | None = None
) -> Memory:
    """Builds a memory of the chosen kind from the prototypes of ``source``.

    Args:
        source: A :class:`mabm.PrototypeSplit`, or (P, D) prototypes, each its own cluster.
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
    """Returns the prototypes of one modality's clusters; all other samples count as noise.

    Args:
        features: (N, D).
        labels: (N,) labels, or :class:`mabm.PseudoLabels`.
        modality: (N,) integers >= 0, bool or words.
        group: Number of the modality.
    """
    each = "one per row of features"
    clusters = check_labels(labels, len(features), "labels", each).to(features.device)
    counts = _groups(modality, features) == group
    return split_prototypes(features, torch.where(counts, clusters, NOISE))


def contrast_within(
    features: Tensor, targets: Tensor, memory: Memory, options: ContrastConfig | None = None
) -> Tensor:
    """Loss within a modality: against both banks of a hybrid memory, or the bank of other kinds.

    Args:
        features: (B, D).
        targets: (B,) prototypes in the memory, -1 for noise.
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
        targets: (B,) prototypes in the memory, -1 for noise.
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
