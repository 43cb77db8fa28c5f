"""The samples of ``mabm cluster``: read by one process, or by each of several its share."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from mabm._core.arrays import check_features
from mabm._core.processes import PATIENCE, join_rows, rows_of
from mabm.cli.command import UsageError, shows_bars
from mabm.cli.files.arrays import Source, suffix_of
from mabm.cli.files.inputs import STANDARD, opened, read_features, read_modality
from mabm.cli.files.modalities import Modality
from mabm.cli.files.row_files import RowFiles
from mabm.cli.processes import Processes
from mabm.cluster.dbscan import DBSCAN
from mabm.cluster.pseudo_labels import PseudoLabels
from mabm.distance.centering import Joining, center_modalities, center_share
from mabm.distributed import pseudo_labels

NO_MODALITY: Final = "none"
"""Stands for no modality in place of a file name."""


@dataclass(frozen=True)
class Samples:
    """The samples to cluster, of which this process has its rows.

    Attributes:
        features: (M, D) of this process, on its device.
        rows: Their rows, of all N.
        shape: (N, D) of all processes together.
        modality: The modality of all N samples, if there is one.
    """

    features: Tensor
    rows: slice
    shape: tuple[int, ...]
    modality: Modality | None

    @property
    def groups(self) -> Tensor | None:
        """(M,) int64, the modality of the rows of this process, on its device."""
        if self.modality is None:
            return None
        return self.modality.numbers[self.rows].to(self.features.device)


def check_shared(chosen: argparse.Namespace) -> None:
    """Refuses what several processes cannot do together.

    Raises:
        UsageError: The message says what to do instead.
    """
    alone = {
        "--sweep": (chosen.sweep is not None, "compare radii in one process"),
        "--max-memory": (chosen.max_memory is not None, "more processes need less memory in each"),
    }
    for option, (is_given, instead) in alone.items():
        if is_given:
            raise UsageError(f"{option} cannot be combined with torchrun: {instead}")
    if STANDARD in (chosen.features, chosen.modality):
        raise UsageError("- (standard input) cannot be combined with torchrun: give a file")
    features = Path(chosen.features)
    if features.is_file() and suffix_of(features) != ".npy":
        raise UsageError(
            f"FEATURES must be a .npy file or a folder of them under torchrun, got {features}"
        )
    if ":" in chosen.device:
        raise UsageError(
            f"--device must be auto, cpu or cuda under torchrun, got {chosen.device}: each process "
            "takes the GPU of its number"
        )


def read_samples(
    chosen: argparse.Namespace, device: torch.device, processes: Processes, stack: ExitStack
) -> Samples:
    """Reads the features of this process, and the modality of all samples.

    Args:
        chosen: The arguments of the command.
        device: Where the features go.
        processes: The processes that share the rows.
        stack: Closes what is opened.

    Raises:
        OSError: A file cannot be opened.
        UsageError: There is no modality, and one is needed.
        ValueError: A file contains something else.
    """
    features, rows, shape, beside = _read_rows(chosen, processes, stack)
    modality = _read_modality(chosen, beside, stack)
    if chosen.center_modalities and modality is None:
        raise UsageError("--center-modalities needs a modality: give --modality FILE")
    if processes.size > 1 and modality is not None and len(modality.numbers) != shape[0]:
        raise ValueError(
            f"{chosen.modality} must have {shape[0]} values, one per row of features, got "
            f"{len(modality.numbers)}"
        )
    return Samples(features.to(device), rows, shape, modality)


def _read_rows(
    chosen: argparse.Namespace, processes: Processes, stack: ExitStack
) -> tuple[Tensor, slice, tuple[int, ...], Modality | None]:
    """Features of this process, their rows, the shape of all, and the modality beside them."""
    source = stack.enter_context(opened(chosen.features))
    if processes.size == 1 and not source.path.is_dir():
        features, beside = read_features(source, chosen.key)
        return features, slice(None), tuple(features.shape), beside
    if chosen.key is not None:
        raise ValueError(
            f"--key must be omitted for {source}, which has no names; got {chosen.key}"
        )
    files = RowFiles.of(source)
    if chosen.modality not in (None, NO_MODALITY, STANDARD) and Path(chosen.modality).is_dir():
        RowFiles.of(Source.of(Path(chosen.modality))).check_beside(files)
    rows = slice(None)
    if processes.size > 1:
        rows = rows_of(processes.rank, processes.size, len(files))
    features = files.features(rows)
    return features, rows, (len(files), features.shape[1]), None


def _read_modality(
    chosen: argparse.Namespace, beside: Modality | None, stack: ExitStack
) -> Modality | None:
    """The modality of all samples."""
    if chosen.modality == NO_MODALITY:
        return None
    if chosen.modality is not None:
        return read_modality(stack.enter_context(opened(chosen.modality)))
    if beside is None and chosen.preset != "spcl":
        raise UsageError(
            f"give --modality FILE, or --modality {NO_MODALITY} to cluster without one"
        )
    return beside


def centered(samples: Samples, processes: Processes) -> Samples:
    """Centers the features of all processes by the means of each modality.

    Raises:
        ValueError: The modality has not one number >= 0 for each row, or a row is not finite.
    """
    features, groups, modality = samples.features, samples.groups, samples.modality
    assert groups is not None
    assert modality is not None
    if processes.size == 1:
        return replace(samples, features=center_modalities(features, groups))
    group_of, counts = torch.unique(modality.numbers, return_inverse=True, return_counts=True)[1:]
    x = center_share(
        check_features(features),
        group_of[samples.rows].to(features.device),
        counts.to(features.device),
        _join,
    )
    return replace(samples, features=x)


def _join(values: Tensor, how: Joining) -> Tensor:
    joined = values.clone()
    dist.all_reduce(joined, dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
    return joined


def cluster_rows(
    chosen: argparse.Namespace, clusterer: DBSCAN, samples: Samples, processes: Processes
) -> PseudoLabels[Tensor]:
    """Returns the labels of all samples, to which each process adds those of its rows."""
    own = pseudo_labels(
        samples.features,
        samples.groups,
        clusterer=clusterer,
        timeout=PATIENCE,
        progress=processes.rank == 0 and shows_bars(chosen),
        **distance_of(chosen),
    )
    assert own.core is not None  # DBSCAN has cores
    labels, core = join_rows(own.labels, own.core.to(torch.uint8))
    groups = None if samples.modality is None else samples.modality.numbers.to(labels.device)
    return PseudoLabels(labels, groups, None, core.bool())


def distance_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options of the distance, as functions of the library take them."""
    names = "k1", "k2", "preset", "precision"
    return {name: getattr(chosen, name) for name in names}
