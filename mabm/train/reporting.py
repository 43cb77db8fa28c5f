"""The report of a run: clusters and searches of the encoder that it ended with."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mabm._core.modalities import MODALITIES
from mabm.data import DATA_SETS
from mabm.report.page import write_report
from mabm.report.snapshots import ClusteringSnapshot, RetrievalSnapshot
from mabm.train import distributed
from mabm.train.clusters import Clusters, find_clusters
from mabm.train.config import Config
from mabm.train.config_files import to_toml
from mabm.train.contrasts import needs_global_clusters
from mabm.train.extraction import extract_features
from mabm.train.inputs import Inputs
from mabm.train.position import STAGES
from mabm.train.records.environment import describe_environment
from mabm.train.records.files import ENVIRONMENT, HISTORY, REPORT
from mabm.train.records.history import History
from mabm.train.scoring import extract_test_features
from mabm.train.steps import distance_groups, distance_together

logger = logging.getLogger(__name__)


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
    environment = _read_environment(folder)
    distance = distance_together(config.clustering, len(MODALITIES))
    write_report(
        folder / REPORT,
        title=f"{data_set.name}, {config.clustering.association} association, "
        f"seed {config.run.seed}",
        config_toml=to_toml(config),
        environment=environment,
        history=History(folder / HISTORY).read(),
        clustering=ClusteringSnapshot(
            features,
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
            )
            for task in data_set.search_tasks
        ],
        note=data_set.note,
        modality_names=data_set.modality_names,
    )


def _read_environment(folder: Path) -> dict[str, str]:
    """The environment that the run began in; if that file is gone or damaged, the present one."""
    path = folder / ENVIRONMENT
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning(
            "%s cannot be read (%s); the report shows the present environment", path, error
        )
        return describe_environment()
    if not isinstance(facts, dict):
        logger.warning("%s is no JSON object; the report shows the present environment", path)
        return describe_environment()
    return {str(name): str(words) for name, words in facts.items()}


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
