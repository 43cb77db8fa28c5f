"""The command line: parsing, exit statuses, one-line errors, and each command."""

import csv
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import COMMANDS, Run
from packaging.requirements import Requirement
from safetensors.numpy import save_file

import mabm
from mabm.cli import main
from mabm.cli.commands import cluster

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def process(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mabm", *words],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def is_one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n")


# --- parsing and errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mabm {command} ")
    assert f"examples:\n  mabm {command}" in text
    assert "exit status:\n  0 " in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_a_value_tells_its_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.partition("\nexamples:")[0].split())
    options = text.partition("options: -h, --help ")[2]
    parts = re.split(r" (?=--[a-z0-9-]+ (?:[A-Z{][^ ]*|NAME\[:ROOT\]) )", f" {options}")[1:]
    assert command in ("info", "census", "completion", "report") or len(parts) > 2
    for part in parts:
        assert re.search(r"\((default: |required)", part), part


def test_cluster_says_what_k2_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cluster", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    said = text.partition("--k2 N neighbors ")[2].partition("--eps EPS")[0]
    assert "per modality with bmil, in total with spcl and modal_invariant" in said
    assert "ca_jaccard sets its own" in said
    # What it says is what the presets do: k2 rows of each list, or of all lists together.
    expansions = {name: preset.query_expansion for name, preset in mabm.PRESETS.items()}
    assert expansions == {
        "bmil": "list_means", "spcl": "merged", "modal_invariant": "merged_group_means",
        "ca_jaccard": "pooled",
    }  # fmt: skip


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*COMMANDS]


