"""One's own images by the command line: trained on, resumed, evaluated, extracted."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from extras import needs_training
from miniature_trees import build_image_list, build_sysu

from mabm.data import list_images
from mabm.train import TrainingStopped, load_config, train

pytestmark = needs_training

SMALL = [
    "data.height=24",
    "data.width=24",
    "data.workers=0",
    "model.name=small",
    "model.weights=emoji_xm",
    "clustering.k1=12",
    "clustering.k2=3",
    "batch.identities=2",
    "batch.instances=4",
    *(f"stage{stage}.{key}" for stage in (1, 2) for key in ("epochs=1", "iterations=2")),
]
OVERRIDES = [word for override in SMALL for word in ("--set", override)]
SEARCHES = ["infrared-to-visible", "visible-to-infrared"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_image_list(tmp_path_factory.mktemp("own"), train=5, test=2, images=3)


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_images_of_ones_own_from_end_to_end(table: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("train", "--images", table, "--output", folder, *OVERRIDES)
    status, trained, log = run(*words)
    assert status == 0, log
    assert "30 visible and 30 infrared training images, 24 test images" in log
    config = load_config(folder / "config.toml")
    assert (config.data.name, config.data.root) == ("image_list", str(table))
    assert config.contrast == load_config("sysu_mm01").contrast
    for line in lines_of(folder):
        assert list(line["evaluation"]) == SEARCHES  # type: ignore[call-overload]
    for line in lines_of(folder)[1:]:
        facts = line["diagnostics"]["all"]  # type: ignore[index]
        assert (facts["num_known"], facts["ari"]) == (0, None)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert all(search in report for search in SEARCHES)

    # It is finished, and says the same again; so does what it left.
    assert run(*words)[1] == trained
    assert run("evaluate", folder)[1] == trained.rsplit("saved", 1)[0]
    assert (
        run("evaluate", folder / "weights.pt", "--images", table)[1] == run("evaluate", folder)[1]
    )

    file = tmp_path / "test.npz"
    assert run("extract", folder, "--images", table, "--split", "test", "--output", file)[0] == 0
    images, is_test = list_images(table)
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["identity"].tolist() == images.identity[is_test].tolist()
        assert len(arrays["features"]) == is_test.sum() == 24


@pytest.mark.slow
def test_without_test_images_identities_and_cameras(run: Run, tmp_path: Path) -> None:
    table = build_image_list(
        tmp_path / "own", train=5, test=0, images=3, leave_out=("camera", "identity", "split")
    )
    folder = tmp_path / "run"
    status, out, log = run("train", "--images", table, "--output", folder, *OVERRIDES)
    assert status == 0, log
    assert "no test images: no scores" in log
    assert "no cameras are known" in log
    assert "mAP" not in out
    assert f"saved {folder}" in out
    assert json.loads((folder / "result.json").read_text()) == {"scores": []}
    assert all("evaluation" not in line for line in lines_of(folder))
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "No epoch has been evaluated." in report
    status, _, log = run("evaluate", folder)
    assert status == 1
    assert f"root must have test images to score, got none in {table}" in log


@pytest.mark.slow
def test_a_run_on_a_list_resumes_on_the_same_images_alone(table: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, f"data.root={table}", "run.report=false", "run.checkpoint_every=1"]
    config = load_config("image_list", overrides)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == 5

    with pytest.raises(TrainingStopped):
        train(config, tmp_path / "run", progress=False, stop=stop)
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    fewer = table.with_name("fewer.csv")
    fewer.write_text("".join(lines[:1] + lines[2:]), encoding="utf-8")
    other = load_config("image_list", [*overrides, f"data.root={fewer}"])
    with pytest.raises(ValueError, match="the training images differ from those that the run"):
        train(other, tmp_path / "run", progress=False)
    # The table may be another one, if it lists the same images to train on.
    same = table.with_name("same.csv")
    same.write_text("".join(lines), encoding="utf-8")
    moved = load_config("image_list", [*overrides, f"data.root={same}"])
    resumed = train(moved, tmp_path / "run", progress=False)
    straight = train(config, tmp_path / "straight", progress=False)
    assert [each.to_dict() for each in resumed.scores] == [
        each.to_dict() for each in straight.scores
    ]


def test_the_settings_of_another_data_set_are_taken_without_its_data(
    table: Path, run: Run, tmp_path: Path
) -> None:
    shown = tmp_path / "shown.toml"
    shown.write_text(run("train", "regdb", "--images", table, "--show")[1])
    found, regdb = load_config(shown), load_config("regdb")
    assert (found.data.name, found.data.root, found.data.trial) == ("image_list", str(table), None)
    for name in ("clustering", "contrast", "batch", "augmentation", "stage1", "stage2"):
        assert getattr(found, name) == getattr(regdb, name)
    shown.write_text(run("train", "--images", table, "--show")[1])
    assert load_config(shown) == load_config("image_list", [f"data.root={table}"])


def test_images_of_ones_own_are_refused_early(table: Path, run: Run, tmp_path: Path) -> None:
    folder = ("--output", tmp_path / "run")
    root = build_sysu(tmp_path / "sysu")
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "result.json"  # what a run there would write
    own.write_bytes(table.read_bytes())
    for words, status, message in [
        (["train", *folder], 2, "give CONFIG, or --images LIST.csv"),
        (["train", "image_list", *folder], 2, "give --images LIST.csv, the table of images (data."),
        (
            ["train", "sysu", "--images", table, "--data", root, *folder],
            2,
            "--images cannot be comb",
        ),
        (
            ["train", "regdb", "--images", table, "--trial", 1, *folder],
            2,
            "--images cannot be combi",
        ),
        (["train", "--images", root, *folder], 1, "must be a regular file, got a folder"),
        (["train", "--images", root / "exp/test_id.txt", *folder], 1, "must have columns path and"),
        (["train", "--images", root / "no.csv", *folder], 1, "no.csv"),
        (["train", "--images", own, "--output", own.parent], 1, "--output must not be an input"),
        (
            ["evaluate", tmp_path, "--images", table, "--data", root],
            2,
            "--images cannot be combined",
        ),
    ]:
        got, out, err = run(*words)
        assert (got, out) == (status, ""), err
        assert err.count("\n") == 1
        assert message in err


def test_a_preset_that_compares_cameras_needs_some(tmp_path: Path) -> None:
    table = build_image_list(tmp_path, train=2, test=0, images=1, leave_out=("camera",))
    overrides = [*SMALL, f"data.root={table}", "clustering.preset=ca_jaccard", "clustering.k1=30",
                 "clustering.k2=6"]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"clustering\.preset must be one that does not compare cameras"
    ):
        train(load_config("image_list", overrides), tmp_path / "run", progress=False)
