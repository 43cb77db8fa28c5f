"""Drop-in modules: the names that existing code bases import, on top of this library.

One module for each family of code bases, and each is thin: it reads the old arguments, calls the
public functions, and shapes the result as the old code did. Change the import line (``python -m
mabm.compat FOLDER`` does it), or leave it as it is and call :func:`install` before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from types import MappingProxyType

from mabm.compat._families import TABLE, names_of
from mabm.compat._import_hook import replace_modules

__all__ = ["FAMILIES", "install"]

FAMILIES: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        name: MappingProxyType({path: names_of(path) for path in family.paths()})
        for name, family in TABLE.items()
    }
)
"""For each family the old modules, and for each name in them the module here; read-only."""


def install(family: str, package: str | None = None) -> tuple[str, ...]:
    """Makes the old import paths of a family resolve to this library, in the running process.

    Call it before the code base's own imports; a name that was imported already stays what it was.
    In the modules of ``FAMILIES`` the listed names are ours. Any other name is still that of the
    code base's own module, which is loaded when such a name is asked for. All other modules stay
    the real ones; where a package is missing, an empty one stands in, so that the imports work
    without the code base too.

    Where faiss is not installed, scripts and modules of these packages may still import it: an
    empty stand-in raises an ``ImportError`` when something of it is used.

    Args:
        family: ``"clustercontrast"`` (every path of that package, and those of SpCL), ``"bmil"``,
            ``"modal_invariant"``, ``"hhcl"``, ``"spcl"``, ``"pplr"``, ``"cap"``, ``"ca_jaccard"``,
            ``"reranking"``, ``"fastreid"`` or ``"evaluation"``.
        package: The package that holds the family's modules, where it has another name:
            ``"hhcl"`` for ``hhcl.utils.faiss_rerank``, ``"a.b"`` for ``a.b.utils.faiss_rerank``,
            ``""`` for ``utils.faiss_rerank``.

    Returns:
        The paths that resolve here from now on.

    Raises:
        TypeError: ``package`` is no string.
        ValueError: The family is unknown, or ``package`` is no name of a package.

    Example:
        >>> from mabm.compat import install
        >>> install("ca_jaccard")
        ('caj.utils.caj_rerank', 'caj.models.cm')
        >>> from caj.utils.caj_rerank import compute_jaccard_distance
        >>> compute_jaccard_distance.__module__
        'mabm.compat.ca_jaccard'
        >>> install("pplr", package="reid_tools")
        ('reid_tools.utils.faiss_rerank', 'reid_tools.utils.rerank')
    """
    if not isinstance(family, str) or family not in TABLE:
        raise ValueError(f"family must be one of {tuple(TABLE)}, got {family!r}")
    if package is not None:
        if not isinstance(package, str):
            raise TypeError(f"package must be a string, got {type(package).__name__}: {package!r}")
        parts = package.split(".") if package else []
        if not all(part.isidentifier() and not iskeyword(part) for part in parts):
            raise ValueError(
                f"package must be a dotted name such as 'hhcl', or '' for modules in the root, "
                f"got {package!r}"
            )
        if parts[:1] == ["mabm"]:
            raise ValueError(f"package must not be mabm itself, got {package!r}")
    paths = TABLE[family].paths(package)
    replace_modules(paths)
    return paths


def __dir__() -> list[str]:
    return __all__