@pytest.mark.parametrize("words", [[], ["--quiet"]])
def test_no_command_prints_the_help(
    words: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert run(*words) == (0, text, "")


@pytest.mark.parametrize(
    "words", [["dance"], ["info", "--dance"], ["cluster"], ["info", "--quiet", "--verbose"]]
)
def test_words_that_make_no_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert is_one_line(told)
    assert told.endswith(" --help)\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"mabm {mabm.__version__}\n"


class OutsideError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("k1 must be\nsmall"), "mabm info: k1 must be small"),
        (ImportError("needs it: pip install it"), "mabm info: needs it: pip install it"),
        (FileNotFoundError(2, "No such file", "here.npy"), "mabm info: No such file: here.npy"),
        (MemoryError("too much"), "mabm info: too much"),
        (torch.OutOfMemoryError("lower k1"), "mabm info: lower k1"),
        (
            RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate 9 bytes"),
            "mabm info: not enough memory (--debug shows the traceback)",
        ),
        (OutsideError("odd"), "mabm info: OutsideError: odd (--debug shows the traceback)"),
        (KeyError("odd"), "mabm info: KeyError: 'odd' (--debug shows the traceback)"),
        (MemoryError(), "mabm info: MemoryError: (--debug shows the traceback)"),
    ],
)
def test_errors_are_one_line_and_debug_shows_where(
    error: Exception, line: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("mabm.cli.commands.info._facts", fail)
    assert run("info") == (1, "", f"{line}\n")
    for words in (("info", "--debug"), ("--debug", "info")):
        status, out, err = run(*words)
        assert (status, out) == (1, "")
        assert err.startswith("Traceback ")
        assert "in fail\n" in err
        assert err.endswith(f"{line}\n")


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mabm.cli.commands.info._facts", interrupt)
    assert run("info") == (130, "", "mabm info: interrupted\n")


def test_messages_of_the_library_go_to_standard_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("mabm")
    before = logger.level, list(logger.handlers), list(logging.getLogger().handlers)

    def speak() -> dict[str, str]:
        for level in ("debug", "info", "error"):
            getattr(logging.getLogger("mabm.some.module"), level)("an %s message", level)
        logging.getLogger("other").error("not ours")
        return {}

    monkeypatch.setattr("mabm.cli.commands.info._facts", speak)
    monkeypatch.setattr("mabm.cli.commands.info._in_lines", lambda _: "lines")
    assert run("info") == (0, "lines\n", "an info message\nan error message\n")
    assert run("info", "--quiet")[2] == "an error message\n"
    assert run("--quiet", "info")[2] == "an error message\n"
    assert run("info", "--verbose")[2].splitlines()[0] == "an debug message"
    assert before == (logger.level, list(logger.handlers), list(logging.getLogger().handlers))


def test_module_and_statuses_in_a_process(tmp_path: Path) -> None:
    helped = process("--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith("usage: mabm ")
    assert helped.stderr == ""
    failed = process("cluster", "missing.npy", "--modality", "none", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr == "mabm cluster: No such file or directory: missing.npy\n"
    assert process("cluster").returncode == 2


def test_closed_output_is_quiet() -> None:
    for words in (["info"], ["info", "--help"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "mabm", *words],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        os.close(write)
        assert done.stderr == ""
        assert done.returncode == (141 if words == ["info"] else 0)


def test_a_light_start() -> None:
    code = (
        "import sys, mabm.cli; late = ('PIL', 'matplotlib', 'sklearn', 'pydantic', 'mabm.data', "
        "'mabm.models', 'mabm.demo', 'mabm.train'); print([n for n in late if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- info


def test_info(run: Run) -> None:
    status, out, err = run("info")
    assert (status, err) == (0, "")
    facts = dict(line.split("  ", maxsplit=1) for line in out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["mabm"] == mabm.__version__
    assert facts["numpy"] == np.__version__
    assert facts["torch"].startswith(f"{torch.__version__} (ops built with ")
    assert facts["ops for"] == ", ".join(mabm.backends())
    assert "tqdm " in facts["extra demo"]


def test_info_in_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads(run("info", "--json")[1])
    info = mabm.build_info()
    assert facts["mabm"] == info.version
    assert facts["backends"] == list(info.backends)
    assert facts["built_with"]["cuda"] == info.cuda
    assert facts["devices"][0] == "cpu"
    assert facts["extras"]["train"]["pillow"] is not None
    monkeypatch.setattr("mabm.cli.commands.info._EXTRAS", {"train": ("mabm-no-such-package",)})
    assert json.loads(run("info", "--json")[1])["extras"] == {
        "train": {"mabm-no-such-package": None}
    }
    assert 'mabm-no-such-package missing: pip install "mabm[train]"' in run("info")[1]


def test_info_names_what_the_extras_ask_for(run: Run) -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = json.loads(run("info", "--json")[1])["extras"]
    for extra, packages in extras.items():
        asked = map(Requirement, project["optional-dependencies"][extra])
        here = [each for each in asked if each.marker is None or each.marker.evaluate()]
        assert {each.name for each in here} - {"mabm"} == set(packages)


# --- cluster


def make_features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(12, 16)), 10, axis=0)
    return (centers + 0.25 * rng.normal(size=(120, 16))).astype(np.float32), np.arange(120) % 2


OPTIONS = ("--k1", 12, "--k2", 3, "--eps", 0.5)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    values, modality = make_features()
    np.save(tmp_path / "features.npy", values)
    np.save(tmp_path / "modality.npy", modality)
    np.savez(tmp_path / "both.npz", features=values, modality=modality, camera=modality)
    np.savez(tmp_path / "named.npz", embeddings=values, other=values, groups=modality)
    save_file({"features": values, "modality": modality}, tmp_path / "both.safetensors")
    save_file({"modality": modality}, tmp_path / "modality.safetensors")
    words = ["visible" if group == 0 else "infrared" for group in modality]
    tables = {
        "numbers.csv": [[group] for group in modality],
        "header.csv": [["group"], *([group] for group in modality)],
        "words.csv": [["path", "modality"], *([f"{n}.jpg", word] for n, word in enumerate(words))],
    }
    for name, rows in tables.items():
        with (tmp_path / name).open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return tmp_path


def expected_labels(**options: object) -> mabm.PseudoLabels[np.ndarray]:
    return mabm.pseudo_labels(*make_features(), **{"k1": 12, "k2": 3, "eps": 0.5, **options})


def test_cluster_summary_and_labels(features: Path, run: Run) -> None:
    expected = expected_labels()
    assert expected.num_clusters == 12
    status, out, err = run(
        "cluster", features / "features.npy", "--modality", features / "modality.npy", *OPTIONS,
        "--output", features / "labels.npy",
    )  # fmt: skip
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(
        "120 x 16 features (60 of modality 0, 60 of modality 1) on cpu; bmil, k1 = 12, k2 = 3, "
    )
    summary = replace(expected.summary(), samples={})  # the same words as in Python
    assert lines[1:4] == str(summary).splitlines()
    noise = f"{expected.num_noise} in no cluster ({100 * expected.num_noise / 120:.1f} %)"
    assert lines[1] == f"120 samples, {noise}"
    assert lines[4].endswith(" s")
    assert lines[5] == f"saved {features / 'labels.npy'}"
    labels = np.load(features / "labels.npy")
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, expected.labels)
    assert sorted(features.glob(".*")) == []  # nothing half written


@pytest.mark.parametrize(
    "words",
    [
        ["features.npy", "--modality", "both.npz"],
        ["features.npy", "--modality", "modality.safetensors"],
        ["features.npy", "--modality", "numbers.csv"],
        ["features.npy", "--modality", "header.csv"],
        ["features.npy", "--modality", "words.csv"],
        ["both.npz"],
        ["both.safetensors"],
        ["named.npz", "--key", "embeddings", "--modality", "modality.npy"],
    ],
)
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_cluster_reads_and_writes_every_kind(
    words: list[str], kind: str, features: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(features)
    assert run("cluster", *words, *OPTIONS, "--output", f"labels.{kind}")[0] == 0
    expected = expected_labels().labels
    if kind == "csv":
        header, *rows = csv.reader(Path("labels.csv").read_text().splitlines())
        assert header == ["row", "labels"]
        assert [int(row[0]) for row in rows] == list(range(120))
        labels = [int(row[1]) for row in rows]
    else:
        with np.load("labels.npz", allow_pickle=False) as archive:
            labels = archive["labels"]
            np.testing.assert_array_equal(archive["modality"], np.arange(120) % 2)
    np.testing.assert_array_equal(labels, expected)


def test_cluster_without_a_modality(features: Path, run: Run) -> None:
    values, _ = make_features()
    expected = mabm.pseudo_labels(values, k1=12, k2=3, eps=0.5)
    output = features / "labels.npy"
    for words in (("--modality", "none"), ("--preset", "spcl")):
        output.unlink(missing_ok=True)
        status, out, _ = run(
            "cluster", features / "features.npy", *words, *OPTIONS, "--output", output
        )
        assert status == 0
        assert "(no modality) on cpu; spcl, " in out
        assert f"\n{expected.num_clusters} clusters\n" in out
        np.testing.assert_array_equal(np.load(output), expected.labels)
    status, out, err = run("cluster", features / "features.npy")
    assert (status, out) == (2, "")
    assert is_one_line(err)
    assert err.startswith("mabm cluster: give --modality FILE, or --modality none to cluster")
    status, _, err = run("cluster", features / "both.npz", "--modality", "none", "--preset", "bmil")
    assert status == 1
    assert "preset 'bmil' needs modality" in err


def test_cluster_passes_every_option_on(
    features: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []
    original = cluster.pseudo_labels

    def spy(*arguments: object, **options: object) -> object:
        given.append(options)
        return original(*arguments, **options)

    monkeypatch.setattr(cluster, "pseudo_labels", spy)
    assert run("cluster", features / "both.npz")[0] == 0
    words = ("--k1", 10, "--k2", 2, "--eps", 0.4, "--min-samples", 3, "--preset", "modal_invariant")
    words += ("--precision", "fast", "--max-memory", "2GB")
    monkeypatch.setattr(cluster, "shows_bars", lambda chosen: True)
    assert run("cluster", features / "both.npz", *words)[0] == 0
    assert given == [
        {
            "clusterer": mabm.DBSCAN(0.6, 4), "k1": 30, "k2": 6, "preset": None,
            "precision": "exact", "max_memory": None, "progress": False,
        },
        {
            "clusterer": mabm.DBSCAN(0.4, 3), "k1": 10, "k2": 2, "preset": "modal_invariant",
            "precision": "fast", "max_memory": "2GB", "progress": True,
        },
    ]  # fmt: skip


def test_cluster_sweep(features: Path, run: Run) -> None:
    status, out, _ = run(
        "cluster", features / "both.npz", "--k1", 12, "--k2", 3, "--sweep", 0.5, 0.2, 0.35
    )
    assert status == 0
    _, header, *rows, seconds = out.splitlines()
    assert header.split() == ["eps", "clusters", "spanning", "noise", "largest"]
    assert seconds.endswith(" s")
    for eps, row in zip((0.5, 0.2, 0.35), rows, strict=True):
        expected = expected_labels(eps=eps)
        largest = max(expected.size_histogram, default=0)
        numbers = (eps, expected.num_clusters, expected.num_spanning, expected.num_noise, largest)
        assert row.split() == [str(number) for number in numbers]
    out = run("cluster", features / "features.npy", "--modality", "none", "--sweep", 0.5)[1]
    assert out.splitlines()[2].split()[2] == "-"


NONE = ("--modality", "none")
CLUSTER_MISTAKES = [
    (["nothing.npy"], 1, "No such file or directory: nothing.npy"),
    (["features.txt"], 1, "features.txt must end in .npy, .npz, .safetensors, .pt, .pth or .csv, "),
    (["text.npy"], 1, "text.npy must be a .npy file of numbers: "),
    (["pickled.npy"], 1, "pickled.npy must be a .npy file of numbers: "),
    (["text.npz"], 1, "text.npz must be a .npz file of plain arrays: "),
    (["pickled.npz"], 1, "pickled.npz must be a .npz file of plain arrays: "),
    (["text.safetensors"], 1, "text.safetensors must be a .safetensors file: "),
    (["named.npz"], 1, "named.npz must contain an array 'features', or a single matrix, got"),
    (["both.npz", "--max-memory", "much"], 1, "--max-memory must be a number of bytes, or words"),
    (["both.npz", "--max-memory", "1kB"], 1, "ranking 120 samples needs "),
    (["both.npz", "--key", "color"], 1, "--key must name one of the arrays in both.npz"),
    (["features.npy", "--key", "features"], 1, "--key must be omitted for features.npy"),
    (["modality.npy", *NONE], 1, "modality.npy must contain floating-point features, got int64"),
    (["words.npy", *NONE], 1, "words.npy: features must contain real numbers"),
    (["both.npz", "--modality", "features.npy"], 1, "features.npy: modality must be integers"),
    (["flat.npy", *NONE], 1, "features must be (N, D), got shape (4,)"),
    (["both.npz", "--modality", "named.npz"], 1, "named.npz must contain an array 'modality', "),
    (["both.npz", "--modality", "short.csv"], 1, "modality must be (120,), one group per row"),
    (["both.npz", "--modality", "wrong.csv"], 1, "wrong.csv, row 2: modality must be an int"),
    (["both.npz", "--modality", "wide.csv"], 1, "wide.csv must have a column 'modality', or"),
    (["both.npz", "--modality", "empty.csv"], 1, "empty.csv must have at least one row, got none"),
    (["both.npz", "--modality", "ragged.csv"], 1, "ragged.csv, row 2: must have 2 columns"),
    (["both.npz", "--modality", "binary.csv"], 1, "binary.csv must be comma-separated text: "),
    (["both.npz", "--eps", "1"], 1, "eps must be in [0, 1), got 1.0"),
    (["both.npz", "--sweep", "0.5", "2"], 1, "eps must be in [0, 1), got 2.0"),
    (["both.npz", "--k1", "1"], 1, "k1 must be in [2, 1024], at least one for each"),
    (["both.npz", "--output", "labels.txt"], 1, "--output must end in .npy or .csv or .npz"),
    (["both.npz", "--output", "no/labels.npy"], 1, "--output must be in an existing folder"),
    (["both.npz", "--output", "folder.npy"], 1, "--output must be a file, got the folder"),
    (["both.npz", "--device", "abacus"], 1, "--device must be auto, cpu, cuda or cuda:N"),
    (["both.npz", "--device", "mps"], 1, "--device must be auto, cpu, cuda or cuda:N"),
    (["both.npz", "--device", "cuda:77"], 1, "--device must be "),
    (["features.npy"], 2, "give --modality FILE"),
    (["both.npz", "--sweep", "0.5", "--eps", "0.5"], 2, "--sweep cannot be combined with --eps"),
    (["both.npz", "--sweep", "0.5", "--output", "labels.npy"], 2, "--sweep cannot be combined"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "status", "message"), CLUSTER_MISTAKES)
def test_cluster_mistakes_are_one_line(
    words: list[str],
    status: int,
    message: str,
    features: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(features)
    for name in ("text.npy", "text.npz", "text.safetensors", "features.txt"):
        Path(name).write_text("just words, and not few of them")
    Path("folder.npy").mkdir()
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez("pickled.npz", features=np.array([{}]))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("flat.npy", np.ones(4))
    Path("short.csv").write_text("0\n1\n")
    Path("wrong.csv").write_text("0\nwarm\n")
    Path("wide.csv").write_text("a,b\n0,1\n")
    Path("empty.csv").write_text("\n")
    Path("ragged.csv").write_text("path,modality\na\n")
    Path("binary.csv").write_bytes(bytes(range(128, 256)))
    got, _, err = run("cluster", *words)
    assert got == status
    assert is_one_line(err)
    assert err.startswith(f"mabm cluster: {message}")


def test_cluster_shows_bars_on_a_terminal_only(
    features: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    assert "ranking" not in run("cluster", features / "both.npz")[2]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "ranking" in run("cluster", features / "both.npz")[2]
    assert "ranking" not in run("cluster", features / "both.npz", "--quiet")[2]
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert "ranking" not in run("cluster", features / "both.npz")[2]
