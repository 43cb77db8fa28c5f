"""The commands that run the whole system, on miniature data: train, evaluate, extract, census."""

import csv
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run
from extras import needs_training
from miniature_trees import build_regdb, build_sysu
from safetensors.numpy import load_file

import mabm
from mabm import train as training
from mabm.data import (
    INFRARED,
    VISIBLE,
    ImageReader,
    ImageSet,
    ReidData,
    read_data,
    render_identities,
)
from mabm.data.images import Resampling
from mabm.evaluation import format_search_scores
from mabm.models import build_encoder, extract, load_pretrained, save_encoder, save_weights
from mabm.train import Config, load_config
from mabm.train.config_files import to_tree

SIZE = (24, 12)
SMALL = ["model.name=small", "model.weights=none", "data.height=24", "data.width=12"]


@pytest.fixture(scope="module")
def sysu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Larger than SIZE, so that the filter of resizing shows.
    return build_sysu(tmp_path_factory.mktemp("sysu"), test=4, images=3, size=(30, 16))


@pytest.fixture(scope="module")
def regdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_regdb(tmp_path_factory.mktemp("regdb"), identities=8)


def make_run(folder: Path, name: str, overrides: Sequence[str], seed: int = 0) -> Path:
    """What a finished run leaves behind: an encoder, untrained, and its configuration."""
    config = load_config(name, [*SMALL, "data.workers=0", *overrides])
    folder.mkdir()
    meta = {"data": config.data.name, "trial": config.data.trial, "config": to_tree(config)}
    encoder = build_encoder("small", seed=seed)
    save_encoder(encoder, folder / "weights.pt", name="small", meta=meta)
    return folder


@pytest.fixture(scope="module")
def sysu_run(sysu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "sysu", "sysu", [f"data.root={sysu}"])


# --- train


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Any, dict[str, Any]]]:
    """Replaces training; holds what it was called with."""
    calls = []
    scores = mabm.SearchScores("llcm", "visible-to-infrared", (0,), [[0.5]], [0.25], [0.1], (9,))

    def train(config: Config, output: Path, **options: Any) -> training.TrainResult:
        calls.append((config, output, options))
        return training.TrainResult(output, [scores], [])

    monkeypatch.setattr(training, "train", train)
    return calls


