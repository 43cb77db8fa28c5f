"""Old import paths that resolve here, and the examples of every drop-in."""

import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
from fresh_interpreter import run_program

from mabm import compat

pytestmark = pytest.mark.usefixtures("_old_paths_are_gone_afterwards")

MODULES = ["mabm.compat", *(m.name for m in pkgutil.walk_packages(compat.__path__, "mabm.compat."))]


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
    path = str(Path(__file__).parents[2])
    result = run_program(f"import sys; sys.path.append({path!r})\n{code}", cwd)
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


def write_package(root: Path, **modules: str) -> None:
    """A code base in the package ``cc``; double underscores in names divide folders."""
    for name, text in modules.items():
        path = root.joinpath("cc", *name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, root / "cc"):
            (folder / "__init__.py").touch()
        path.write_text(text)


INSTALL_CC = "import mabm.compat\nmabm.compat.install('clustercontrast', package='cc')\n"


def test_other_names_are_the_real_module_s_and_it_is_loaded_when_they_are_asked_for(
    tmp_path: Path,
) -> None:
    write_package(
        tmp_path,
        models__cm="from .helper import WORD\nprint('loaded')\nclass ClusterMemory: pass\n"
        "class Memory_wise(ClusterMemory): word = WORD\n",
        models__helper="WORD = 'helped'\n",
    )
    found = run(
        f"{INSTALL_CC}"
        "from cc.models.cm import ClusterMemory\n"
        "import cc.models.cm as m\n"
        "print(hasattr(m, 'Memory_wise_v3'), hasattr(m, '__path__'), 'Memory_wise' in dir(m))\n"
        "from cc.models.cm import Memory_wise, cm\n"
        "import inspect, pickle\n"
        "print(ClusterMemory.__module__, Memory_wise.word, Memory_wise.__mro__[1].__module__)\n"
        "print(pickle.loads(pickle.dumps(Memory_wise)) is Memory_wise)\n"
        "print(inspect.getsource(Memory_wise).split()[1], m.Memory_wise is Memory_wise)",
        tmp_path,
    )
    assert found.splitlines() == [
        "False False True",
        "loaded",
        "mabm.compat.clustercontrast.memory helped cc.models.cm",
        "True",
        "Memory_wise(ClusterMemory): True",
    ]


def test_a_real_module_that_cannot_be_imported_is_named_with_the_reason(tmp_path: Path) -> None:
    write_package(tmp_path, models__cm="import not_here_at_all\nclass Memory_wise: pass\n")
    found = run(
        f"{INSTALL_CC}"
        "from cc.models.cm import ClusterMemory\n"
        "try:\n    from cc.models.cm import Memory_wise\n"
        "except ImportError as error:\n    print(error, '/', type(error.__cause__).__name__)\n"
        "import cc.models.cm as m, pickle, numpy\n"
        "print(hasattr(m, 'add'), pickle.loads(pickle.dumps(numpy.add)) is numpy.add)",
        tmp_path,
    )
    message, rest = found.splitlines()
    assert message.startswith("cannot import name 'Memory_wise' from 'cc.models.cm': ")
    assert str(tmp_path / "cc" / "models" / "cm.py") in message
    assert message.endswith("No module named 'not_here_at_all' / ModuleNotFoundError")
    assert rest == "False True"


@pytest.mark.parametrize("imports", ["", "import not_here_at_all\n"])
def test_star_imports_and_all_have_our_names_and_the_real_ones(
    tmp_path: Path, imports: str
) -> None:
    write_package(tmp_path, utils__rerank=f"{imports}def other(): pass\ndef re_ranking(): pass\n")
    found = run(
        f"{INSTALL_CC}"
        "from cc.utils.rerank import *\n"
        "import cc.utils.rerank as m\n"
        "print(re_ranking.__module__, 'other' in globals(), sorted(m.__all__))",
        tmp_path,
    )
    has_other = not imports
    names = ["compute_jaccard_dist", *["other"][: int(has_other)], "re_ranking"]
    assert found.strip() == f"mabm.compat.reranking {has_other} {names}"


