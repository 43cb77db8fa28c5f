"""What the docstrings of mabm need to become pages of the reference."""

import importlib
import inspect
import pkgutil
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Members that only the library itself calls, or PyTorch when it prints a module.
_INTERNAL = ("unchecked", "in_kind_of", "in_tensors", "tensors", "extra_repr")
_ROLES = ("class", "func", "meth", "attr", "data", "exc", "mod", "obj")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the handlers; that of docstrings comes before napoleon's."""
    app.connect("autodoc-process-docstring", complete_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True}


def complete_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Finds the docstring of re-exported data, and keeps prose from being read as a type."""
    if what == "data":
        lines[:] = docstring_of_data(name)
    if not any(lines):
        logger.warning("%s has no docstring", name)
    lines[:] = returns_as_field("\n".join(lines)).split("\n")
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a comment: before a colon in the first line, napoleon sees a type


def docstring_of_data(full_name: str) -> list[str]:
    """The lines below a constant, in the module that defines it; none where it has no docstring."""
    module, _, name = full_name.rpartition(".")
    source = inspect.getsource(importlib.import_module(module))
    imported = re.search(rf"^from (\S+) import (?:[^()\n]*|\([^)]*)\b{name}\b", source, re.M)
    if imported:
        return docstring_of_data(f"{imported[1]}.{name}")
    return list(ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), []))


def returns_as_field(docstring: str) -> str:
    """``Returns`` (or ``Yields``) as a field: napoleon would read a type up to its first colon."""

    def as_field(section: re.Match[str]) -> str:
        return f":returns: {section[1].strip()}\n\n"

    return re.sub(r"^(?:Returns|Yields):\n((?:[ ]+.*\n?|\n)+)", as_field, docstring, flags=re.M)


def skip_fields(
    app: Sphinx, what: str, name: str, value: object, skip: bool, options: object
) -> bool | None:
    """Leaves out internals, what others inject, and fields that their class explains."""
    is_field = (inspect.getdoc(value) or "").startswith("Alias for field number")
    is_injected = re.fullmatch(r"set_\w+_request", name)  # by scikit-learn
    return True if is_field or is_injected or name in _INTERNAL else None


def find_by_last_name(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Resolves a short name, such as ``Preset`` in the text of another package.

    Public objects are described once, under their public name. A reference may use their last name
    alone, the end of their name, or that in the module that defines them; a path that leads to
    something else, or nowhere, stays broken.
    """
    if node.get("refdomain") != "py" or node.get("reftype") not in _ROLES:
        return None
    python = env.get_domain("py")
    target = node["reftarget"]
    kinds = python.objtypes_for_role(node["reftype"], [])  # a function is no property of its name
    found = {
        name: entry
        for name, entry in python.objects.items()
        if not entry.aliased and entry.objtype in kinds and is_name_of(target, name)
    }
    if not found:
        return None
    shortest = min(found, key=lambda name: (name.count("."), name))
    same_depth = [name for name in found if name.count(".") == shortest.count(".")]
    if len(same_depth) > 1:
        return None
    node["reftarget"] = shortest
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", shortest, node, content)


def is_name_of(target: str, public: str) -> bool:
    """Whether a reference ends the public name of an object, or is where it is imported from."""
    if f".{public}".endswith(f".{target}"):
        return True
    owner, _, last = target.rpartition(".")
    public_owner, _, public_last = public.rpartition(".")
    if last != public_last:
        return False
    if (value := _imported(target)) is not None and value is _imported(public):
        return True
    # A field of a class is no attribute of it.
    return inspect.isclass(held := _imported(owner)) and held is _imported(public_owner)


def _imported(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None