@needs_training
def test_train_passes_on_what_was_typed(
    stand_in: list[Any],
    run: Run,
    tmp_path: Path,
    sysu: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    root = tmp_path / 'a "folder" \\ with 1'
    status, out, _ = run(
        "train", "regdb", "--output", tmp_path / "run", "--data", root, "--trial", 4,
        "--set", "stage1.epochs=3", "--set", "stage1.epochs=2", "--set", "clustering.eps=0.4",
    )  # fmt: skip
    assert status == 0
    assert out.splitlines()[1].startswith("llcm visible-to-infrared  50.00  25.00  10.00")
    assert out.splitlines()[2] == f"saved {tmp_path / 'run'}"
    config, output, options = stand_in[0]
    assert output == tmp_path / "run"
    assert not options.pop("stop")()
    assert options == {"resume": True, "progress": True}
    assert (config.data.name, config.data.root, config.data.trial) == ("regdb", str(root), 4)
    assert (config.stage1.epochs, config.clustering.eps) == (2, 0.4)
    file = tmp_path / "mine.toml"
    file.write_text('base = "sysu"\n[clustering]\nk1 = 20\n')
    words = ("--set", f"data.root={sysu}", "--no-resume", "--quiet")
    assert run("train", file, "--output", tmp_path / "run", *words)[0] == 0
    config, _, options = stand_in[1]
    assert (config.data.root, config.clustering.k1, config.clustering.k2) == (str(sysu), 20, 6)
    assert not options.pop("stop")()
    assert options == {"resume": False, "progress": False}


@needs_training
def test_train_says_where_the_report_is(stand_in: list[Any], run: Run, tmp_path: Path) -> None:
    *_, last = run("train", "emoji_xm", "--output", tmp_path)[1].splitlines()
    assert last == f"saved {tmp_path}"  # run.report=false leaves none
    (tmp_path / "report.html").touch()
    *_, saved, last = run("train", "emoji_xm", "--output", tmp_path)[1].splitlines()
    assert (saved, last) == (f"saved {tmp_path}", f"report {tmp_path / 'report.html'}")


@needs_training
def test_train_under_torchrun_speaks_once(
    stand_in: list[Any], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("train", "emoji_xm", "--output", tmp_path) == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    assert f"saved {tmp_path}" in run("train", "emoji_xm", "--output", tmp_path)[1]
    assert [options["progress"] for _, _, options in stand_in] == [False] * 2  # no terminal here


@needs_training
@pytest.mark.parametrize("name", training.CONFIGS)
def test_train_shows_a_configuration_that_reads_back(
    name: str, stand_in: list[Any], run: Run, tmp_path: Path
) -> None:
    status, out, err = run("train", name, "--show", "--set", "clustering.eps=0.25")
    assert (status, err) == (0, "")
    file = tmp_path / "shown.toml"
    file.write_text(out)
    assert load_config(file) == load_config(name, ["clustering.eps=0.25"])
    assert stand_in == []
    # All there is to set, with what is not set in comments.
    shown = {line.lstrip("# ").split()[0].rstrip(":") for line in out.splitlines() if line}
    for table in fields(Config):
        assert {key.name for key in fields(getattr(Config(), table.name))} <= shown


@needs_training
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["sysu"], 2, "give --output DIR, the folder of the run, or --show"),
        (
            ["sisu", "--show"],
            1,
            f"config must be one of {', '.join(training.CONFIGS)} or a TOML file",
        ),
        (
            ["sysu", "--show", "--set", "stage1.epochs"],
            1,
            "an override must have the form table.key=value",
        ),
        (["sysu_mm01", "--show", "--set", "stage1.epoch=3"], 1, "sysu_mm01: "),
        (["sysu", "--output", "run"], 2, "give --data ROOT, the folder of sysu_mm01 (data.root)"),
        (
            ["regdb", "--output", "run", "--trial", "12", "--data", "."],
            1,
            "trial must be in [1, 10]",
        ),
    ],
)
def test_train_mistakes_are_one_line(
    words: list[str],
    status: int,
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run("train", *words)
    assert (got, out) == (status, "")
    assert err.count("\n") == 1
    assert err.startswith(f"mabm train: {message}")
    assert not (tmp_path / "run").exists()


# --- evaluate


def expected_scores(
    run_folder: Path,
    name: str,
    root: Path,
    trial: int | None = None,
    tasks: Sequence[mabm.SearchTask] | None = None,
    **options: Any,
) -> list[mabm.SearchScores]:
    """The searches of a data set, or those given, from its images to scores."""
    images = read_data(name, root, trial=trial).test
    encoder = build_encoder("small", weights=run_folder / "weights.pt")
    features = extract(
        encoder,
        ImageReader(images, size=SIZE, resampling="lanczos").__getitems__(range(len(images))),
        torch.from_numpy(images.modality.copy()),
        normalize_mean=True,
    )
    columns = (features, images.identity, images.camera, images.modality)
    return [
        mabm.evaluate_search(*columns, task=task, trial=trial, **options)
        for task in (mabm.SEARCH_TASKS[name] if tasks is None else tasks)
    ]


def test_evaluate_prints_every_task(sysu_run: Path, sysu: Path, run: Run, tmp_path: Path) -> None:
    expected = expected_scores(sysu_run, "sysu_mm01", sysu)
    status, out, err = run("evaluate", sysu_run, "--json", tmp_path / "scores.json", "--quiet")
    assert (status, err) == (0, "")
    table, saved = out.rstrip("\n").rsplit("\n", 1)
    assert table == format_search_scores(expected)
    assert saved == f"saved {tmp_path / 'scores.json'}"
    written = json.loads((tmp_path / "scores.json").read_text())
    weights = [{"path": str(sysu_run), "model": "small"}]
    assert written == [{"weights": weights, **scores.to_dict()} for scores in expected]
    assert len(written[0]["trials"]) == 10


def test_evaluate_one_task_reranked(sysu_run: Path, sysu: Path, run: Run, tmp_path: Path) -> None:
    options = mabm.RerankOptions(k1=8, k2=2, lambda_value=0.1)
    _, expected = expected_scores(sysu_run, "sysu_mm01", sysu, rerank=options)
    words = ("--task", "indoor-search", "--rerank", "--k1", 8, "--k2", 2, "--lambda", 0.1)
    status, out, _ = run("evaluate", sysu_run, "--data", sysu, *words, "--quiet")
    assert status == 0
    assert out == f"{format_search_scores([expected])}\n"
    assert "sysu_mm01 indoor-search, re-ranked" in out
    assert "all-search" not in out


def test_evaluate_runs_some_tasks_by_name_alone(sysu_run: Path, sysu: Path, run: Run) -> None:
    tasks = mabm.MORE_SEARCH_TASKS["sysu_mm01"]
    expected = expected_scores(sysu_run, "sysu_mm01", sysu, tasks=tasks)
    words = ("--task", "all-search-multi-shot", "--task", "indoor-search-multi-shot")
    status, out, _ = run("evaluate", sysu_run, *words, "--quiet")
    assert (status, out) == (0, f"{format_search_scores(expected)}\n")


@needs_training
def test_evaluate_averages_the_models_of_several_trials(
    regdb: Path, run: Run, tmp_path: Path
) -> None:
    folders = [
        make_run(tmp_path / f"run-{n}", "regdb", [f"data.root={regdb}", f"data.trial={n}"], seed=n)
        for n in (1, 2)
    ]
    parts = [expected_scores(f, "regdb", regdb, n) for n, f in enumerate(folders, 1)]
    together = [mabm.SearchScores.combine(each) for each in zip(*parts, strict=True)]
    assert together[0].trials == (1, 2)
    status, out, _ = run("evaluate", folders[1], folders[0], "--quiet")
    assert status == 0
    assert out == f"{format_search_scores(together)}\n"

    status, out, err = run("evaluate", folders[0], "--trial", 2)
    assert (status, out) == (1, "")
    assert "model_trial must be 2, the trial to test on, got 1" in err
    assert run("evaluate", folders[0], "--trial", 1, "--quiet")[0] == 0
    assert "for different trials to be averaged, got " in run("evaluate", folders[0], folders[0])[2]


def test_evaluate_mistakes_are_one_line(sysu_run: Path, run: Run, tmp_path: Path) -> None:
    for words, status, message in [
        ([tmp_path], 1, "WEIGHTS must be a finished run, a file or emoji_xm"),
        (
            [sysu_run, sysu_run],
            1,
            "WEIGHTS must be for one data set and for different trials to be",
        ),
        ([sysu_run, "--task", "visible-to-thermal"], 1, "tasks must be among all-search"),
        ([sysu_run, "--k1", "9"], 2, "--k1, --k2 and --lambda need --rerank"),
        ([sysu_run, "--json", tmp_path / "x.txt"], 1, "--json must end in .json, got"),
        ([sysu_run, "--rerank", "--lambda", "2"], 1, "lambda_value must be in [0, 1]"),
        ([sysu_run, "--data", tmp_path / "none"], 1, "root must be"),
    ]:
        got, out, err = run("evaluate", *words)
        assert (got, out) == (status, "")
        assert err.count("\n") == 1
        assert err.startswith(f"mabm evaluate: {message}")


# --- extract


def by_hand(
    images: ImageSet, *, resampling: Resampling = "bicubic", normalize_mean: bool = False
) -> np.ndarray:
    return extract(
        build_encoder("small", seed=0),
        ImageReader(images, size=SIZE, resampling=resampling).__getitems__(range(len(images))),
        torch.from_numpy(images.modality.copy()),
        normalize_mean=normalize_mean,
    ).numpy()


def test_extract_a_data_set_and_cluster_it(
    sysu_run: Path, sysu: Path, run: Run, tmp_path: Path
) -> None:
    images = read_data("sysu_mm01", sysu).train
    file = tmp_path / "train.npz"
    status, out, _ = run("extract", sysu_run, "--data", f"sysu_mm01:{sysu}", "--output", file)
    assert status == 0
    groups = [f"{(images.modality == group).sum()} of modality {group}" for group in (0, 1)]
    assert out == f"{len(images)} x 192 features ({', '.join(groups)})\nsaved {file}\n"
    with np.load(file, allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["features"], by_hand(images), rtol=0, atol=1e-5)
        for name in ("modality", "camera", "identity"):
            np.testing.assert_array_equal(archive[name], getattr(images, name))
        assert archive["path"].tolist() == [str(path) for path in images.images]
    assert run("cluster", file, "--k1", 8, "--k2", 2)[0] == 0

    test = tmp_path / "test.npy"
    words = ("--data", f"sysu_mm01:{sysu}", "--split", "test", "--renormalize", "--batch-size", 5)
    assert run("extract", sysu_run / "weights.pt", *words, "--output", test, "--quiet")[2] == ""
    images = read_data("sysu_mm01", sysu).test
    expected = by_hand(images, resampling="lanczos", normalize_mean=True)
    np.testing.assert_allclose(np.load(test), expected, rtol=0, atol=1e-5)
    bicubic = (*words, "--resampling", "bicubic", "--output", test, "--quiet")
    assert run("extract", sysu_run / "weights.pt", *bicubic)[0] == 0
    other = by_hand(images, normalize_mean=True)
    assert np.abs(other - expected).max() > 1e-3
    np.testing.assert_allclose(np.load(test), other, rtol=0, atol=1e-5)


def test_extract_a_table_of_images(sysu: Path, run: Run, tmp_path: Path) -> None:
    table = sysu / "table.csv"
    rows = [("cam1/0001/0001.jpg", 1, "visible", 1), ("cam3/0002/0002.jpg", "", 1, ""),
            ("cam2/0001/0003.jpg", 2, "Visible", -1)]  # fmt: skip
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("Path", "camera", "modality", "identity"), *rows])
    save_weights(build_encoder("small", seed=3), tmp_path / "weights.npz")
    encoder = build_encoder("small", weights=tmp_path / "weights.npz")  # of rounded weights
    save_encoder(encoder, tmp_path / "encoder.pt", name="small", meta={})
    images = ImageSet(
        [sysu / row[0] for row in rows], [1, -1, -1], [1, -1, 2], [VISIBLE, INFRARED, VISIBLE]
    )
    expected = extract(
        encoder,
        ImageReader(images, size=SIZE).__getitems__(range(3)),
        torch.from_numpy(images.modality.copy()),
    ).numpy()
    for weights in (("weights.npz", "--model", "small"), ("encoder.pt",)):
        file = tmp_path / "features.safetensors"
        status, _, _ = run(
            "extract", tmp_path / weights[0], *weights[1:], "--images", table, "--size", *SIZE,
            "--cache", tmp_path / "cache", "--output", file,
        )  # fmt: skip
        assert status == 0
        arrays = load_file(file)
        assert sorted(arrays) == ["camera", "features", "identity", "modality"]
        np.testing.assert_allclose(arrays["features"], expected, rtol=0, atol=1e-5)
        for name in ("modality", "camera", "identity"):
            np.testing.assert_array_equal(arrays[name], getattr(images, name))
        file.unlink()
    assert list((tmp_path / "cache").iterdir())