def test_relative_imports_within_the_code_base_resolve_here_too(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        evaluators="from .utils.rerank import re_ranking, extra\n",
        utils__rerank="def extra(): pass\n",
        utils__faiss_rerank="import not_here_at_all\n",
    )
    (tmp_path / "cc/utils/__init__.py").write_text(
        "from .faiss_rerank import compute_jaccard_distance\n"
    )
    found = run(
        f"{INSTALL_CC}"
        "from cc.evaluators import re_ranking, extra\n"
        "from cc.utils import compute_jaccard_distance as f\n"
        "print(re_ranking.__module__, extra.__module__, f.__module__)",
        tmp_path,
    )
    expected = "mabm.compat.reranking cc.utils.rerank mabm.compat.clustercontrast.distance"
    assert found.strip() == expected


def test_a_reloaded_module_stays_ours(tmp_path: Path) -> None:
    write_package(tmp_path, utils__rerank="WORD = 1\n")
    found = run(
        f"{INSTALL_CC}"
        "import cc.utils.rerank as m, importlib\n"
        "first = m.WORD\n"
        "open(m.__file__, 'w').write('WORD = 222\\n')\n"
        "again = importlib.reload(m)\n"
        "print(again is m, first, m.WORD, m.re_ranking.__module__)",
        tmp_path,
    )
    assert found.strip() == "True 1 222 mabm.compat.reranking"


def test_what_was_loaded_before_is_the_real_module_afterwards(tmp_path: Path) -> None:
    write_package(tmp_path, models__cm="print('loaded')\nclass Other: pass\n")
    found = run(
        "from cc.models.cm import Other\n"
        f"{INSTALL_CC}{INSTALL_CC}"
        "from cc.models import cm\n"
        "print(cm.Other is Other, cm.ClusterMemory.__module__.startswith('mabm.'))",
        tmp_path,
    )
    assert found.splitlines() == ["loaded", "True True"]


@pytest.mark.parametrize("package", ["hhcl", "a.b", ""])
def test_a_package_of_any_name(package: str) -> None:
    prefix = f"{package}." if package else ""
    assert f"{prefix}utils.faiss_rerank" in compat.install("clustercontrast", package=package)
    for path, names in compat.FAMILIES["bmil"].items():
        module = importlib.import_module(prefix + path.partition(".")[2])
        for name in names:
            assert getattr(module, name).__module__.startswith("mabm.compat.")


def test_hhcl_s_memory_is_told_by_its_package_or_its_own_names(tmp_path: Path) -> None:
    compat.install("clustercontrast", package="hhcl")
    assert importlib.import_module("hhcl.models.cm").cm_hybrid.__module__ == "mabm.compat.hhcl"
    write_package(tmp_path, models__cm="def cm_hybrid_v2(): pass\n")
    found = run(
        f"{INSTALL_CC}from cc.models.cm import ClusterMemory as m\nprint(m.__module__)", tmp_path
    )
    assert found.strip() == "mabm.compat.hhcl"


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("a-b", ValueError),
        ("a..b", ValueError),
        ("class", ValueError),
        ("mabm", ValueError),
        (3, TypeError),
    ],
)
def test_invalid_package_names_are_refused(package: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"package must .*got "):
        compat.install("clustercontrast", package=package)


