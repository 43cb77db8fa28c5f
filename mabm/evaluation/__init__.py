"""Evaluation: scores of a ranked gallery, and the published search tasks of each data set.

:func:`evaluate_retrieval` scores one distance matrix. :func:`evaluate_search` runs a published
:class:`SearchTask` from features to scores: it selects the queries, draws the galleries of every
trial, ranks, and averages.
"""

from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.distance.reranking import RerankOptions
from mabm.evaluation.galleries import draw_gallery
from mabm.evaluation.retrieval import RetrievalScores, evaluate_retrieval
from mabm.evaluation.scores import SearchScores, format_search_scores
from mabm.evaluation.search import evaluate_search
from mabm.evaluation.tasks import MORE_SEARCH_TASKS, PROTOCOLS, SEARCH_TASKS, check_trial
from mabm.evaluation.within import evaluate_within_modalities

__all__ = [
    "MORE_SEARCH_TASKS",
    "PROTOCOLS",
    "SEARCH_TASKS",
    "RerankOptions",
    "RetrievalProtocol",
    "RetrievalScores",
    "SearchScores",
    "SearchTask",
    "check_trial",
    "draw_gallery",
    "evaluate_retrieval",
    "evaluate_search",
    "evaluate_within_modalities",
    "format_search_scores",
]


def __dir__() -> list[str]:
    return __all__
