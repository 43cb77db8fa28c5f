"""mabm finds unlabeled images of the same person across visible and infrared cameras.

The pipeline runs one way, each arrow one public function: features -> ranks
(:func:`rank_neighbors`) -> neighbors (:func:`k_reciprocal_neighbors`) -> encoding
(:func:`encode_neighbors`, :func:`expand_queries`) -> distances (:func:`jaccard_distance`, or a
graph by :func:`prune_distances`) -> labels (:class:`DBSCAN`, or your own) -> prototypes
(:func:`split_prototypes`, memories) -> losses. :func:`jaccard_graph` and :func:`modality_jaccard`
run it from features to distances, and :func:`pseudo_labels` from features to labels.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mabm._core import extension as _extension

_extension.load()

from mabm._core import registrations as _registrations
from mabm._core.extension import BuildInfo, backends, build_info
from mabm._core.version import __version__ as __version__
from mabm._core.work import Progress

_registrations.register()

from mabm.cluster.association import associate_clusters, match_clusters, transport_plan
from mabm.cluster.dbscan import DBSCAN, Clusterer
from mabm.cluster.estimate import Estimate, estimate
from mabm.cluster.prediction import predict_labels
from mabm.cluster.pseudo_labels import ClusterSummary, PseudoLabels, pseudo_labels
from mabm.contrast.losses.cluster_contrast import ClusterContrastLoss, cluster_contrast_loss
from mabm.contrast.losses.hybrid_contrast import HybridContrastLoss, hybrid_contrast_loss
from mabm.contrast.losses.multi_positive import MultiPositiveLoss, multi_positive_loss
from mabm.contrast.losses.selection import select_hardest
from mabm.contrast.losses.split_contrast import SplitContrastLoss, split_contrast_loss
from mabm.contrast.memories.hard import HardMemory
from mabm.contrast.memories.hybrid import HybridMemory
from mabm.contrast.memories.mean import MeanMemory
from mabm.contrast.prototypes import PrototypeSplit, SplitSummary, split_prototypes
from mabm.contrast.samplers import IdentityBatchSampler
from mabm.distance.approximate import RankingRecall
from mabm.distance.centering import center_modalities
from mabm.distance.encoding import encode_neighbors, expand_queries
from mabm.distance.graph import NeighborGraph, SweepEntry
from mabm.distance.jaccard import (
    encode_samples,
    jaccard_distance,
    jaccard_graph,
    modality_jaccard,
    prune_distances,
)
from mabm.distance.neighbors import k_reciprocal_neighbors
from mabm.distance.presets import PRESETS, Preset
from mabm.distance.ranking import Ranking, rank_neighbors
from mabm.distance.reranking import RerankOptions, rerank
from mabm.distance.rows import Encoding, NeighborSets
from mabm.distance.search.certex_search import CertexSearch
from mabm.distance.search.cuvs_search import CuvsSearch
from mabm.distance.search.faiss_search import FaissSearch
from mabm.distance.search.protocol import NeighborSearch
from mabm.evaluation import (
    MORE_SEARCH_TASKS,
    PROTOCOLS,
    SEARCH_TASKS,
    RetrievalProtocol,
    RetrievalScores,
    SearchScores,
    SearchTask,
    draw_gallery,
    evaluate_retrieval,
    evaluate_search,
)

if TYPE_CHECKING:
    from mabm import compat as compat
    from mabm import data as data
    from mabm import demo as demo
    from mabm import distributed as distributed
    from mabm import models as models
    from mabm import reference as reference
    from mabm import report as report
    from mabm import train as train
    from mabm.cluster.estimator import ModalityDBSCAN

__all__ = [
    "DBSCAN",
    "MORE_SEARCH_TASKS",
    "PRESETS",
    "PROTOCOLS",
    "SEARCH_TASKS",
    "BuildInfo",
    "CertexSearch",
    "ClusterContrastLoss",
    "ClusterSummary",
    "Clusterer",
    "CuvsSearch",
    "Encoding",
    "Estimate",
    "FaissSearch",
    "HardMemory",
    "HybridContrastLoss",
    "HybridMemory",
    "IdentityBatchSampler",
    "MeanMemory",
    "ModalityDBSCAN",
    "MultiPositiveLoss",
    "NeighborGraph",
    "NeighborSearch",
    "NeighborSets",
    "Preset",
    "Progress",
    "PrototypeSplit",
    "PseudoLabels",
    "Ranking",
    "RankingRecall",
    "RerankOptions",
    "RetrievalProtocol",
    "RetrievalScores",
    "SearchScores",
    "SearchTask",
    "SplitContrastLoss",
    "SplitSummary",
    "SweepEntry",
    "associate_clusters",
    "backends",
    "build_info",
    "center_modalities",
    "cluster_contrast_loss",
    "draw_gallery",
    "encode_neighbors",
    "encode_samples",
    "estimate",
    "evaluate_retrieval",
    "evaluate_search",
    "expand_queries",
    "hybrid_contrast_loss",
    "jaccard_distance",
    "jaccard_graph",
    "k_reciprocal_neighbors",
    "match_clusters",
    "modality_jaccard",
    "multi_positive_loss",
    "predict_labels",
    "prune_distances",
    "pseudo_labels",
    "rank_neighbors",
    "rerank",
    "select_hardest",
    "split_contrast_loss",
    "split_prototypes",
    "transport_plan",
]

_LATE = ("compat", "data", "demo", "distributed", "models", "reference", "report", "train")


if not TYPE_CHECKING:  # with __getattr__ a type checker accepts any misspelled name

    def __getattr__(name: str) -> Any:
        """Loads sub-packages on first access, since some are slow to load or need an extra."""
        if name == "ModalityDBSCAN":
            from mabm.cluster.estimator import ModalityDBSCAN

            return ModalityDBSCAN
        if name in _LATE:
            return importlib.import_module(f"mabm.{name}")
        raise AttributeError(f"module 'mabm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATE, "evaluation", "__version__"])
