"""``python -m mabm.compat``: what it finds in a code base, and what it makes of it."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mabm.compat import FAMILIES
from mabm.compat.__main__ import main
from mabm.compat._tool.rewriting import plan_changes
from mabm.compat._tool.runs import RUNS

JACCARD = "from mabm.compat.clustercontrast import compute_jaccard_distance"


def rewritten(folder: Path, text: str, name: str = "train.py") -> str:
    """A file's text after the change."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    plan_changes(folder).write()
    return file.read_bytes().decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from a.utils.faiss_rerank import compute_jaccard_distance\n", f"{JACCARD}\n"),
        ("from faiss_rerank import compute_jaccard_distance as f  # why\n", f"{JACCARD} as f  # why\n"),
        ("import os; from a.faiss_rerank import compute_jaccard_distance; x = 1\n", f"import os; {JACCARD}; x = 1\n"),
        ("try:\n\tfrom .faiss_rerank import compute_jaccard_distance\nexcept ImportError:\n\tpass\n", f"try:\n\t{JACCARD}\nexcept ImportError:\n\tpass\n"),
        ("def f():\r\n    from a.faiss_rerank import compute_jaccard_distance\r\n", f"def f():\r\n    {JACCARD}\r\n"),
        (
            "from a.cm import (  # memory\n    ClusterMemory,  # one\n    cm as product,\n)\n",
            "from mabm.compat.clustercontrast import (  # memory\n    ClusterMemory,  # one\n    cm as product,\n)\n",
        ),
        ("from a.b.cm \\\n    import ClusterMemory\n", "from mabm.compat.clustercontrast \\\n    import ClusterMemory\n"),
        (
            "from a.models.cm import ClusterMemory,Memory_wise_v3 # two\n",
            "from mabm.compat.clustercontrast import ClusterMemory\nfrom a.models.cm import Memory_wise_v3 # two\n",
        ),
        (
            "if x:\n    from ..models.cm import (Other as o, ClusterMemory as M,  # ours\n        Third)\n",
            "if x:\n    # ours\n    from mabm.compat.clustercontrast import ClusterMemory as M\n    from ..models.cm import Other as o, Third\n",
        ),
        (
            "if x: from a.cm import ClusterMemory, Other\n",
            "if x: from mabm.compat.clustercontrast import ClusterMemory; from a.cm import Other\n",
        ),
        (
            "from a.faiss_rerank import compute_jaccard_distance,compute_ranked_list,compute_ranked_list_cm\r\nx = 1\r\n",
            f"{JACCARD}\r\nfrom mabm.compat.ranked_lists import compute_ranked_list, compute_ranked_list_cm\r\nx = 1\r\n",
        ),
        ("é = 'ü'; from a.rerank import re_ranking; ö = 1", "é = 'ü'; from mabm.compat.reranking import re_ranking; ö = 1"),
        ("from caj.utils.caj_rerank import compute_jaccard_distance\n", "from mabm.compat.ca_jaccard import compute_jaccard_distance\n"),
        ("from ..core.utils.compute_dist import build_dist\n", "from mabm.compat.fastreid import build_dist\n"),
        ("from spcl.models.hm import HybridMemory\n", "from mabm.compat.spcl import HybridMemory\n"),
        ("from hhcl.models.cm import ClusterMemory\n", "from mabm.compat.hhcl import ClusterMemory\n"),
        ("from util.eval_metrics import eval_sysu\n", "from mabm.compat.evaluation import eval_sysu\n"),
    ],
)  # fmt: skip
def test_an_import_line_changes_and_nothing_around_it(tmp_path: Path, old: str, new: str) -> None:
    assert rewritten(tmp_path, old) == new
    assert plan_changes(tmp_path).changes == ()  # a second time


@pytest.mark.parametrize(
    "text",
    [
        "from matplotlib.cm import get_cmap\nfrom matplotlib import cm\nimport matplotlib.cm as cm\n",
        "from mabm.compat.reranking import re_ranking\n",
        "# from a.faiss_rerank import compute_jaccard_distance\n",
        "x = 'from a.faiss_rerank import compute_jaccard_distance'\n",
        "from a.rerank_all import re_ranking\n",
    ],
)
def test_similar_lines_are_neither_changed_nor_reported(tmp_path: Path, text: str) -> None:
    assert rewritten(tmp_path, text) == text
    assert plan_changes(tmp_path).remarks == ()


