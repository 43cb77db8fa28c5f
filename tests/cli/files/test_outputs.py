"""What commands write goes over nothing that they read, nor over a file of another kind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused

OPTIONS = ("--k1", "8", "--k2", "2")


# --- not over what is read


def hard(name: str) -> None:
    os.link(name, f"hard{Path(name).suffix}")


def soft(name: str) -> None:
    Path(f"soft{Path(name).suffix}").symlink_to(name)


@pytest.mark.parametrize(
    "words",
    [
        ["f.npy", "--modality", "m.npy", "--output", "f.npy"],
        ["f.npy", "--modality", "m.npy", "--output", "m.npy"],
        ["f.npy", "--modality", "m.csv", "--output", "m.csv"],
        ["f.npy", "--modality", "g.npz", "--output", "g.npz"],
        ["g.npz", "--output", "g.npz"],
        ["g.npz", "--output", "sub/../g.npz"],
        ["f.npy", "--modality", "m.npy", "--output", "hard.npy"],
        ["f.npy", "--modality", "m.npy", "--output", "soft.npy"],
        ["hard.npy", "--modality", "m.npy", "--output", "f.npy"],
        ["soft.npy", "--modality", "m.npy", "--output", "f.npy"],
    ],
)
def test_cluster_does_not_write_over_what_it_reads(words: list[str], place: Path, run: Run) -> None:
    Path("sub").mkdir()
    for link in (hard, soft):
        link("f.npy")
    err = refused(run, "cluster", *words, *OPTIONS)
    assert "--output must not be an input of the command, " in err


def test_labels_are_not_written_over_labels_that_are_read(place: Path, run: Run) -> None:
    shutil.copy("m.npy", "labels.npy")  # by its content it could be replaced
    words = ("cluster", "f.npy", *OPTIONS, "--output", "labels.npy")
    assert "must not be an input" in refused(run, *words, "--modality", "labels.npy")
    assert run(*words, "--modality", "m.npy")[0] == 0


# --- not over files of another kind


def write_npz(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "features": ("x.npy", lambda path: np.save(path, np.ones((4, 2), np.float32))),
    "a column of cameras": ("x.npy", lambda path: np.save(path, np.array([1, 2, 4, 5]))),
    "small integers": ("x.npy", lambda path: np.save(path, np.zeros(4, np.int32))),
    "text": ("x.npy", lambda path: path.write_text("notes")),
    "nothing": ("x.npy", lambda path: path.touch()),
    "features and modality": ("x.npz", write_npz(features=np.ones((4, 2)), modality=np.zeros(4))),
    "labels and more": ("x.npz", write_npz(labels=np.arange(4), features=np.ones((4, 2)))),
    "labels that are none": ("x.npz", write_npz(labels=np.ones(4))),
    "other table": ("x.csv", lambda path: path.write_text("path,camera,modality\na.jpg,1,0\n")),
    "binary table": ("x.csv", lambda path: path.write_bytes(bytes(range(256)))),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("by_link", [False, True])
def test_cluster_replaces_nothing_but_labels(
    what: str, by_link: bool, place: Path, run: Run
) -> None:
    name, make = OTHERS[what]
    make(Path(name))
    output = Path(name)
    if by_link:
        output = Path(f"link{output.suffix}")
        output.symlink_to(name)
    err = refused(run, "cluster", "g.npz", *OPTIONS, "--output", output)
    assert "--output must not replace a file of another kind, got " in err
    assert output.name in err


@pytest.mark.parametrize("name", ["l.npy", "l.npz", "l.csv", "L.NPY", "L.Npz", "L.CSV"])
def test_labels_are_replaced_by_labels(name: str, place: Path, run: Run) -> None:
    words = ("cluster", "g.npz", *OPTIONS, "--output", name)
    assert run(*words, "--eps", "0.9")[0] == 0
    first = Path(name).read_bytes()
    assert run(*words, "--eps", "0.1")[0] == 0
    assert Path(name).read_bytes() != first


def test_extract_replaces_nothing_but_features(place: Path, run: Run) -> None:
    image = place / "images" / "a.npz"  # a picture by its content, whatever it is called
    image.parent.mkdir()
    pytest.importorskip("PIL.Image").new("RGB", (8, 8)).save(image, format="png")
    table = place / "list.npz"
    table.write_text("path,camera,modality\nimages/a.npz,1,0\n")
    shutil.copy("g.npz", "weights.npz")
    words = ("extract", "emoji_xm", "--images", table, "--size", "32", "32", "--output")
    assert "must not be an input of the command" in refused(run, *words, table)
    assert "another kind" in refused(run, *words, image)
    by_weights = ("extract", "weights.npz", *words[2:])
    assert "must not be an input of the command" in refused(run, *by_weights, "weights.npz")
    assert "another kind" in refused(run, *words, "g.npz")  # no column of cameras
    assert "another kind" in refused(run, *words, "m.npy")
    assert "another kind" in refused(run, *words, "s.safetensors")
    for name in ("out.npz", "out.npy", "out.safetensors", "OUT.NPZ"):
        assert run(*words, name)[0] == 0
        assert run(*words, name)[0] == 0  # once more


def test_extract_does_not_write_over_an_image(place: Path, run: Run) -> None:
    features = {"features": np.ones((1, 2), np.float32)}
    columns = dict.fromkeys(("modality", "camera", "identity"), np.zeros(1, np.int64))
    np.savez(
        "a.npz", **features, **columns
    )  # of the kind that is written, but an image of the list
    Path("list.csv").write_text("path,camera,modality\na.npz,1,0\n")
    words = ("extract", "emoji_xm", "--images", "list.csv", "--output", "a.npz")
    assert "must not be an input of the command" in refused(run, *words)


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "[1]", "[{}]", '{"scores": []}', "not JSON", "[" * 5000, '[{"rerank": null}]'],
)
def test_evaluate_replaces_nothing_but_scores(content: str, place: Path, run: Run) -> None:
    Path("weights.pt").touch()
    Path("x.json").write_text(content)
    assert "another kind" in refused(run, "evaluate", "weights.pt", "--json", "x.json")
    os.link("weights.pt", "y.json")
    assert "must not be an input" in refused(run, "evaluate", "weights.pt", "--json", "y.json")


def test_demo_replaces_nothing_but_its_pictures(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = pytest.importorskip("mabm.demo")
    from mabm.report.plots import new_figure

    picture = Path("out/before_after.png")
    picture.parent.mkdir()
    picture.write_bytes(b"\x89PNG\r\n\x1a\n of another program")
    assert f"another kind, got {picture}" in refused(run, "demo", "--output", "out")
    picture.unlink()
    (picture.parent / "pairs.png").mkdir()
    assert "must be a regular file, got a folder" in refused(run, "demo", "--output", "out")
    (picture.parent / "pairs.png").rmdir()
    demo.pictures.save_picture(new_figure(1, 1), picture)

    def reached(*_: object, **__: object) -> None:
        raise ValueError("the work begins")

    monkeypatch.setattr("mabm.demo.run", reached)
    assert "the work begins" in refused(run, "demo", "--output", "out")


# --- train


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    training = pytest.importorskip("mabm.train")

    def train(*_: object, **__: object) -> None:
        raise ValueError("the work begins")

    monkeypatch.setattr(training, "train", train)


@pytest.mark.usefixtures("no_training")
def test_train_does_not_write_over_what_it_reads(place: Path, run: Run) -> None:
    from mabm.train import load_config, to_toml

    folder = Path("run")
    folder.mkdir()
    mine = folder / "config.toml"
    mine.write_text('base = "emoji_xm"  # mine\n')
    words = ("train", mine, "--output", folder)
    assert "another kind, got run/config.toml" in refused(run, *words)
    mine.write_text(to_toml(load_config("emoji_xm")))  # as a run that was killed early leaves it
    assert "the work begins" in refused(run, *words)
    changed = (*words, "--set", "run.seed=3")
    assert "must not be an input of the command" in refused(run, *changed)
    (folder / "checkpoint-1-0002-000000.pt").touch()  # a run goes on
    assert "the work begins" in refused(run, *changed)
    os.link("m.npy", folder / "weights.pt")
    weights = ("--set", "model.weights=m.npy")
    assert "must not be an input of the command, m.npy" in refused(run, *words, *weights)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("name", ["config.toml", "environment.json", "history.jsonl"])
@pytest.mark.parametrize("content", ["words", "[]", '{"a": 1}', "a = 1", "\udcff"])
def test_train_replaces_nothing_of_another_kind(
    name: str, content: str, place: Path, run: Run
) -> None:
    Path(name).write_text(content, errors="surrogateescape")
    err = refused(run, "train", "emoji_xm", "--output", ".")
    assert f"another kind, got {name}" in err


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("torn", ["", '{"st', '{"stage": 0, "epoch'])
def test_train_goes_on_after_a_kill_that_tore_its_first_line(
    torn: str, place: Path, run: Run
) -> None:
    Path("history.jsonl").write_text(torn)
    assert "the work begins" in refused(run, "train", "emoji_xm", "--output", ".")


# --- places that cannot be written to


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("command", [("train", "emoji_xm"), ("demo",)])
def test_a_folder_that_is_none_is_told_before_the_work(
    command: tuple[str, ...], place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("dangling").symlink_to("nowhere")
    for output in ("f.npy", "f.npy/deep/er", "dangling"):
        assert "--output must be a folder, got " in refused(run, *command, "--output", output)
    refused(run, *command, "--output", "n" * 300)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert "must be a writable folder, got new" in refused(run, *command, "--output", "new")


def test_a_file_that_cannot_be_written_is_told_before_the_work(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object) -> None:
        pytest.fail("the features were read")

    monkeypatch.setattr("mabm.cli.shares.read_features", reached)
    os.mkfifo("pipe.npy")
    Path("folder.npy").mkdir()
    Path("loop.npy").symlink_to("loop.npy")
    Path("device.npy").symlink_to("/dev/full")
    for name, message in [
        ("pipe.npy", "pipe.npy must be a regular file, got a pipe"),
        ("device.npy", "device.npy must be a regular file, got a device"),
        ("folder.npy", "--output must be a file, got the folder"),
        ("no/labels.npy", "--output must be in an existing folder"),
        ("f.npy/labels.npy", "--output must be in an existing folder"),
        ("labels.txt", "--output must end in .npy or .csv or .npz"),
        ("labels", "--output must end in .npy or .csv or .npz"),
        ("loop.npy", "loop.npy"),
        ("n" * 300 + ".npy", "File name too long"),
        ("n" * 250 + ".npy", "File name too long"),  # with what is put behind while it is written
        ("/proc/labels.npy", "No such file or directory: /proc/labels.npy"),
    ]:
        assert message in refused(run, "cluster", "g.npz", "--output", name)
