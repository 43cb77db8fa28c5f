"""SYSU-MM01, RegDB and LLCM in miniature, by the command line: census, train, evaluate.

The shipped configurations run with the encoder they name, AGW's ResNet-50, from random weights.
Images are smaller, stages last two steps, and a sample has as many neighbors as its identity has
images; an identity is a pattern of colored blocks, which untrained convolutions tell from another.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run
from extras import needs_training
from miniature_trees import build_llcm, build_regdb, build_sysu

from mabm.train import load_config

pytestmark = [needs_training, pytest.mark.slow]

SIZE = (48, 24)
SHORT = [
    f"data.height={SIZE[0]}",
    f"data.width={SIZE[1]}",
    "data.workers=0",
    "clustering.k1=12",
    "clustering.k2=3",
    "batch.identities=2",
    "batch.infrared_identities=2",
    "batch.instances=4",
    *(f"stage{stage}.{key}" for stage in (1, 2) for key in ("epochs=1", "iterations=2")),
]
OVERRIDES = [word for override in SHORT for word in ("--set", override)]


def train_and_evaluate(
    run: Run, folder: Path, config: str, root: Path, *words: object
) -> dict[str, dict[str, Any]]:
    """Trains, holds what the run left against what it must leave, and returns its scores."""
    status, trained, log = run(
        "train", config, "--data", root, "--output", folder, *words, *OVERRIDES
    )
    assert status == 0, log
    check_run(folder, config)
    status, tested, _ = run("evaluate", folder, "--json", folder / "scores.json")
    assert status == 0
    table, saved = tested.rstrip("\n").rsplit("\n", 1)
    assert saved == f"saved {folder / 'scores.json'}"
    # What training said, weights.pt says again.
    assert trained == f"{table}\nsaved {folder}\nreport {folder / 'report.html'}\n"
    scores = json.loads((folder / "scores.json").read_text())
    tested = [each.pop("weights") for each in scores]
    assert [weights["path"] for (weights,) in tested] == [str(folder)] * len(scores)
    assert json.loads((folder / "result.json").read_text())["scores"] == scores
    for each, line in zip(scores, table.splitlines()[1:], strict=True):
        check_scores(each, line)
    return {each["task"]: each for each in scores}


def check_run(folder: Path, name: str) -> None:
    config, shipped = load_config(folder / "config.toml"), load_config(name)
    assert config.model == shipped.model
    assert config.contrast == shipped.contrast
    assert config.augmentation == shipped.augmentation
    assert (config.clustering.eps, config.stage2.lr) == (shipped.clustering.eps, shipped.stage2.lr)
    lines = (folder / "history.jsonl").read_text().splitlines()
    start, *epochs = (json.loads(line) for line in lines)
    assert (start["stage"], [(each["stage"], each["epoch"]) for each in epochs]) == (
        0,
        [(1, 1), (2, 1)],
    )
    within = {"within visible", "within infrared"}
    assert set(epochs[0]["losses"]) == within
    assert set(epochs[1]["losses"]) == within | {"across visible", "across infrared"}
    for epoch in epochs:
        assert all(math.isfinite(value) for value in epoch["losses"].values())
        assert min(epoch["clusters"].values()) >= 2
        assert (epoch["warnings"], epoch["skipped_steps"]) == ([], 0)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert all(task in report for task in start["evaluation"])
    files = [torch.load(folder / file, weights_only=True) for file in ("stage1.pt", "weights.pt")]
    assert {file["name"] for file in files} == {"agw-resnet50"}
    before, after = (file["state"] for file in files)
    assert before["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    moved = {name for name, weights in after.items() if not weights.equal(before[name])}
    assert {name for name in after if name.endswith("conv1.weight")} <= moved  # stems too
    assert all(bool(weights.isfinite().all()) for weights in after.values())


def check_scores(scores: dict[str, Any], line: str) -> None:
    """Means and deviations are those of the trials, and the table's; one trial deviates by 0."""
    cells = re.findall(r"(\d+\.\d\d)(?: ± (\d+\.\d\d))?", line)
    assert all((deviation != "") == (len(scores["trials"]) > 1) for _, deviation in cells)
    names = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
    cmc = np.array(scores["cmc"])
    assert cmc.shape == (len(scores["trials"]), 20)
    trials = dict(zip(names, cmc[:, [0, 4, 9, 19]].T, strict=False))
    trials |= {"mAP": np.array(scores["mAP"]), "mINP": np.array(scores["mINP"])}
    for name, (mean, deviation) in zip(names, cells, strict=True):
        assert scores["mean"][name] == pytest.approx(trials[name].mean(), abs=1e-12)
        assert scores["std"][name] == pytest.approx(trials[name].std(), abs=1e-12)
        assert float(mean) == pytest.approx(100 * trials[name].mean(), abs=0.0051)
        assert float(deviation or 0) == pytest.approx(100 * trials[name].std(), abs=0.0051)
    assert 0 < scores["mean"]["mAP"] <= 1


def test_sysu_mm01(run: Run, tmp_path: Path) -> None:
    root = build_sysu(tmp_path / "SYSU-MM01", train=4, val=2, test=3, images=3, size=SIZE)
    status, census, _ = run("census", "sysu_mm01", root)
    assert status == 1  # not the 395 identities that were published, but nothing is misplaced
    assert re.search(r"^training identities +395 +6 +389 missing$", census, re.MULTILINE)
    assert "problem" not in census
    scores = train_and_evaluate(run, tmp_path / "run", "sysu", root)
    assert set(scores) == {"all-search", "indoor-search"}
    for each in scores.values():
        assert each["trials"] == list(range(10))
        assert each["num_queries"] == [2 * 3 * 3] * 10  # cameras 3 and 6, three identities


def test_regdb(run: Run, tmp_path: Path) -> None:
    root = build_regdb(tmp_path / "RegDB", identities=12, images=8, size=SIZE)
    folder = tmp_path / "run"
    scores = train_and_evaluate(run, folder, "regdb", root, "--trial", 2)
    assert set(scores) == {"visible-to-thermal", "thermal-to-visible"}
    for each in scores.values():
        assert (each["trials"], each["num_queries"]) == ([2], [6 * 8])
    status, out, err = run("evaluate", folder, "--trial", 1)
    assert (status, out) == (1, "")
    assert "model_trial must be 1, the trial to test on, got 2" in err
    assert run("evaluate", folder / "weights.pt", "--trial", 2)[0] == 0


def test_llcm(run: Run, tmp_path: Path) -> None:
    root = build_llcm(tmp_path / "LLCM", train=6, test=3, images=3, size=SIZE)
    scores = train_and_evaluate(run, tmp_path / "run", "llcm", root)
    assert set(scores) == {"infrared-to-visible", "visible-to-infrared"}
    # Three identities; visible cameras 1, 3 and 4, of which the third has no infrared images.
    for task, cameras in (("infrared-to-visible", 2), ("visible-to-infrared", 3)):
        assert scores[task]["trials"] == list(range(10))
        assert scores[task]["num_queries"] == [3 * cameras * 3] * 10
