"""Pseudo-labels of samples that several processes share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Generic

import torch
import torch.distributed as dist
from torch import Tensor

from mabm._core.array_records import ArrayRecord
from mabm._core.arrays import ArrayT, like
from mabm._core.columns import Column, check_samples
from mabm._core.processes import join_rows
from mabm._core.work import Report
from mabm.cluster.dbscan import Clusterer
from mabm.cluster.pseudo_labels import ClusterSummary, PseudoLabels
from mabm.cluster.pseudo_labels import pseudo_labels as of_one_process
from mabm.distance.options import Precision
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2, Preset


def pseudo_labels(
    features: ArrayT,
    modality: Column | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    eps: float | None = None,
    min_samples: int | None = None,
    k1: int = DEFAULT_K1,
    k2: int = DEFAULT_K2,
    preset: str | Preset | None = None,
    precision: Precision = "exact",
    clusterer: Clusterer | None = None,
    timeout: float | timedelta | None = None,
    progress: bool | Report = False,
) -> PseudoLabels[ArrayT]:
    """Stand-in until the real one: joins all rows on every process."""
    x, groups, names = check_samples(features, modality)
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return of_one_process(
            features,
            modality,
            eps=eps,
            min_samples=min_samples,
            k1=k1,
            k2=k2,
            preset=preset,
            precision=precision,
            clusterer=clusterer,
        )
    columns = [x] if groups is None else [x, groups]
    joined = join_rows(*columns, group=group)
    counts = torch.cat(join_rows(torch.tensor([len(x)]), group=group)).tolist()
    whole = of_one_process(
        joined[0],
        joined[1] if groups is not None else None,
        eps=eps,
        min_samples=min_samples,
        k1=k1,
        k2=k2,
        preset=preset,
        precision=precision,
        clusterer=clusterer,
    )
    rank = dist.get_rank(group)
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    part = PseudoLabels(whole.labels[rows], groups, names, whole.core[rows])
    for name in ("num_noise", "num_spanning"):
        object.__setattr__(part, name, getattr(whole, name))
    object.__setattr__(part, "_sizes", whole._sizes)
    return part.in_kind_of(features)