def test_encoding_byte_order_mark_and_mode_of_a_file_stay(tmp_path: Path) -> None:
    latin, marked = tmp_path / "latin.py", tmp_path / "marked.py"
    line = "from a.rerank import re_ranking  # "
    latin.write_bytes(f"# coding: latin-1\n{line}Stra\xdfe\n".encode("latin-1"))
    marked.write_bytes(f"{line}Straße\n".encode("utf-8-sig"))
    latin.chmod(0o750)
    plan_changes(tmp_path).write()
    new = "from mabm.compat.reranking import re_ranking  # "
    assert latin.read_bytes() == f"# coding: latin-1\n{new}Stra\xdfe\n".encode("latin-1")
    assert marked.read_bytes() == f"{new}Straße\n".encode("utf-8-sig")
    assert stat.S_IMODE(latin.stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"print 'old'\n", "not Python 3"),
        (b"# coding: nothing\n", "unknown encoding"),
        (b"x = '\xff'\n", "encoding"),
        (b"x = 1\0\n", "null bytes"),
    ],
)
def test_an_unreadable_file_is_reported_and_the_others_are_changed(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    assert rewritten(tmp_path, "from a.rerank import re_ranking\n").startswith("from mabm")
    assert (tmp_path / "bad.py").read_bytes() == content
    (remark,) = plan_changes(tmp_path).remarks
    assert (remark.file, remark.line) == ("bad.py", 0)
    assert remark.reason.startswith("not read: ")
    assert reason in remark.reason


def write_code_base(root: Path) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/utils/__init__.py": "",
        "pkg/models/__init__.py": "",
        "pkg/utils/faiss_rerank.py": "import faiss\n"
        "def compute_jaccard_distance(target_features, k1=20, k2=6): pass\n"
        "def compute_knn(features): pass\n",
        "pkg/utils/rerank.py": "def re_ranking(q_g_dist, q_q_dist, g_g_dist, cids, args): pass\n",
        "pkg/models/cm.py": "class ClusterMemory:\n"
        "    def __init__(self, num_features, num_samples): pass\n"
        "    def forward(self, inputs, targets, corrected_targets): pass\n",
        "pkg/models/kmeans.py": "import faiss\n",
        "train.py": "from pkg.utils.faiss_rerank import compute_jaccard_distance\n"
        "from pkg.models.cm import ClusterMemory\n"
        "from pkg.utils.rerank import re_ranking\n"
        "import pkg.utils.faiss_rerank as f\n"
        "import importlib\n"
        "m = importlib.import_module('pkg.models.cm')\n"
        "@decorated\n"
        "def eval_sysu(distmat, q_pids, g_pids, q_camids, g_camids, max_rank = 20):\n"
        "    return 1\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_cannot_be_changed_is_reported_with_the_reason(tmp_path: Path) -> None:
    write_code_base(tmp_path)
    plan = plan_changes(tmp_path)
    assert [(c.file, c.line, c.new) for c in plan.changes] == [("train.py", 1, JACCARD)]
    told = {(r.file, r.line): f"{r.what}: {r.reason}" for r in plan.remarks}
    assert set(told) == {
        *(("train.py", line) for line in (2, 3, 4, 6, 7)),
        ("pkg/utils/faiss_rerank.py", 1),
    }
    assert "its forward takes corrected_targets" in told["train.py", 2]
    assert "its definition takes cids, args" in told["train.py", 3]
    assert "imports a module" in told["train.py", 4]
    assert "imports by a string" in told["train.py", 6]
    assert "replace these lines" in told["train.py", 7]
    assert [r.place for r in plan.remarks if "def eval_sysu" in r.what] == ["train.py:7-9"]
    assert "from mabm.compat.evaluation import eval_sysu" in told["train.py", 7]
    assert "faiss is still imported when train.py" in told["pkg/utils/faiss_rerank.py", 1]


def test_faiss_is_not_reported_if_nothing_imports_it_after_the_change(tmp_path: Path) -> None:
    write_code_base(tmp_path)
    (tmp_path / "train.py").write_text(
        "from pkg.utils.faiss_rerank import compute_jaccard_distance\n"
    )
    assert plan_changes(tmp_path).remarks == ()


def test_a_notebook_is_reported_and_not_changed(tmp_path: Path) -> None:
    cell = '{"cells": [{"cell_type": "code", "source": ["%s\\n"]}]}'
    old = cell % "from a.models.cm import ClusterMemory"
    (tmp_path / "train.ipynb").write_text(old)
    (tmp_path / "other.ipynb").write_text(cell % "from mabm import pseudo_labels")
    for folder in (tmp_path, tmp_path / "train.ipynb"):
        plan = plan_changes(folder)
        assert [(remark.file, remark.line) for remark in plan.remarks] == [("train.ipynb", 0)]
        assert "by hand" in plan.remarks[0].reason
        plan.write()
    assert (tmp_path / "train.ipynb").read_text() == old


def test_hidden_folders_and_virtual_environments_are_left_alone(tmp_path: Path) -> None:
    for name in (".git/x.py", "env/x.py", "lib/site-packages/x.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("from a.rerank import re_ranking\n")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert plan_changes(tmp_path).files == 0


def test_nothing_is_written_if_one_file_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from a.rerank import re_ranking\n"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(text)
    (tmp_path / "b" / f"x.py.{os.getpid()}.part").mkdir()  # where the new file would be written
    assert main([str(tmp_path), "--write"]) == 1
    assert (tmp_path / "a" / "x.py").read_text() == text
    assert "b/x.py: Is a directory" in capsys.readouterr().err


def test_the_command_lists_and_with_write_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_code_base(tmp_path)
    before = (tmp_path / "train.py").read_text()
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}: 8 files read, 1 line in 1 file to change" in printed
    assert "\n  old  from pkg.utils.faiss_rerank import compute_jaccard_distance\n" in printed
    assert f"\n  new  {JACCARD}\n       train.py:1\n" in printed
    assert "Nothing changed yet. Add --write to change the files." in printed
    assert (tmp_path / "train.py").read_text() == before
    assert main([str(tmp_path), "--write"]) == 0
    assert "Changed 1 line in 1 file." in capsys.readouterr().out
    assert (tmp_path / "train.py").read_text() == before.replace(before.split("\n")[0], JACCARD)
    assert main([str(tmp_path), "--write"]) == 0
    assert "Nothing to change." in capsys.readouterr().out


def test_equal_lines_are_listed_once_with_all_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"{'longer_' * (n % 3)}name_{n}.py:1" for n in range(12)]
    for place in places:
        (tmp_path / place.partition(":")[0]).write_text("from a.cm import cm, Other\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cm.py").write_text("def cm(inputs, indexes, features): pass\n")
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  old  from a.cm import cm, Other\n") == 1
    assert printed.count("  Other\n    not in mabm: still imported from the old module\n") == 1
    for place in places:
        assert len(re.findall(rf"(?<=[ ]){re.escape(place)}(?=[,\n])", printed)) == 2  # both lists
    assert max(map(len, printed.splitlines()[1:])) <= 100


