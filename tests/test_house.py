"""The house: folders are stages, imports run one way between them, and no circle joins modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mabm

ROOT = Path(mabm.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

ORDER = (
    "_core",
    "distance",
    "reference",
    "cluster",
    "contrast",
    "data",
    "evaluation",
    "models",
    "report",
    "train",
    "demo",
    "cli",
    "compat",
)
"""Folders and files of the top floor: each imports from those before it alone."""

TAKES_THE_FRONT_DOOR = {"demo", "cli", "compat", "__main__"}
"""What may import the public names from ``mabm`` itself, as users do."""


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Modules of the package that one imports, in functions too, but not for types alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for_types = {
        id(below)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "mabm":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mabm":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else str(node.module)), node.lineno


def stage(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_order_names_what_there_is() -> None:
    assert {*ORDER, "", "__main__"} == {stage(module) for module in MODULES}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"mabm", "mabm.__main__"}))
def test_imports_run_one_way(module: str) -> None:
    backward = []
    for imported, line in imports(module):
        if imported == "mabm":
            allowed = stage(module) in TAKES_THE_FRONT_DOOR
        else:
            allowed = ORDER.index(stage(imported)) <= ORDER.index(stage(module))
        if not allowed:
            backward.append(f"{MODULES[module]}:{line} imports {imported}")
    assert backward == []


def test_no_circle_joins_modules() -> None:
    graph = {
        module: {imported for imported, _ in imports(module)} - {module, "mabm"}
        for module in MODULES
        if module != "mabm"
    }
    state: dict[str, bool] = {}  # False while it is being visited, True when done

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module):
            return
        assert module not in state, " -> ".join([*path[path.index(module) :], module])
        state[module] = False
        for imported in sorted(graph.get(module, ())):
            visit(imported, (*path, module))
        state[module] = True

    for module in sorted(graph):
        visit(module, ())
