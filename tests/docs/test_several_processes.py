"""The example of several processes runs by the command of its page, with the labels of one."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
from features import make_features

import mabm

EXAMPLE = pages.ROOT / "docs" / "examples" / "several_processes.py"
PAGE = pages.ROOT / "docs" / "guide" / "several_processes.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the example, and the files that it reads."""
    features, modality = make_features(301, 24)  # a number that no split divides
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "modality.npy", modality)
    shutil.copy(EXAMPLE, tmp_path)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """What a command prints."""
    clear = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in clear}
    path = {"PYTHONPATH": str(pages.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment | path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected(folder: Path) -> mabm.PseudoLabels[np.ndarray]:
    """The labels of one process."""
    features, modality = (np.load(folder / f"{name}.npy") for name in ("features", "modality"))
    found = mabm.pseudo_labels(features, modality, k1=20, k2=4)
    assert found.num_clusters > 1
    assert 0 < found.num_noise < len(features)
    return found


@pytest.mark.slow
def test_torchrun_gives_the_labels_of_one_process(folder: Path) -> None:
    block = next(block for block in pages.blocks(PAGE) if block.text.startswith("torchrun"))
    words = shlex.split(block.text.splitlines()[0])
    assert words[:3] == ["torchrun", "--standalone", "--nproc-per-node"]
    output = run(folder, "-m", "torch.distributed.run", *words[1:3], "2", *words[4:])
    files = sorted(folder.glob("labels_*.npy"))
    labels = [np.load(file) for file in files]
    assert [file.name for file in files] == ["labels_0.npy", "labels_1.npy"]
    assert [len(part) for part in labels] == [150, 151]
    found = expected(folder)
    np.testing.assert_array_equal(np.concatenate(labels), found.labels)
    assert re.findall(r"^(\d+) clusters", output, re.MULTILINE) == [str(found.num_clusters)]


def test_without_torchrun_it_runs_in_one_process(folder: Path) -> None:
    output = run(folder, EXAMPLE.name)
    found = expected(folder)
    np.testing.assert_array_equal(np.load(folder / "labels_0.npy"), found.labels)
    assert output == f"{found.summary()}\n"


def test_the_page_shows_the_example() -> None:
    (shown,) = (block.text for block in pages.blocks(PAGE) if block.language == "python")
    example = EXAMPLE.read_text("utf-8")
    assert shown == example[example.index("import os") :]
    assert len([line for line in shown.splitlines() if line]) <= 25
