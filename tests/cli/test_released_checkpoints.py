"""Weights that no run of this library wrote: ``mabm evaluate`` and ``mabm extract`` take them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import Run
from extras import needs_training
from miniature_trees import build_regdb, build_sysu
from released_checkpoint import Released, released_network, save_released

import mabm
from mabm.data import ImageReader, read_data
from mabm.evaluation import format_search_scores
from mabm.models import build_encoder, save_encoder, save_weights
from mabm.train import evaluate_weights, load_config
from mabm.train.config_files import to_tree
from mabm.train.trained import data_to_test, read_trained

SIZE = (64, 32)

pytestmark = needs_training


@pytest.fixture(scope="module")
def network() -> Released:
    return released_network(seed=2)


@pytest.fixture(scope="module")
def checkpoint(network: Released, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_released(network, tmp_path_factory.mktemp("adca") / "model_best.pth.tar")


@pytest.fixture(scope="module")
def sysu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sysu(tmp_path_factory.mktemp("sysu"), train=1, test=2, images=1)


@pytest.fixture(scope="module")
def regdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_regdb(tmp_path_factory.mktemp("regdb"), identities=4, images=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights alone of the small encoder, which is faster."""
    path = tmp_path_factory.mktemp("small") / "small.npz"
    save_weights(build_encoder("small", seed=4), path)
    return path


def test_evaluate_and_extract_a_released_checkpoint(
    network: Released, checkpoint: Path, sysu: Path, run: Run, tmp_path: Path
) -> None:
    """Features are those of the released network; scores are those of the features."""
    data = ("--model", "agw-resnet50", "--data", f"sysu_mm01:{sysu}", "--size", *SIZE)
    file, scores = tmp_path / "test.npz", tmp_path / "scores.json"
    words = ("--split", "test", "--renormalize", "--output", file)
    assert run("extract", checkpoint, *data, *words)[0] == 0
    images = read_data("sysu_mm01", sysu).test
    reader = ImageReader(images, size=SIZE, resampling="lanczos")
    pixels = reader.__getitems__(range(len(images)))
    expected = torch.empty(len(images), 2048)
    for group in (0, 1):
        rows = torch.from_numpy(images.modality == group)
        with torch.no_grad():
            both = [F.normalize(network(x[rows], group)) for x in (pixels, pixels.flip(3))]
        expected[rows] = F.normalize((both[0] + both[1]) / 2)
    with np.load(file) as archive:
        features = archive["features"]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)

    status, out, err = run("evaluate", checkpoint, *data, "--json", scores)
    assert status == 0
    found = [
        mabm.evaluate_search(features, images.identity, images.camera, images.modality, task=task)
        for task in mabm.SEARCH_TASKS["sysu_mm01"]
    ]
    assert out == f"{format_search_scores(found)}\nsaved {scores}\n"
    assert "model_best.pth.tar: 394 tensors loaded; in the file, not used: " in err
    entries = json.loads(scores.read_text())
    assert {entry["data"] for entry in entries} == {"sysu_mm01"}
    for entry in entries:
        assert entry["weights"] == [{"path": str(checkpoint), "model": "agw-resnet50"}]
    assert [mabm.SearchScores.from_dict(entry).mean for entry in entries] == [
        each.mean for each in found
    ]


def test_the_size_is_that_of_the_configuration(small: Path) -> None:
    alone = read_trained(small, model="small")
    assert not alone.encoder.training
    data = data_to_test(alone, name="sysu", root="here")
    assert data == replace(load_config("sysu").data, root="here")
    data = data_to_test(alone, name="regdb", root="here", trial=7, image_size=(24, 12))
    assert (data.name, data.trial, data.height, data.width) == ("regdb", 7, 24, 12)
    shipped = data_to_test(read_trained("emoji_xm"), name="emoji_xm")
    assert shipped == load_config("emoji_xm").data


