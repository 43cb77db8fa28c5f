"""The report of a run: from its files while it goes on, with clusters and searches at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from mabm._core.modalities import MODALITIES, MODALITY_NAMES
from mabm.data import DATA_SETS, UNKNOWN, ImageSet
from mabm.report.page import write_report
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.report.story import DataFacts
from mabm.train import distributed
from mabm.train.clusters import Clusters, find_clusters
from mabm.train.config import Config
from mabm.train.config_files import to_toml, to_tree
from mabm.train.contrasts import needs_global_clusters
from mabm.train.extraction import extract_features
from mabm.train.image_names import name_images
from mabm.train.inputs import Inputs
from mabm.train.position import STAGES
from mabm.train.records.environment import describe_environment
from mabm.train.records.files import HISTORY, REPORT
from mabm.train.records.history import History
from mabm.train.records.reading import RunRecord, read_environment, read_run
from mabm.train.scoring import extract_test_features
from mabm.train.steps import distance_groups, distance_together

_SECONDS_TO_REFRESH: Final = 30  # a page costs a browser little, and an epoch is seldom shorter


def report_run(encoder: nn.Module, inputs: Inputs, config: Config, folder: Path) -> None:
    """Clusters the training images and searches the test images once more, and writes the page.

    All processes take part; the first one writes.

    Args:
        encoder: Encoder that the run ended with.
        inputs: Images of the run.
        config: Configuration of the run.
        folder: Folder of the run, with ``history.jsonl`` and ``environment.json``.

    Raises:
        ImportError: A package that draws or fills the page is missing.
        OSError: The page cannot be written.
    """
    device = next(encoder.parameters()).device
    size, workers = config.batch.evaluation, config.data.workers
    features = extract_features(
        encoder, inputs.train, inputs.modality, batch_size=size, workers=workers
    ).to(device)
    tested = None
    if len(inputs.test):
        tested = extract_test_features(encoder, inputs.test, batch_size=size, workers=workers)
    last = max((stage for stage in STAGES if config.stage(stage).epochs), default=STAGES[0])
    modality = inputs.modality.to(device)
    clusters = find_clusters(
        features,
        modality,
        replace(config.clustering, subset_ratio=1.0),  # all images, whatever an epoch takes
        together=needs_global_clusters(last),
        camera=inputs.cameras,
    )
    if distributed.rank():
        return
    data_set = DATA_SETS[inputs.data.name]
    train, test = inputs.data.train, inputs.data.test
    distance = distance_together(config.clustering, len(MODALITIES))
    write_report(
        folder / REPORT,
        title=_title(to_tree(config), folder),
        config_toml=to_toml(config),
        environment=read_environment(folder) or describe_environment(),
        history=History(folder / HISTORY).read(),
        clustering=ClusteringSnapshot(
            clusters.compared(features, modality, config.clustering),
            labels_shown(clusters, modality),
            train.modality,
            inputs.train.__getitems__,
            identity=train.identity,
            k1=distance.k1,
            k2=distance.k2,
            eps=config.clustering.eps,
            preset=distance.preset,
            groups=distance_groups(inputs.modality, inputs.cameras, config.clustering),
            identity_names=data_set.identity_name,
            image_names=name_images(train, data_set, config.data.root),
        ),
        retrieval=[]
        if tested is None
        else [
            RetrievalSnapshot.from_search(
                tested,
                test.identity,
                test.camera,
                test.modality,
                task=task,
                read=inputs.test.__getitems__,
                image_names=name_images(test, data_set, config.data.root),
            )
            for task in data_set.search_tasks
        ],
        data=_count_images(train, test, data_set.modality_names),
        note=data_set.note,
        modality_names=data_set.modality_names,
    )


def _count_images(train: ImageSet, test: ImageSet, names: Mapping[int, str]) -> DataFacts:
    known = np.unique(train.identity[train.identity != UNKNOWN])
    return DataFacts(
        {names[group]: int((train.modality == group).sum()) for group in MODALITIES},
        len(known) if (train.identity != UNKNOWN).all() else None,
        len(test),
        len(np.unique(test.identity)),
    )


def report_progress(folder: Path, output: Path | None = None) -> Path:
    """Writes the page of a run from the files in its folder, without clusters and searches.

    The page of a run that goes on is read again by the browser that shows it.

    Args:
        folder: Folder of the run, with ``history.jsonl``.
        output: The page; ``None`` is ``report.html`` in the folder.

    Returns:
        The page.

    Raises:
        ImportError: A package that draws or fills the page is missing.
        OSError: A file cannot be read, or the page cannot be written.
        ValueError: A file of the run is damaged.
    """
    record = read_run(folder)
    data_set = DATA_SETS.get(str(_setting(record.settings, "data.name")))
    return write_report(
        folder / REPORT if output is None else output,
        title=_title(record.settings, folder),
        config_toml=record.config_toml,
        environment=record.environment,
        history=record.history,
        note=data_set.note if data_set else "",
        modality_names=data_set.modality_names if data_set else MODALITY_NAMES,
        status=_describe_progress(record),
        refresh=0 if record.is_finished else _SECONDS_TO_REFRESH,
    )


def _describe_progress(record: RunRecord) -> str:
    """What the page of :func:`report_progress` shows, and what it lacks."""
    if record.is_finished:
        return (
            "Training is over. This page was made from the history: without clusters and searches."
        )
    last = record.history[-1] if record.history else {"stage": 0, "epoch": 0}
    words = "before the first epoch"
    if last["stage"]:
        words = f"after stage {last['stage']}, epoch {last['epoch']}"
        if epochs := _setting(record.settings, f"stage{last['stage']}.epochs"):
            words += f" of {epochs}"
    written = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return (
        f"Training is not over. This page shows the run {words}, at {written}. It is written again "
        "after every epoch; clusters and searches are added at the end."
    )


def _title(settings: Mapping[str, Any], folder: Path) -> str:
    """What a run trains on, by which association and with which seed; its folder if not known."""
    told = [_setting(settings, key) for key in ("data.name", "clustering.association", "run.seed")]
    if None in told:
        return folder.absolute().name
    return "{}, {} association, seed {}".format(*told)


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """A value of a configuration by its dotted name; ``None`` without one."""
    table, _, key = name.partition(".")
    fields = settings.get(table)
    return fields.get(key) if isinstance(fields, Mapping) else None


def labels_shown(clusters: Clusters, modality: torch.Tensor) -> torch.Tensor:
    """Global clusters; without any, those of each modality, numbered one after the other."""
    if clusters.together is not None:
        return clusters.together
    labels = clusters.alone.clone()
    start = 0
    for group in torch.unique(modality).tolist():
        rows = (modality == group) & (labels >= 0)
        labels[rows] += start
        if bool(rows.any()):
            start = int(labels[rows].amax()) + 1
    return labels