def test_missing_folders_and_invalid_commands_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "FOLDER must be a folder or a Python file, got" in error
    with pytest.raises(SystemExit, match="2"):
        main([])


CHECKED = {
    "pkg/__init__.py": "import not_here_at_all\n",
    "pkg/utils/__init__.py": "",
    "pkg/utils/logging.py": "",  # hides nothing of Python's
    "pkg/utils/rerank.py": "from .distances import re_rank\n"
    "print('noise')\n"
    "def re_ranking(q_g_dist, q_q_dist, g_g_dist, k1=20, k2=6, lambda_value=0.3):\n"
    "    return re_rank(q_g_dist, q_q_dist, g_g_dist, k1, k2, lambda_value)\n",
    "pkg/utils/distances.py": "from mabm.compat.reranking import re_ranking as re_rank\n",
}


def write_checked(root: Path, **more: str) -> None:
    for name, text in {**CHECKED, **more}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "train.py").write_text("from pkg.utils.rerank import re_ranking\n")


def check(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mabm.compat", str(root), "--check", *more],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_check_runs_old_and_new_side_by_side(tmp_path: Path) -> None:
    write_checked(
        tmp_path,
        **{"pkg/utils/faiss_rerank.py": "import no_such_faiss\ndef compute_jaccard_distance(target_features, k1=20, k2=6): pass\n"},
    )  # fmt: skip
    result = check(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "pkg.utils.rerank.re_ranking\n    largest difference 0.0e+00, old " in result.stdout
    assert (
        "pkg.utils.faiss_rerank.compute_jaccard_distance\n    not compared: it cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_faiss'" in result.stdout
    )
    assert "\n1 compared, 1 within 1e-05; 1 not compared\n" in result.stdout
    assert "noise" not in result.stdout


def test_check_gives_a_memory_the_same_mode_whatever_its_default(tmp_path: Path) -> None:
    write_checked(
        tmp_path,
        **{"pkg/models/cm.py": "from mabm.compat.clustercontrast import ClusterMemory as Ours\n"
           "class ClusterMemory(Ours):\n"
           "    def __init__(self, num_features, num_samples, temp=0.05, momentum=0.2,\n"
           "                 use_hard=False, sample_type='hard'):\n"
           "        super().__init__(num_features, num_samples, temp, momentum,\n"
           "                         sample_type=sample_type)\n"},
    )  # fmt: skip
    result = check(tmp_path)
    assert result.returncode == 0, result.stdout
    assert "cm.ClusterMemory\n    largest difference 0.0e+00, old " in result.stdout


def test_check_reports_a_difference_and_nothing_is_written(tmp_path: Path) -> None:
    write_checked(
        tmp_path,
        **{"pkg/utils/distances.py": "from mabm.compat.reranking import re_ranking as f\n"
           "def re_rank(*args): return f(*args) + 2e-5\n"},
    )  # fmt: skip
    result = check(tmp_path, "--write")
    assert result.returncode == 1, result.stderr
    assert "MORE THAN 1e-05" in result.stdout
    assert "Nothing changed: old and new differ." in result.stdout
    assert (tmp_path / "train.py").read_text() == "from pkg.utils.rerank import re_ranking\n"


def test_every_name_of_the_table_can_be_compared() -> None:
    tables = [names for family in FAMILIES.values() for names in family.values()]
    assert {(here, name) for names in tables for name, here in names.items()} <= set(RUNS)