def test_trials_are_said_and_averaged(small: Path, regdb: Path, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    save_weights(build_encoder("small", seed=5), other)
    words = ("--model", "small", "--data", f"RegDB:{regdb}", "--size", 24, 12, "--quiet")
    status, out, err = run("evaluate", small, *words)
    assert (status, out) == (1, "")
    assert "give --trial N, in [1, 10]: the trial of regdb that the weights were trained on" in err
    trials = ("--trial", 2, "--trial", 1)
    status, out, _ = run("evaluate", small, other, *words, *trials)
    parts = [
        evaluate_weights(
            path, model="small", data="regdb", root=str(regdb), trial=trial, image_size=(24, 12)
        )
        for path, trial in ((small, 2), (other, 1))
    ]
    together = [mabm.SearchScores.combine(each) for each in zip(*parts, strict=True)]
    assert (status, out) == (0, f"{format_search_scores(together)}\n")
    for given, message in [
        (("--trial", 1), "give --trial once for each of WEIGHTS, 2 times, got 1"),
        (("--trial", 1, "--trial", 1), "for different trials to be averaged, got"),
    ]:
        status, out, err = run("evaluate", small, other, *words, *given)
        assert (status != 0, out) == (True, "")
        assert message in err


def test_a_run_is_tested_on_other_data_too(
    regdb: Path, sysu: Path, run: Run, tmp_path: Path
) -> None:
    """At the size of the run, and on a trial that is said."""
    config = load_config("sysu", [f"data.root={sysu}", "data.height=24", "data.width=12"])
    meta = {"data": "sysu_mm01", "trial": None, "config": to_tree(config)}
    encoder = build_encoder("small", seed=4)
    (tmp_path / "run").mkdir()
    save_encoder(encoder, tmp_path / "run/weights.pt", name="small", meta=meta)
    words = ("--data", f"regdb:{regdb}", "--quiet")
    assert "give --trial N, in [1, 10]" in run("evaluate", tmp_path / "run", *words)[2]
    found = run("evaluate", tmp_path / "run", *words, "--trial", 1)
    save_weights(encoder, tmp_path / "alone.npz")
    alone = build_encoder("small", weights=tmp_path / "alone.npz")
    save_encoder(alone, tmp_path / "run/weights.pt", name="small", meta=meta)
    by_run = run("evaluate", tmp_path / "run", *words, "--trial", 1)
    by_weights = run(
        "evaluate",
        tmp_path / "alone.npz",
        "--model",
        "small",
        "--size",
        24,
        12,
        *words,
        "--trial",
        1,
    )
    assert found[0] == 0
    assert by_run == by_weights


def test_a_folder_named_as_a_data_set_is_a_folder(
    sysu: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sysu, "sysu")
    config = load_config("sysu", ["data.root=gone", "data.height=24", "data.width=12"])
    meta = {"data": "sysu_mm01", "trial": None, "config": to_tree(config)}
    save_encoder(build_encoder("small"), "weights.pt", name="small", meta=meta)
    assert run("evaluate", "weights.pt", "--data", "sysu", "--quiet")[0] == 0
    shutil.rmtree("sysu")
    assert "--data must be sysu_mm01:ROOT" in run("evaluate", "weights.pt", "--data", "sysu")[2]


def test_mistakes_say_what_to_give(
    checkpoint: Path, small: Path, sysu: Path, run: Run, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.pt"
    save_encoder(build_encoder("small"), ours, name="small", meta={})
    data = ("--data", f"sysu_mm01:{sysu}")
    for command, words in (("evaluate", ()), ("extract", ("--output", tmp_path / "f.npy"))):
        for weights, options, message in [
            (checkpoint, data, "contains only weights and does not name its encoder: give --model "
             "agw-resnet50"),
            (small, data, "contains only weights and does not name its encoder: give --model NAME"),
            (checkpoint, (*data, "--model", "small"), "are for the encoder 'agw-resnet50', got"),
            (small, (*data, "--model", "agw-resnet50"), "weights of neck.weight must have shape"),
            (ours, (*data, "--model", "small"), f"must be omitted for {ours}, whose encoder is"),
            (small, (*data, "--model", "resnet"), "name must be one of ['agw-resnet50', 'small']"),
            (tmp_path / "none.t", data, "must be a finished run, a file or emoji_xm, got"),
            (small, ("--model", "small", "--data", "llcm"), "--data must be llcm:ROOT"),
        ]:  # fmt: skip
            status, out, err = run(command, weights, *options, *words)
            assert (status in (1, 2), out) == (True, "")
            assert message in err, (command, weights, options)
            assert err.startswith(f"mabm {command}: ")
            assert err.count("\n") == 1
    status, _, err = run("evaluate", small, "--model", "small")
    assert (status, "do not record a data set to test on: give --data NAME:ROOT" in err) == (
        1,
        True,
    )
    status, _, err = run("evaluate", small, "--model", "small", "--data", "sisu:/data")
    assert (status, "a data set to test on, got 'sisu:/data': give" in err) == (1, True)
