"""A public name in code font, such as ``pseudo_labels`` or ``mabm.data.read_data``, is a link.

A forge shows the pages too, and knows no roles of Sphinx: there it is code.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the handler, after all names are known."""
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True}


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Links each name to its page, except on that page, in headings and within other links."""
    described = app.env.get_domain("py").objects
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()")
        entry = described.get(name if name.startswith("mabm.") else f"mabm.{name}")
        parents = (nodes.reference, nodes.title, nodes.term)
        if entry is None or entry.docname == docname or entry.objtype == "module":
            continue
        if any(isinstance(parent, parents) for parent in _ancestors(literal)):
            continue
        link = make_refnode(
            app.builder, docname, entry.docname, entry.node_id, literal.deepcopy(), name
        )
        literal.replace_self(link)


def _ancestors(node: nodes.Node) -> list[nodes.Node]:
    above = []
    while node.parent is not None:
        node = node.parent
        above.append(node)
    return above
