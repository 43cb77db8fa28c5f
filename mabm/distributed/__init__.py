"""The same results on several processes: each has its own rows and gets the results of its rows.

The processes are those of a group of ``torch.distributed``, for instance started by ``torchrun``.
All functions give the bits that one process gives for all rows, for any number of processes and any
split of the rows.
"""

from mabm.distributed.errors import ProcessError
from mabm.distributed.pipeline import dbscan, jaccard_graph, rank_neighbors
from mabm.distributed.pseudo_labels import pseudo_labels
from mabm.distributed.records import ShardGraph, ShardLabels, ShardRanking

__all__ = [
    "ProcessError",
    "ShardGraph",
    "ShardLabels",
    "ShardRanking",
    "dbscan",
    "jaccard_graph",
    "pseudo_labels",
    "rank_neighbors",
]


def __dir__() -> list[str]:
    return __all__
