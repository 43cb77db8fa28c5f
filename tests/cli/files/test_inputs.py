"""What ``mabm cluster`` takes: files of PyTorch, tables, standard input, words for a modality."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import NUM_SAMPLES, Run, refused

OPTIONS = ("--k1", "8", "--k2", "2", "--eps", "0.5")

Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Puts bytes into standard input."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def without_time(out: str) -> list[str]:
    return [line for line in out.splitlines() if not line.endswith(" s")]


def table_of(header: list[str] | None, *columns: object) -> str:
    rows = zip(*columns, strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    return "\n".join([*([",".join(header)] if header else []), *lines]) + "\n"


@pytest.fixture
def expected(place: Path, run: Run) -> list[str]:
    """Labels of the features in files of kinds that were always read, a line each."""
    assert run("cluster", "g.npz", *OPTIONS, "--output", "expected.npy")[0] == 0
    labels = np.load("expected.npy")
    assert labels.max() > 0  # some clusters
    return [str(label) for label in labels]


# --- files of PyTorch


@pytest.mark.parametrize("name", ["f.pt", "f.pth", "F.PT"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_in_a_file_of_pytorch(
    name: str, legacy: bool, expected: list[str], run: Run
) -> None:
    features, modality = (torch.from_numpy(np.load(f"{each}.npy")) for each in "fm")
    options = {"_use_new_zipfile_serialization": not legacy}
    torch.save(features.requires_grad_(), name, **options)
    torch.save(modality, "m.pt", **options)
    words = ("cluster", name, "--modality", "m.pt", *OPTIONS, "--output", "-")
    status, out, _ = run(*words)
    assert (status, out.split()) == (0, expected)
    assert "must be omitted for " in refused(run, *words, "--key", "features")


def test_a_dictionary_in_a_file_of_pytorch(expected: list[str], run: Run) -> None:
    features, modality = (torch.from_numpy(np.load(f"{each}.npy")) for each in "fm")
    torch.save({"features": features, "modality": modality, "epoch": 3}, "both.pt")
    torch.save({"embeddings": features.double(), "of": {"more": 1}, "m": modality}, "named.pth")
    torch.save({"a": features, "b": features}, "two.pt")
    assert run("cluster", "both.pt", *OPTIONS, "--output", "-")[1].split() == expected
    words = ("cluster", "named.pth", "--modality", "m.npy", *OPTIONS, "--output", "-")
    for key in ((), ("--key", "embeddings")):
        assert run(*words, *key)[1].split() == expected
    assert run("cluster", "two.pt", "--modality", "both.pt", "--key", "b", *OPTIONS)[0] == 0
    assert "got a, b: name one with --key" in refused(run, "cluster", "two.pt", *OPTIONS)


def test_nothing_in_a_file_of_pytorch_is_executed(place: Path, run: Run) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (Path("executed"),)

    for legacy in (False, True):
        torch.save({"features": Touch()}, "x.pt", _use_new_zipfile_serialization=not legacy)
        assert "other objects could execute code" in refused(run, "cluster", "x.pt")
    assert not Path("executed").exists()


# --- tables


def test_a_table_of_features(expected: list[str], run: Run) -> None:
    features, modality = np.load("f.npy"), np.load("m.npy")
    words = np.where(modality == 0, "visible", "Infrared")
    names = [f"f{n}" for n in range(6)]
    columns = [column.tolist() for column in features.T.astype(np.float64)]
    tables = {
        "plain.csv": table_of(None, *columns),
        "header.csv": table_of(names, *columns),
        "beside.csv": table_of([*names, "modality"], *columns, modality),
        "words.csv": table_of(["row", *names[:3], " Modality ", *names[3:]], range(NUM_SAMPLES),
                              *columns[:3], words, *columns[3:]),
        "pandas.csv": table_of(["", "modality", *names], range(NUM_SAMPLES), modality, *columns),
        "spaces.csv": table_of([*names, "modality"], *columns, words).replace(",", " , ") + "\n\n",
    }  # fmt: skip
    for name, text in tables.items():
        Path(name).write_text(text)
        beside = ("--modality", "m.csv") if name in ("plain.csv", "header.csv") else ()
        status, out, err = run("cluster", name, *beside, *OPTIONS, "--output", "-")
        assert (status, out.split()) == (0, expected), name
        in_words = name in ("words.csv", "spaces.csv")
        groups = "20 Infrared, 20 visible" if in_words else "20 of modality 0, 20 of modality 1"
        assert f"40 x 6 features ({groups})" in err
    Path("windows.csv").write_bytes(b"\xef\xbb\xbf" + tables["beside.csv"].encode())
    assert run("cluster", "windows.csv", *OPTIONS, "--output", "-")[1].split() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have at least one row of features, got none"),
        ("a,b\n", "must have at least one row of features, got none"),
        ("1,2\n3\n", "row 2: must have 2 columns, got 1"),
        ("1,2\n3,4,5\n", "row 2: must have 2 columns, got 3"),
        ("1,2\n3,x\n", "row 2: features must be numbers separated by commas, got 'x' in column 2"),
        (
            "a,b\n1,2\n3,\n",
            "row 3: features must be numbers separated by commas, got '' in column 'b'",
        ),
        (
            "path,b\na.jpg,2\n",
            "row 2: features must be numbers separated by commas, got 'a.jpg' in ",
        ),
        ("1 2 3\n4 5 6\n", "must separate columns by commas and write decimal points"),
        ("1 2 3\n4 5 6\n", "got spaces: '1 2 3'"),
        ("1;2\n3;4\n", "and write decimal points, got semicolons: '1;2'"),
        ("a;b\n0,5;1,5\n", "and write decimal points, got semicolons: 'a;b'"),
        ("0,5;1,5\n", "and write decimal points, got semicolons: '0,5;1,5'"),
        ("a\tb\n1\t2\n", "and write decimal points, got tabs: "),
        ("a,modality\n1,0\n2,-1\n", "row 3: modality must be an integer in [0, 2^63)"),
        ("a,modality\n1,0\n2,warm\n", "row 3: modality must be an integer in [0, 2^63)"),
        ("1,nan\n2,3\n", "features must be finite in float32, got NaN or Inf in row 0"),
        ("1,2\n2,1e300\n", "features must be finite in float32, got NaN or Inf in row 1"),
        ("a\xff,1", "must be comma-separated text: "),
    ],
)
def test_a_table_that_is_wrong(text: str, message: str, place: Path, run: Run) -> None:
    Path("x.csv").write_bytes(text.encode("latin1"))
    given = () if "modality" in text else ("--modality", "none")
    assert message in refused(run, "cluster", "x.csv", *given)
    Path("good.csv").write_text("1,2\n3,4\n")
    words = ("cluster", "good.csv", "--modality", "none", "--key", "a")
    assert "--key must be omitted for good.csv, which is a table" in refused(run, *words)


# --- standard input and output


@pytest.mark.parametrize("name", ["g.npz", "s.safetensors", "both.pt", "old.pt", "both.csv"])
def test_features_from_standard_input(name: str, expected: list[str], run: Run, pipe: Pipe) -> None:
    features, modality = np.load("f.npy"), np.load("m.npy")
    tensors = {"features": torch.from_numpy(features), "modality": torch.from_numpy(modality)}
    torch.save(tensors, "both.pt")
    torch.save(tensors, "old.pt", _use_new_zipfile_serialization=False)
    columns = [*features.T.astype(np.float64), modality]
    Path("both.csv").write_text(table_of([*"abcdef", "modality"], *columns))
    pipe(Path(name).read_bytes())
    status, out, err = run("cluster", "-", *OPTIONS, "--output", "-")
    assert (status, out.splitlines()) == (0, expected)
    assert err.startswith("40 x 6 features (20 of modality 0, 20 of modality 1) on cpu; bmil, ")
    assert " in no cluster (" in err


def test_one_array_or_a_modality_from_standard_input(
    expected: list[str], run: Run, pipe: Pipe
) -> None:
    pipe(Path("f.npy").read_bytes())
    words = ("cluster", "-", "--modality", "m.csv", *OPTIONS)
    assert run(*words, "--output", "labels.npy")[0] == 0
    assert np.load("labels.npy").tolist() == list(map(int, expected))
    for name in ("m.npy", "m.csv"):
        pipe(Path(name).read_bytes())
        status, out, _ = run("cluster", "f.npy", "--modality", "-", *OPTIONS, "--output", "-")
        assert (status, out.splitlines()) == (0, expected)


def test_quiet_leaves_labels_alone(place: Path, run: Run) -> None:
    status, out, err = run("cluster", "g.npz", *OPTIONS, "--output", "-", "--quiet")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == NUM_SAMPLES
    np.save("none.npy", np.load("f.npy")[:0])
    words = ("cluster", "none.npy", "--modality", "none", "--output", "-", "--quiet")
    assert run(*words) == (0, "", "")


def test_mistakes_at_standard_input(
    place: Path, run: Run, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "only one of FEATURES and --modality may be -"
    assert message in refused(run, "cluster", "-", "--modality", "-")
    for content, message in [
        (b"", "standard input must not be empty"),
        (Path("f.npy").read_bytes()[:200], "standard input must be a .npy file of numbers: "),
        (Path("g.npz").read_bytes()[:200], "standard input must be a .npz file of plain arrays"),
        (Path("s.safetensors").read_bytes()[:-3], "standard input must be a .safetensors file: "),
        (b"\x80\x02junk", "standard input is not a complete torch.save file: "),
        (b"\xff\xfe\x00", "standard input must be comma-separated text: "),
        (b"1,2\n3\n", "standard input, row 2: must have 2 columns, got 1"),
    ]:
        pipe(content)
        assert message in refused(run, "cluster", "-", "--modality", "none")
    monkeypatch.setattr(sys, "stdin", None)  # closed before the program began
    assert "standard input must be open" in refused(run, "cluster", "-", "--modality", "none")


def test_a_pipeline_in_a_shell(expected: list[str], place: Path) -> None:
    line = f'cat f.npy | "{sys.executable}" -m mabm cluster - --modality m.npy {" ".join(OPTIONS)}'
    done = subprocess.run(
        ["sh", "-c", f"{line} --output -"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout.splitlines() == expected
    assert "clusters" in done.stderr


# --- words for a modality


def test_words_are_numbered_in_sorted_order(place: Path, run: Run) -> None:
    modality = np.load("m.npy")
    words = np.array(["rgb", "ir"])[modality].tolist()
    Path("header.csv").write_text("modality\n" + "\n".join(words))
    Path("bare.csv").write_text("\n".join(words))
    Path("named.csv").write_text("camera\n" + "\n".join(words))
    Path("pandas.csv").write_text("0\n" + "\n".join(words))  # of a Series without a name
    np.save("words.npy", np.array(words))
    np.savez("words.npz", features=np.load("f.npy"), modality=np.array(words))
    table = [*np.load("f.npy").T.astype(np.float64), words]
    Path("table.csv").write_text(table_of([*"abcdef", "modality"], *table))
    np.save("numbers.npy", 1 - modality)  # ir, rgb
    words_of = ("cluster", "f.npy", *OPTIONS, "--output", "-", "--modality")
    expected = run(*words_of, "numbers.npy")[1]
    for name in ("header.csv", "bare.csv", "named.csv", "pandas.csv", "words.npy", "words.npz"):
        status, out, err = run(*words_of, name)
        assert (status, out) == (0, expected), name
        assert "40 x 6 features (20 ir, 20 rgb) on cpu" in err
    for name in ("words.npz", "table.csv"):
        status, out, err = run("cluster", name, *OPTIONS, "--output", "-")
        assert (status, out) == (0, expected), name
        assert "(20 ir, 20 rgb)" in err


def test_known_words_keep_their_numbers(place: Path, run: Run) -> None:
    rows = ["Thermal", "1", "INFRARED ", "visible"] * 10
    Path("known.csv").write_text("\n".join(rows))
    assert (
        "(10 of modality 0, 30 of modality 1)"
        in run("cluster", "f.npy", "--modality", "known.csv", *OPTIONS)[1]
    )
    Path("mixed.csv").write_text("\n".join(["visible", "night", "infrared", "visible"] * 10))
    assert (
        "(10 infrared, 10 night, 20 visible)"
        in run("cluster", "f.npy", "--modality", "mixed.csv", *OPTIONS)[1]
    )


def test_true_and_false_are_a_modality(expected: list[str], run: Run) -> None:
    is_infrared = np.load("m.npy").astype(bool)
    np.save("is_infrared.npy", is_infrared)
    torch.save(torch.from_numpy(is_infrared), "is_infrared.pt")
    for name in ("is_infrared.npy", "is_infrared.pt"):
        words = ("cluster", "f.npy", "--modality", name, *OPTIONS, "--output", "-")
        assert run(*words)[1].splitlines() == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0", "warm"], "row 2: modality must be an integer in [0, 2^63) or one of visible, "),
        (["modality", "ir", "1.5"], "row 2: modality must be an integer in [0, 2^63) or one of"),
        (["modality", "visible", '""'], "modality must be (40,), one group per row"),
        (["modality,a", "visible,1", ",2"], "row 3: modality must be an integer in [0, 2^63) or"),
        (["ir", "rgb", "ir"], "modality must be (40,), one group per row, got shape (3,)"),
    ],
)
def test_words_that_are_no_modality(rows: list[str], message: str, place: Path, run: Run) -> None:
    Path("x.csv").write_text("\n".join(rows))
    assert message in refused(run, "cluster", "f.npy", "--modality", "x.csv")


@pytest.mark.parametrize("spelling", ["BMIL", "modal-invariant", "Modal_Invariant"])
def test_presets_are_taken_in_every_spelling(spelling: str, place: Path, run: Run) -> None:
    name = spelling.lower().replace("-", "_")
    out = run("cluster", "g.npz", "--preset", spelling, *OPTIONS)[1]
    assert f"; {name}, k1 = 8" in out
    assert without_time(out) == without_time(run("cluster", "g.npz", "--preset", name, *OPTIONS)[1])