def test_modules_that_import_faiss_load_without_it_and_tell_when_it_is_used(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        utils__faiss_rerank="import faiss\nfrom .faiss_utils import search\n"
        "def compute_other(): return search(1)\n",
        utils__faiss_utils="import faiss\n"
        "def search(x, metric=faiss.METRIC_L2): return faiss.IndexFlatL2(x)\n",
    )
    if importlib.util.find_spec("faiss") is not None:
        pytest.skip("faiss is installed; the stand-in replaces it only if it is not")
    found = run(
        f"{INSTALL_CC}"
        "from cc.utils.faiss_rerank import compute_other\n"
        "try:\n    compute_other()\n"
        "except ImportError as error:\n    print(error.name, error)\n"
        "import faiss, types\n"
        "new = lambda base: types.new_class('X', (base,))\n"
        "for use in (bool, len, int, list, lambda x: x[0], new):\n"
        "    try:\n        use(faiss.METRIC_L2)\n"
        "    except ImportError:\n        print('refused', end=' ')",
        tmp_path,
    )
    first, rest = found.splitlines()
    assert first.startswith("faiss faiss.IndexFlatL2 is used, and faiss is not installed")
    assert rest.split() == ["refused"] * 6


def test_no_other_code_finds_the_stand_in_for_faiss(tmp_path: Path) -> None:
    if importlib.util.find_spec("faiss") is not None:
        pytest.skip("faiss is installed; the stand-in replaces it only if it is not")
    (tmp_path / "library.py").write_text(
        "try:\n    import faiss\nexcept ImportError:\n    faiss = None\n"
        "import importlib.util\nspec = importlib.util.find_spec('faiss')\n"
    )
    found = run(f"{INSTALL_CC}import library\nprint(library.faiss, library.spec)", tmp_path)
    assert found.strip() == "None None"


@pytest.mark.parametrize(
    "statement", ["import faiss", "import faiss.contrib.torch_utils", "from faiss import IndexFlat"]
)
@pytest.mark.parametrize("importer", ["script", "module", "real module"])
def test_a_library_finds_no_faiss_after_the_code_base_has_imported_it(
    tmp_path: Path, statement: str, importer: str
) -> None:
    if importlib.util.find_spec("faiss") is not None:
        pytest.skip("faiss is installed; the stand-in replaces it only if it is not")
    write_package(
        tmp_path,
        utils__faiss_rerank=f"{statement}\ndef compute_other(): pass\n",
        utils__faiss_utils=f"{statement}\n",
    )
    (tmp_path / "library.py").write_text(
        "try:\n    import faiss\nexcept ImportError:\n    faiss = None\n"
        "import importlib.util\nspec = importlib.util.find_spec('faiss')\n"
    )
    imports = {
        "script": statement,
        "module": "import cc.utils.faiss_utils",
        "real module": "from cc.utils.faiss_rerank import compute_other",
    }[importer]
    code = f"{INSTALL_CC}{imports}\nimport library\n{statement}\nprint(library.faiss, library.spec)"
    assert run(code, tmp_path) == "None None\n"
    if importer == "real module":  # gone as soon as that module is loaded
        assert run(f"{INSTALL_CC}{imports}\nprint('faiss' in sys.modules)", tmp_path) == "False\n"


def test_nothing_changes_before_install_and_importing_mabm_imports_no_drop_in() -> None:
    found = run(
        "before = list(sys.meta_path)\n"
        "import mabm\n"
        "print([name for name in sys.modules if name.startswith('mabm.compat')])\n"
        "import mabm.compat\n"
        "names = [m for m in sys.modules if m.startswith('mabm.compat.')]\n"
        "print(sys.meta_path == before, [m for m in names if not m.startswith('mabm.compat._')])"
    )
    assert found.split("\n")[:2] == ["[]", "True []"]


@pytest.mark.parametrize("family", [None, 3, ["clustercontrast"]])
def test_a_family_that_is_not_a_string_is_refused(family: object) -> None:
    with pytest.raises(ValueError, match="family must be one of"):
        compat.install(family)  # type: ignore[arg-type]


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"family must be one of \('clustercontrast', .*got 'x'"):
        compat.install("x")
    with pytest.raises(TypeError):
        compat.FAMILIES["x"] = {}  # type: ignore[index]
