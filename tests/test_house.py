"""The house: folders are stages, imports run one way between them, and no circle joins modules."""

import ast
import re
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
    "distributed",
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
"""Folders and files of the top floor: each imports from those before it alone, and none imports the
public names from ``mabm`` itself, which imports them all."""


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
    allowed = ORDER[: ORDER.index(stage(module)) + 1]
    backward = [
        f"{MODULES[module]}:{line} imports {imported}"
        for imported, line in imports(module)
        if stage(imported) not in allowed
    ]
    assert backward == []


def test_no_circle_joins_modules() -> None:
    graph = {
        module: {imported for imported, _ in imports(module)} - {module}
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


CHECKOUT = Path(__file__).parents[1]
GUIDE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = "\n".join(GUIDE.split("```")[1::2])
SPANS = sorted(set(re.findall(r"`([^`]+)`", "".join(GUIDE.split("```")[::2]))))
FOLDERS = ("mabm", "csrc", "tests", "benchmarks", ".ci")
"""Folders that the guide speaks of; where it is clear, it leaves the first one of a path out."""


def is_there(path: str) -> bool:
    """Whether the guide's path is that of a file or folder; capitals stand for any name."""
    pattern = re.sub(r"\b[A-Z]{2,}\b", "*", path.rstrip("/"))
    if any(CHECKOUT.glob(pattern)):
        return True
    return any(next((CHECKOUT / folder).rglob(pattern), None) for folder in FOLDERS)


PATHS = {
    span for span in SPANS if re.fullmatch(r"[\w./-]*(/[\w.-]*|\.(py|cpp|cuh?|h|toml|md))", span)
}
PATHS |= set(re.findall(r"[\w.]+/[\w./]+", CODE))
PATHS |= set(re.findall(r"\]\(([^)#]+)\)", GUIDE))


def test_every_path_in_the_guide_is_there() -> None:
    assert len(PATHS) > 1
    assert [path for path in sorted(PATHS) if not is_there(path)] == []


def test_every_name_and_command_in_the_guide_is_there() -> None:
    files = [path for folder in FOLDERS[:3] for path in (CHECKOUT / folder).rglob("*.*")]
    sources = [path for path in files if path.suffix in {".py", ".cpp", ".h", ".cuh", ".cu"}]
    words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    names = {name for span in SPANS for name in re.findall(r"^[A-Za-z_]\w*(?=\(|$)", span)}
    assert names
    assert sorted(names - words) == []
    targets = re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"^make ([\w-]+)", CODE, re.M)) <= set(targets)
