"""Drop-in modules: the names that existing code bases import, implemented by this library.

There is one public module for each family of code bases. It reads the old arguments, calls the
public functions of mabm and returns results as the old code did. Either change the import lines
(``python -m mabm.compat FOLDER`` does this), or keep them and call :func:`install` first.

Private packages: ``_adapters`` has what the drop-ins share, ``_imports`` the table of old names and
the import finders, ``_tool`` the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from types import MappingProxyType

from mabm.compat._imports.families import TABLE, names_of
from mabm.compat._imports.hook import replace_modules

__all__ = ["FAMILIES", "install"]

FAMILIES: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        name: MappingProxyType({path: names_of(path) for path in family.paths()})
        for name, family in TABLE.items()
    }
)
"""For each family its old modules, and for each name in them the module here; read-only."""


def install(family: str, package: str | None = None) -> tuple[str, ...]:
    """Redirects the old import paths of a family to this library, in the running process.

    Call it before the code base's own imports; names that were imported earlier do not change.
    The modules of ``FAMILIES`` then provide the listed names from this library. Any other name
    comes from the code base's own module, which is loaded when the name is first accessed. Other
    modules are not affected. If a package does not exist, an empty one takes its place, so the
    imports also work without the code base.

    If faiss is not installed, scripts and modules of these packages can still import it: they get
    an empty stand-in that raises an ``ImportError`` when one of its names is used.

    Args:
        family: ``"clustercontrast"`` (all paths of that package and of SpCL), ``"bmil"``,
            ``"modal_invariant"``, ``"hhcl"``, ``"spcl"``, ``"pplr"``, ``"cap"``, ``"ca_jaccard"``,
            ``"reranking"``, ``"fastreid"`` or ``"evaluation"``.
        package: The package with the family's modules, if it has another name:
            ``"hhcl"`` for ``hhcl.utils.faiss_rerank``, ``"a.b"`` for ``a.b.utils.faiss_rerank``,
            ``""`` for ``utils.faiss_rerank``.

    Returns:
        The redirected import paths.

    Raises:
        TypeError: ``package`` is not a string.
        ValueError: The family is unknown, or ``package`` is not a valid package name.

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
