"""Old import paths that resolve here, and the examples of every drop-in."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mabm import compat


@pytest.fixture(autouse=True)
def _old_paths_are_gone_afterwards() -> Iterator[None]:
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if not name.startswith("mabm"):
            del sys.modules[name]


MODULES = ["mabm.compat", *(f"mabm.compat.{m.name}" for m in pkgutil.iter_modules(compat.__path__))]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs("infomap")) if "infomap" in name else name
        for name in MODULES
    ],
)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("family", compat.FAMILIES)
def test_every_path_resolves_to_the_drop_in(family: str) -> None:
    assert compat.install(family) == tuple(compat.FAMILIES[family])
    compat.install(family)  # twice does no harm
    for path, names in compat.FAMILIES[family].items():
        module = importlib.import_module(path)
        for name, here in names.items():
            expected = getattr(importlib.import_module(f"mabm.compat.{here}"), name)
            assert getattr(module, name) is expected


def run(code: str, cwd: Path | None = None) -> str:
    path = str(Path(__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({path!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "from caj.utils.caj_rerank import compute_jaccard_distance as f",
        "import caj.utils.caj_rerank as m; f = m.compute_jaccard_distance",
        "import caj.utils.caj_rerank; f = caj.utils.caj_rerank.compute_jaccard_distance",
        "from caj.utils import caj_rerank as m; f = m.compute_jaccard_distance",
        "from caj.utils.caj_rerank import *; f = compute_jaccard_distance",
    ],
)
@pytest.mark.parametrize("has_code_base", [False, True])
def test_every_form_of_import_with_and_without_the_code_base(
    tmp_path: Path, statement: str, has_code_base: bool
) -> None:
    if has_code_base:
        write_code_base(tmp_path)
    code = (
        f"import mabm.compat\nmabm.compat.install('ca_jaccard')\n{statement}\nprint(f.__module__)"
    )
    assert run(code, tmp_path).strip() == "mabm.compat.ca_jaccard"


def write_code_base(root: Path) -> None:
    """A package as it is today, whose module needs a faiss that is not there."""
    package = root / "caj" / "utils"
    package.mkdir(parents=True)
    (root / "caj" / "__init__.py").write_text("from . import utils\n")
    (package / "__init__.py").write_text("from .caj_rerank import compute_jaccard_distance\n")
    (package / "caj_rerank.py").write_text("import faiss\n")
    (package / "meters.py").write_text("class AverageMeter: pass\n")


def test_the_rest_of_the_code_base_is_its_own(tmp_path: Path) -> None:
    write_code_base(tmp_path)
    found = run(
        "import mabm.compat\n"
        "mabm.compat.install('ca_jaccard')\n"
        "from caj.utils.meters import AverageMeter\n"
        "import caj.utils\n"
        "print(AverageMeter.__module__, caj.utils.compute_jaccard_distance.__module__)",
        tmp_path,
    )
    assert found.split() == ["caj.utils.meters", "mabm.compat.ca_jaccard"]


def test_a_module_that_is_loaded_already_is_replaced(tmp_path: Path) -> None:
    write_code_base(tmp_path)
    (tmp_path / "caj" / "utils" / "caj_rerank.py").write_text("compute_jaccard_distance = 1\n")
    found = run(
        "import caj.utils.caj_rerank, mabm.compat\n"
        "mabm.compat.install('ca_jaccard')\n"
        "from caj.utils import caj_rerank\n"
        "print(caj_rerank.compute_jaccard_distance.__module__)",
        tmp_path,
    )
    assert found.strip() == "mabm.compat.ca_jaccard"


def test_names_that_are_not_provided_are_not_found() -> None:
    compat.install("ca_jaccard")
    with pytest.raises(ImportError, match="cannot import name 'v2jaccard'"):
        from caj.utils.caj_rerank import v2jaccard  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'caj\.utils\.meters'"):
        import caj.utils.meters  # noqa: F401


def test_nothing_changes_before_install_and_importing_mabm_imports_no_drop_in() -> None:
    found = run(
        "before = list(sys.meta_path)\n"
        "import mabm\n"
        "print([name for name in sys.modules if name.startswith('mabm.compat')])\n"
        "import mabm.compat\n"
        "print(sys.meta_path == before, [m for m in sys.modules if m.startswith('mabm.compat.')])"
    )
    assert found.split("\n")[:2] == ["[]", "True []"]


def readme_rows() -> list[tuple[str, str]]:
    """(this line, that line) of each code base in the README."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    return re.findall(r"\| `(from .* import .*)` \| `(from mabm\.compat\..* import .*)` \|", text)


def test_the_readme_names_every_family() -> None:
    assert {row[1].split()[1].split(".")[-1] for row in readme_rows()} == set(compat.FAMILIES)


@pytest.mark.parametrize(("this_line", "that_line"), readme_rows())
def test_this_line_of_the_readme_imports_what_that_line_does(
    this_line: str, that_line: str
) -> None:
    found: list[dict[str, object]] = [{}, {}]
    for family in compat.FAMILIES:
        compat.install(family)
    for line, names in zip((this_line, that_line), found, strict=True):
        exec(line, names)
        del names["__builtins__"]
    assert found[0] == found[1]
    assert found[0]


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"family must be one of \('clustercontrast', .*got 'x'"):
        compat.install("x")
    with pytest.raises(TypeError):
        compat.FAMILIES["x"] = {}  # type: ignore[index]