def test_extract_with_what_ships(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = render_identities([0])
    few = ImageSet(frames.images, frames.identity, frames.camera, frames.modality)
    whole = ReidData("emoji_xm", few, few.select([]))  # rendering all of it takes a while
    monkeypatch.setattr("mabm.data.read_data", lambda name, root, *, trial: whole)
    file = tmp_path / "features.npz"
    assert run("extract", "emoji_xm", "--data", "emoji_xm", "--output", file)[0] == 0
    expected = extract(
        load_pretrained("emoji_xm"),
        torch.from_numpy(frames.images),
        torch.from_numpy(frames.modality),
    )
    with np.load(file, allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["features"], expected, rtol=0, atol=1e-5)
        assert "path" not in archive


EXTRACT_MISTAKES = [
    ("path,camera,modality\nhere.jpg,1,0\n", "lists images that do not exist: "),
    ("path,camera\nhere.jpg,1\n", "must have columns path and modality, and maybe camera, ident"),
    ("path,camera,camera,modality\nhere.jpg,1,1,0\n", "must have columns path and modality"),
    ("path,camera,modality\n", "must list images, got none"),
    ("path,camera,modality\nhere.jpg,1\n", ", row 2: must have 3 columns, got 2"),
    (
        "path,camera,modality\nhere.jpg,one,0\n",
        ", row 2: camera must be an integer in [0, 2^63), or empty",
    ),
    (
        "path,camera,modality\nhere.jpg,1,warm\n",
        ", row 2: modality must be an integer in [0, 2^63) or one",
    ),
    (
        "path,camera,modality,identity\na.jpg,1,0,x\n",
        ", row 2: identity must be an integer in [0, 2^63)",
    ),
]


@pytest.mark.parametrize(("text", "message"), EXTRACT_MISTAKES)
def test_extract_says_what_is_wrong_with_a_table(
    text: str, message: str, run: Run, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    status, out, err = run(
        "extract", "emoji_xm", "--images", table, "--output", tmp_path / "features.npy"
    )
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert f"{table}" in err
    assert message in err


def test_extract_mistakes_are_one_line(sysu: Path, run: Run, tmp_path: Path) -> None:
    save_weights(build_encoder("small"), tmp_path / "weights.npz")
    torch.save(build_encoder("small").state_dict(), tmp_path / "weights.pt")
    data, file = ("--data", f"sysu_mm01:{sysu}"), ("--output", tmp_path / "features.npz")
    for words, status, message in [
        (["emoji_xm", *file], 2, "give either --data NAME[:ROOT] or --images LIST.csv"),
        (["emoji_xm", *file, *data, "--images", "x"], 2, "give either --data"),
        (["emoji_xm", *file, "--images", "x", "--trial", 1], 2, "--trial needs --data regdb:ROOT"),
        (["emoji_xm", *file, *data, "--model", "small"], 1, "model (--model) must be omitted for"),
        (["emoji_xm", *file, "--data", "llcm"], 2, "--data must be llcm:ROOT"),
        (["nothing.pt", *file, *data], 1, "WEIGHTS must be a finished run, a file or emoji_xm"),
        ([sysu, *file, *data], 1, "WEIGHTS must be a finished run"),
        (
            [tmp_path / "weights.pt", *file, *data],
            1,
            f"{tmp_path / 'weights.pt'} contains only weights",
        ),
        (["emoji_xm", *file, "--data", "sisu"], 1, "name must be one of"),
        (["emoji_xm", "--output", "x.csv", *data], 1, "--output must end in .npz or .npy or"),
    ]:
        got, out, err = run("extract", *words)
        assert (got, out) == (status, "")
        assert err.count("\n") == 1
        assert err.startswith(f"mabm extract: {message}")
    assert "give --model NAME" in run("extract", tmp_path / "weights.pt", *file, *data)[2]


# --- census


def test_census_of_a_miniature_is_not_complete(sysu: Path, regdb: Path, run: Run) -> None:
    status, out, err = run("census", "sysu_mm01", sysu)
    assert (status, err) == (1, "")
    assert "395" in out
    assert out.endswith("NOT complete\n")
    status, out, _ = run("census", "regdb", regdb, "--trial", 2, "--json")
    assert status == 1
    census = json.loads(out)
    assert (census["name"], census["trial"], census["complete"]) == ("regdb", 2, False)


def test_census_that_is_complete(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = []

    class Whole:
        is_complete = True

        def __str__(self) -> str:
            return "all there"

    def take_census(*arguments: object, **options: object) -> Whole:
        given.append((arguments, options))
        return Whole()

    monkeypatch.setattr("mabm.data.take_census", take_census)
    assert run("census", "llcm", tmp_path, "--decode") == (0, "all there\n", "")
    assert given == [(("llcm", tmp_path), {"trial": None, "decode": True})]


def test_census_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    for words, message in (
        (("sisu", tmp_path), "name must be one of"),
        (("llcm", tmp_path / "none"), "root must be a folder"),
        (("llcm", tmp_path, "--trial", 1), "trial must be None for llcm"),
    ):
        status, out, err = run("census", *words)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert err.startswith(f"mabm census: {message}")
