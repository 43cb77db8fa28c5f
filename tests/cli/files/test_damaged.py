"""Damaged files, odd numbers, odd places to print to: an error of the command line is one line."""

import io
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import NUM_SAMPLES, Run, contents, refused
from safetensors.numpy import save

from mabm.cli.main import main

OPTIONS = ("--k1", "8", "--k2", "2")


# --- damaged files


def npy(header: str, *, content: bytes = bytes(64), version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + content


def of_shape(shape: str, descr: str = "'<f4'") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n")


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def torch_saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def patched(content: bytes, local: int, central: int, value: int, size: str = "<H") -> bytes:
    """An archive of one member, with a field of both its headers changed."""
    changed = bytearray(content)
    struct.pack_into(size, changed, local, value)
    struct.pack_into(size, changed, content.index(b"PK\x01\x02") + central, value)
    return bytes(changed)


FEATURES = saved(np.ones((NUM_SAMPLES, 6), np.float32))
ONE = zipped(("features.npy", FEATURES))
DEEP = "(" * 3000 + ")" * 3000
DAMAGED_NPY = {
    "text": b"just words",
    "empty": b"",
    "archive": ONE,
    "start alone": FEATURES[:6],
    "half a header": FEATURES[:40],
    "cut": FEATURES[:-1],
    "third format": FEATURES[:6] + b"\3\0" + FEATURES[8:],
    "unknown format": FEATURES[:6] + b"\xff\xff" + FEATURES[8:],
    "product wraps": of_shape("(4611686018427387904, 4)"),
    "product wraps to 0": of_shape("(4294967296, 4294967296)"),
    "beyond integers": of_shape(f"({2**70}, 1)"),
    "petabytes": of_shape(f"({2**40}, 256)"),
    "none of a huge shape": of_shape(f"(0, {2**62})"),
    "none beyond integers": of_shape(f"(0, {2**70})"),
    "negative": of_shape("(-1, 4)"),
    "both negative": of_shape("(-2, -2)"),
    "nested": of_shape(DEEP),
    "long": of_shape("(2, 2)" + " " * 20000),
    "no shape": npy("{'descr': '<f4'}\n"),
    "code": npy("__import__('os').abort()\n"),
    "odd type": of_shape("(2, 2)", "'<f3'"),
    "objects": saved(np.array([[{}]])),
    "fields": saved(np.zeros((4, 2), "f4,i4")),
    "words": saved(np.array([["a", "b"]])),
    "complex": saved(np.ones((4, 2), complex)),
    "dates": saved(np.zeros((4, 2), "M8[s]")),
    "long doubles": saved(np.ones((4, 2), np.longdouble)),
    "no size": of_shape("(4, 2)", "'|S0'"),
    "scalar": saved(np.float32(3)),
}  # fmt: skip
HEAD = struct.pack("<Q", 2**63)
DAMAGED_NPZ = {
    "text": b"just words",
    "empty": b"",
    "array": FEATURES,
    "no members": zipped(),
    "no arrays": zipped(("word/document.xml", b"<x/>")),
    "no features": zipped(("a.npy", saved(np.ones(3))), ("b.npy", saved(np.ones(4)))),
    "cut": ONE[: len(ONE) // 2],
    "no directory": ONE[:-30],
    "twice": zipped(("features.npy", FEATURES), ("feature2.npy", FEATURES)).replace(b"e2.", b"es."),
    "encrypted": patched(ONE, 6, 8, 1),
    "exotic": patched(ONE, 8, 10, 97),
    "newer": patched(ONE, 4, 6, 99),
    "bzip2": zipped(("features.npy", FEATURES), method=zipfile.ZIP_BZIP2),
    "lzma": zipped(("features.npy", FEATURES), method=zipfile.ZIP_LZMA),
    "wrong checksum": patched(ONE, 14, 16, 7, "<I"),
    "not deflated": patched(ONE, 8, 10, zipfile.ZIP_DEFLATED),
    "huge member": patched(ONE, 22, 24, 2**31, "<I"),
    "inner text": zipped(("features.npy", b"just words")),
    "inner petabytes": zipped(("features.npy", of_shape(f"({2**40}, 256)"))),
    "inner wraps": zipped(("features.npy", of_shape("(4294967296, 4294967296)"))),
    "inner objects": zipped(("features.npy", saved(np.array([[{}]])))),
    "inner archive": zipped(("features.npy", ONE)),
}  # fmt: skip
DAMAGED_SAFETENSORS = {
    "text": b"just words, and not few of them",
    "empty": b"",
    "huge head": HEAD + b"{}",
    "cut": save({"features": np.ones((4, 2), np.float32)})[:-3],
    "array": FEATURES,
    "none": save({}),
    "numbers of no type": (40).to_bytes(8, "little") + b'{"a":{"dtype":"X","shape":[],"data_off"}',
}
DAMAGED_PT = {
    "text": b"just words",
    "empty": b"",
    "array": FEATURES,
    "no members": zipped(),
    "numpy archive": ONE,
    "cut": torch_saved(torch.ones(4, 2))[:-40],
    "object": torch_saved({"features": Path("x")}),
    "numpy array": torch_saved({"features": np.ones((4, 2))}),
    "list": torch_saved([1.0, 2.0]),
    "no tensors": torch_saved({"a": 1}),
    "integers": torch_saved(torch.ones(4, 2, dtype=torch.int64)),
    "sparse": torch_saved({"features": torch.eye(4).to_sparse()}),
    "on meta": torch_saved({"features": torch.ones(4, 2, device="meta")}),
    "a number repeated": torch_saved(torch.ones(1).expand(10**9, 10**3)),
}
DAMAGED_CSV = {
    "binary": bytes(range(128, 256)),
    "empty": b"",
    "beyond integers": f"modality\n{2**70}\n".encode(),
    "just beyond": f"modality\n{2**63}\n".encode(),
    "many digits": b"modality\n" + b"9" * 5000,
    "beyond, without a header": f"{2**70}\n".encode(),
    "negative": b"modality\n-1\n",
    "negative, without a header": b"-1\n" + b"0\n" * NUM_SAMPLES,
    "real": b"1.0\n" + b"0\n" * NUM_SAMPLES,
    "nan": b"modality\nnan\n",
    "long field": b'modality\n"' + b"0" * 200_000,
    "no text": "modality\n0\n".encode("utf-16"),
    "wide": b"a,b\n0,1\n",
}
DAMAGED = [
    *((".npy", what, content) for what, content in DAMAGED_NPY.items()),
    *((".npz", what, content) for what, content in DAMAGED_NPZ.items()),
    *((".safetensors", what, content) for what, content in DAMAGED_SAFETENSORS.items()),
    *((".pt", what, content) for what, content in DAMAGED_PT.items()),
    *((".csv", what, content) for what, content in DAMAGED_CSV.items()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "content"),
    [pytest.param(kind, content, id=f"{kind} {what}") for kind, what, content in DAMAGED],
)
def test_a_damaged_file_is_one_line(kind: str, content: bytes, place: Path, run: Run) -> None:
    path = Path(f"damaged{kind}")
    path.write_bytes(content)
    words = [["cluster", "f.npy", "--modality", path]]
    if kind != ".csv":
        words.append(["cluster", path, "--modality", "m.npy"])
    for each in words:
        err = refused(run, *each, *OPTIONS, "--output", "labels.npy")
        assert "allow_pickle" not in err
        assert len(err) < 400
        assert "damaged" in err or "features must be " in err


def test_messages_say_what_to_do(place: Path, run: Run) -> None:
    Path("text.npy").write_bytes(ONE)
    Path("one.npz").write_bytes(FEATURES)
    Path("none.npz").write_bytes(DAMAGED_NPZ["no features"])
    Path("locked.npz").write_bytes(DAMAGED_NPZ["encrypted"])
    Path("m.txt").write_text("0\n1\n")
    for words, message in [
        (["text.npy", "--modality", "m.npy"], "got a zip archive: name it .npz?"),
        (["one.npz", "--modality", "m.npy"], "got a single array: name it .npy?"),
        (["none.npz", "--modality", "m.npy"], "got a, b: name one with --key"),
        (["locked.npz"], "locked.npz must not be encrypted, 'features.npy' needs a password"),
        (
            ["f.npy", "--modality", "m.txt"],
            "--modality must end in .npy, .npz, .safetensors, ",
        ),
    ]:
        assert message in refused(run, "cluster", *words)


def test_what_is_no_file_is_not_read(place: Path, run: Run) -> None:
    for kind in (".npy", ".npz", ".safetensors", ".csv"):
        pipe, folder = Path(f"pipe{kind}"), Path(f"folder{kind}")
        os.mkfifo(pipe)
        folder.mkdir()
        only_files = f"{folder} must be a folder of .npy files, got an empty one"
        for path, word in ((pipe, "a pipe"), (folder, "a folder")):
            commands = [["cluster", "f.npy", "--modality", path]]
            if kind == ".csv":
                commands.append(["extract", "emoji_xm", "--output", "o.npz", "--images", path])
            else:
                commands.append(["cluster", path, "--modality", "m.npy"])
            for words in commands:
                message = f"{path} must be a regular file, got {word}"
                if path == folder and words[0] == "cluster":
                    message = only_files
                assert message in refused(run, *words)


@pytest.mark.parametrize(
    "modality",
    [
        np.full(NUM_SAMPLES, np.nan),
        np.zeros(NUM_SAMPLES, np.float32),
        np.full(NUM_SAMPLES, -1),
        np.zeros((NUM_SAMPLES, 1), int),
        np.zeros(NUM_SAMPLES - 1, int),
        np.full(NUM_SAMPLES, 2**64 - 1, np.uint64),
    ],
)
def test_a_modality_that_is_none(modality: np.ndarray, place: Path, run: Run) -> None:
    np.save("x.npy", modality)
    np.savez("x.npz", features=np.ones((NUM_SAMPLES, 2), np.float32), modality=modality)
    for words in (["f.npy", "--modality", "x.npy"], ["x.npz"]):
        assert "modality must " in refused(run, "cluster", *words, "--output", "labels.npy")


@pytest.mark.parametrize("name", ["F.NPY", "G.NPZ", "S.SafeTensors"])
def test_the_case_of_an_ending_does_not_matter(name: str, place: Path, run: Run) -> None:
    shutil.copy({"F": "f.npy", "G": "g.npz", "S": "s.safetensors"}[name[0]], name)
    shutil.copy("m.csv", "M.CSV")
    expected = run("cluster", "g.npz", *OPTIONS)[1].splitlines()[:-1]
    given = run("cluster", name, "--modality", "M.CSV", *OPTIONS)[1].splitlines()[:-1]
    assert given == expected


def test_order_of_columns_and_no_rows(place: Path, run: Run) -> None:
    features = np.load("f.npy")
    np.save("columns.npy", np.asfortranarray(features))
    np.savez_compressed(
        "columns.npz", a=np.asfortranarray(features), path=np.array(["a"] * NUM_SAMPLES)
    )
    expected = run("cluster", "f.npy", "--modality", "m.npy", *OPTIONS)[1].splitlines()[:-1]
    for name in ("columns.npy", "columns.npz"):
        out = run("cluster", name, "--modality", "m.npy", *OPTIONS)[1]
        assert out.splitlines()[:-1] == expected
    np.save("none.npy", features[:0])
    assert run("cluster", "none.npy", "--modality", "none", "--output", "labels.npy")[0] == 0
    assert np.load("labels.npy").shape == (0,)


# --- numbers


@pytest.mark.parametrize(
    "words",
    [
        ["--k1", "1e3"],
        ["--k1", "99999999999999999999"],
        ["--k1", "9" * 5000],
        ["--k2", "99999999999999999999"],
        ["--min-samples", str(2**63)],
        ["--min-samples", "-1"],
        ["--eps", "1"],
        ["--eps", "nan"],
        ["--eps", "-inf"],
        ["--sweep", "nan"],
        ["--sweep", "0.5", "inf"],
        ["--min-samples", str(-(2**63) - 1)],
        ["--key", ""],
    ],
)
def test_numbers_out_of_range_are_one_line(
    words: list[str], place: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    output = [] if words[0] == "--sweep" else ["--output", "labels.npy"]
    try:
        status = main(["cluster", "g.npz", *words, *output])
    except SystemExit as left:
        status = left.code  # type: ignore[assignment]  # argparse's 2
    err = capsys.readouterr().err
    assert status in (1, 2)
    assert err.count("\n") == 1
    assert "--debug" not in err
    assert contents(place) == before


# --- what is printed


def process(*words: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mabm", *words], stderr=subprocess.PIPE, check=False, **options
    )


def test_a_name_that_cannot_be_printed(place: Path) -> None:
    name = b"caf\xe9 \xf0\x9f\x98\x80.npy"
    for encoding in ("ascii", "utf-8"):
        done = process(
            "cluster", "g.npz", *OPTIONS, "--output", name, "--quiet",
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.stderr == b""
        assert done.returncode == 0
        assert b"\nsaved caf\\udce9 " in done.stdout
        assert len(np.load(os.fsdecode(name))) == NUM_SAMPLES


def test_an_error_shows_no_control_characters(place: Path, run: Run) -> None:
    err = refused(run, "cluster", "a\x1b[31m\nb.npy")
    assert err == "mabm cluster: No such file or directory: a\\x1b[31m b.npy\n"


@pytest.mark.parametrize("words", [["info"], ["cluster", "--help"], ["--version"]])
def test_a_full_disk_under_the_output(words: list[str], place: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = process(*words, stdout=full)
    assert done.returncode == 1
    assert done.stderr.endswith(b": No space left on device: standard output\n")
    assert done.stderr.count(b"\n") == 1


def test_an_output_closed_before_the_start(place: Path) -> None:
    def shell(line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f'"{sys.executable}" -m mabm {line}'], capture_output=True, check=False
        )

    done = shell("info >&-")
    assert (done.returncode, done.stderr) == (141, b"")
    assert shell("cluster nothing.npy >&-").returncode == 1
    assert shell("cluster nothing.npy 2>&-").returncode == 1
    assert shell("cluster nothing.npy 2>/dev/full").returncode == 1
    assert shell("info 2>&-").returncode == 0


def test_a_folder_of_data_in_any_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    training = pytest.importorskip("mabm.train")
    roots = []

    def train(config: object, *_: object, **__: object) -> None:
        roots.append(config.data.root)  # type: ignore[attr-defined]  # of Config
        raise ValueError("the work begins")

    monkeypatch.setattr(training, "train", train)
    odd = 'a"\\b\x7f\t\u00e9\U0001f600\u2028 c'
    assert run("train", "sysu_mm01", "--data", odd, "--output", "nowhere")[0] == 1
    assert roots == [odd]
    status, _, err = run("train", "sysu_mm01", "--data", "caf\udce9", "--output", "nowhere")
    assert (status, err) == (
        1,
        "mabm train: --data must be a folder whose name is UTF-8, got 'caf\\udce9'\n",
    )
    assert len(roots) == 1
