"""Cluster-Contrast and its descendants: replaces their ``faiss_rerank`` and ``models.cm``."""

from mabm.compat.clustercontrast.distance import compute_jaccard_distance
from mabm.compat.clustercontrast.memory import ClusterMemory
from mabm.compat.clustercontrast.products import cm, cm_hard, cm_hybrid

__all__ = ["ClusterMemory", "cm", "cm_hard", "cm_hybrid", "compute_jaccard_distance"]
