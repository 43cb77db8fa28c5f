"""The table of old import paths, and of the module here that has each of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_RE_RANKING = {"re_ranking": "reranking"}

NAMES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "faiss_rerank": {
            "compute_jaccard_distance": "clustercontrast",
            "compute_modal_invariant_jaccard_distance": "modal_invariant",
            "faiss_compute_jaccard_dist": "cap",
            "compute_ranked_list": "ranked_lists",
            "compute_ranked_list_cm": "ranked_lists",
        },
        "faiss_rerank_xmodal": {"compute_jaccard_distance_xmodal": "bmil"},
        "caj_rerank": {"compute_jaccard_distance": "ca_jaccard"},
        "rerank": {**_RE_RANKING, "compute_jaccard_dist": "reranking"},
        "re_ranking": _RE_RANKING,
        "reranking": _RE_RANKING,
        "compute_dist": dict.fromkeys(
            (
                "build_dist",
                "compute_jaccard_distance",
                "compute_euclidean_distance",
                "compute_cosine_distance",
            ),
            "fastreid",
        ),
        "cm": dict.fromkeys(("ClusterMemory", "cm", "cm_hard", "cm_hybrid"), "clustercontrast"),
        "hm": dict.fromkeys(("HybridMemory", "hm"), "spcl"),
        "infomap_cluster": dict.fromkeys(("get_dist_nbr", "cluster_by_infomap"), "infomap"),
        "eval_metrics": dict.fromkeys(("eval_sysu", "eval_regdb", "eval_llcm"), "evaluation"),
    }
)
"""By the last part of an old module's path: its names and the module here that has each."""


_HHCL: Final = dict.fromkeys(
    ("ClusterMemory", "cm", "cm_hard", "cm_hybrid", "cm_hybrid_v2"), "hhcl"
)
_HHCL_ALONE: Final = "cm_hybrid_v2"  # only HHCL's memory has this name

OPTIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "re_ranking": frozenset(
            (
                "g_g_dist",
                "k1",
                "k2",
                "lambda_value",
                "MemorySave",
                "Minibatch",
                "local_distmat",
                "only_local",
            )
        )
    }
)
"""Names of the arguments, from the third on, that ``*args, **options`` of a function accept."""


@dataclass(frozen=True)
class Family:
    """Code bases with the same modules.

    Attributes:
        packages: Default packages of ``modules``; ``install`` accepts another.
        modules: Old modules, as paths within the package.
        elsewhere: Full paths of modules outside these packages.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    elsewhere: tuple[str, ...] = field(default=())

    def paths(self, package: str | None = None) -> tuple[str, ...]:
        """Full paths of the old modules, in ``package`` or in the default packages."""
        packages = self.packages if package is None else (package,)
        elsewhere = self.elsewhere if package is None else ()
        inside = (f"{name}.{module}".lstrip(".") for name in packages for module in self.modules)
        return (*inside, *elsewhere)


_CLUSTERCONTRAST = (
    "utils.faiss_rerank",
    "utils.faiss_rerank_xmodal",
    "utils.rerank",
    "utils.infomap_cluster",
    "models.cm",
)
_SPCL = ("utils.faiss_rerank", "utils.rerank", "models.hm")
_REID = ("utils.faiss_rerank", "utils.rerank")

TABLE: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "clustercontrast": Family(
            ("clustercontrast",),
            _CLUSTERCONTRAST,
            (*(f"spcl.{module}" for module in _SPCL), "utils.faiss_rerank", "util.faiss_rerank"),
        ),
        "bmil": Family(("clustercontrast",), _CLUSTERCONTRAST),
        "modal_invariant": Family(("clustercontrast",), _CLUSTERCONTRAST),
        "hhcl": Family(("hhcl",), (*_REID, "models.cm")),
        "spcl": Family(("spcl",), _SPCL),
        "pplr": Family(("pplr",), _REID),
        "cap": Family(("reid",), _REID),
        "ca_jaccard": Family(("caj",), ("utils.caj_rerank", "models.cm")),
        "reranking": Family(
            ("",),
            ("re_ranking", "utils.re_ranking", "utils.reranking"),
            ("torchreid.utils.rerank", "fastreid.evaluation.rerank"),
        ),
        "fastreid": Family(("fastreid", "openunreid.core"), ("utils.compute_dist",)),
        "evaluation": Family(("", "util"), ("eval_metrics",)),
    }
)
"""The families of ``install`` by name."""


def names_of(path: str, held: Iterable[str] = ()) -> Mapping[str, str]:
    """Maps each replaced name of the old module ``path`` to the module here that has it.

    HHCL's memory has the same mode names as others but different losses. It is recognized by
    ``held``, the names in the old module, in any package.
    """
    last = path.rpartition(".")[2]
    if path == "hhcl.models.cm" or (last == "cm" and _HHCL_ALONE in held):
        return _HHCL
    return NAMES.get(last, {})
