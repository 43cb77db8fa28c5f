"""Features in a memory-mapped file: the same bits, and the file is never copied to memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mabm
from mabm.cli import main

COUNT = 240
FEATURES = np.random.default_rng(0).normal(size=(COUNT, 16)).astype(np.float32)
MODALITY = np.arange(COUNT) % 2


def mapped(path: Path, features: np.ndarray) -> np.ndarray:
    np.save(path, features)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_bits_from_a_file_as_from_memory(tmp_path: Path, dtype: str, order: str) -> None:
    features = np.asarray(FEATURES, dtype=dtype, order=order)
    on_disk = mapped(tmp_path / "features.npy", features)
    graph = mabm.jaccard_graph(on_disk, MODALITY, k1=10)
    expected = mabm.jaccard_graph(features, MODALITY, k1=10)
    for one, other in zip(graph.tensors(), expected.tensors(), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(
        mabm.rerank(on_disk[:50], on_disk[50:], k1=10),
        mabm.rerank(features[:50], features[50:], k1=10),
    )
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), features)


def test_results_can_be_written_to(tmp_path: Path) -> None:
    on_disk = mapped(tmp_path / "features.npy", FEATURES)
    results = (
        mabm.center_modalities(on_disk, MODALITY),
        mabm.modality_jaccard(on_disk, k1=10),
        mabm.rank_neighbors(on_disk, k1=10).scores,
        mabm.split_prototypes(on_disk, MODALITY, MODALITY).prototypes,
    )
    for result in results:
        result[:] = 1


def test_a_missing_number_in_a_file_is_found(tmp_path: Path) -> None:
    features = FEATURES.copy()
    features[200, 3] = np.nan
    with pytest.raises(ValueError, match=r"got NaN or Inf in row 200$"):
        mabm.pseudo_labels(mapped(tmp_path / "features.npy", features))


def test_the_command_gives_the_labels_of_the_call(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", FEATURES)
    np.save(tmp_path / "modality.npy", MODALITY)
    output = tmp_path / "labels.npy"
    words = ["--modality", tmp_path / "modality.npy", "--output", output, "--k1", 10]
    words += ["--max-memory", "200MB"]
    assert main([str(word) for word in ("cluster", tmp_path / "features.npy", *words)]) == 0
    expected = mabm.pseudo_labels(FEATURES, MODALITY, k1=10).labels
    np.testing.assert_array_equal(np.load(output), expected)


MEASURED = """
import json, sys
from pathlib import Path
import numpy as np, torch, mabm
torch.set_num_threads(1)
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
mabm.pseudo_labels(torch.randn(100, 8))
features = np.load(sys.argv[1], mmap_mode="r")
before, peaks = anonymous(), []
mabm.pseudo_labels(
    features, max_memory="30MB", progress=lambda progress: peaks.append(anonymous() - before)
)
print(json.dumps([features.nbytes, max(peaks), len(peaks)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures in /proc")
def test_a_large_file_is_never_copied_to_memory(tmp_path: Path) -> None:
    path, generator = tmp_path / "features.npy", np.random.default_rng(0)
    on_disk = np.lib.format.open_memmap(path, "w+", np.float32, (2000, 8192))
    people = generator.standard_normal((100, 8192), np.float32)
    for rows in np.split(on_disk, 20):
        rows[:] = people + 0.1 * generator.standard_normal(rows.shape, np.float32)
    on_disk.flush()
    # Freed memory goes back at once, so that what counts is what is allocated.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    size, peak, num_reports = json.loads(done.stdout)
    assert size == 2000 * 8192 * 4
    assert num_reports >= 12
    assert peak < 30_000_000 < size / 2
