"""Drop-in modules: the names that existing code bases import, on top of this library.

One module for each family of code bases, and each is thin: it reads the old arguments, calls the
public functions, and shapes the result as the old code did. Change the import line, or leave it as
it is and call :func:`install` before it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType

__all__ = ["FAMILIES", "install"]

_CLASSIC = {
    "compute_jaccard_distance": "clustercontrast",
    "compute_modal_invariant_jaccard_distance": "modal_invariant",
}
_XMODAL = {"compute_jaccard_distance_xmodal": "bmil"}
_MEMORY = dict.fromkeys(("ClusterMemory", "cm", "cm_hard", "cm_hybrid"), "clustercontrast")
_DIST = dict.fromkeys(
    (
        "build_dist",
        "compute_jaccard_distance",
        "compute_euclidean_distance",
        "compute_cosine_distance",
    ),
    "fastreid",
)
_RE_RANKING = {"re_ranking": "reranking"}
_CLUSTERCONTRAST = {
    "clustercontrast.utils.faiss_rerank": _CLASSIC,
    "clustercontrast.utils.faiss_rerank_xmodal": _XMODAL,
    "clustercontrast.models.cm": _MEMORY,
}

FAMILIES: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "clustercontrast": {
            **_CLUSTERCONTRAST,
            "spcl.utils.faiss_rerank": _CLASSIC,
            "utils.faiss_rerank": _CLASSIC,
            "util.faiss_rerank": _CLASSIC,
        },
        "bmil": _CLUSTERCONTRAST,
        "modal_invariant": _CLUSTERCONTRAST,
        "ca_jaccard": {"caj.utils.caj_rerank": {"compute_jaccard_distance": "ca_jaccard"}},
        "reranking": dict.fromkeys(
            (
                "re_ranking",
                "utils.re_ranking",
                "utils.reranking",
                "torchreid.utils.rerank",
                "fastreid.evaluation.rerank",
            ),
            _RE_RANKING,
        ),
        "fastreid": {
            "fastreid.utils.compute_dist": _DIST,
            "openunreid.core.utils.compute_dist": _DIST,
        },
        "evaluation": {
            "eval_metrics": dict.fromkeys(("eval_sysu", "eval_regdb", "eval_llcm"), "evaluation")
        },
    }
)
"""For each family the old modules, and for each name in them the module here; read-only."""


def install(family: str) -> tuple[str, ...]:
    """Makes the old import paths of a family resolve to this library, in the running process.

    Call it before the code base's own imports; a name that was imported already stays what it was.
    Only the modules listed in ``FAMILIES`` are replaced, each as a whole: names that it held beside
    those listed are gone. The packages around them stay the real ones; where there is none, an
    empty one stands in, so that the imports work without the code base too.

    Args:
        family: ``"clustercontrast"`` (every path of that package, and those of SpCL), ``"bmil"``,
            ``"modal_invariant"``, ``"ca_jaccard"``, ``"reranking"``, ``"fastreid"`` or
            ``"evaluation"``.

    Returns:
        The paths that resolve here from now on.

    Raises:
        ValueError: The family is unknown.

    Example:
        >>> from mabm.compat import install
        >>> install("ca_jaccard")
        ('caj.utils.caj_rerank',)
        >>> from caj.utils.caj_rerank import compute_jaccard_distance
        >>> compute_jaccard_distance.__module__
        'mabm.compat.ca_jaccard'
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got {family!r}")
    paths = FAMILIES[family]
    _modules.paths.update(paths)
    if _modules not in sys.meta_path:
        sys.meta_path.insert(0, _modules)  # before the code base, whose modules are replaced
        sys.meta_path.append(_packages)  # after it, whose packages are not
    for path in paths:
        replaced = sys.modules.pop(path, None)
        package = path.rpartition(".")[0]
        if replaced is not None or package in sys.modules:
            importlib.import_module(path)  # so that the package's attribute is the new one
    return tuple(paths)


class _Modules(MetaPathFinder, Loader):
    """Finds the old modules here."""

    def __init__(self) -> None:
        self.paths: dict[str, Mapping[str, str]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.paths:
            return None
        return ModuleSpec(fullname, self, origin=__name__)

    def exec_module(self, module: ModuleType) -> None:
        names = self.paths[module.__name__]
        module.__doc__ = f"Stands in for {module.__name__}: see {__name__}."
        for name, here in names.items():
            setattr(module, name, getattr(importlib.import_module(f"{__name__}.{here}"), name))
        module.__dict__["__all__"] = list(names)


class _Packages(MetaPathFinder):
    """Finds an empty package where an old module's own is nowhere else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(module.startswith(f"{fullname}.") for module in _modules.paths):
            return None
        return ModuleSpec(fullname, None, is_package=True)


_modules = _Modules()
_packages = _Packages()


def __dir__() -> list[str]:
    return __all__
