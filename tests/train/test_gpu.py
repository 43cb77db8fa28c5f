"""Training on a GPU: every precision, going on after a stop, and the CPU's labels."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from devices import Device
from extras import needs_training
from training_cases import history_of, small_config, small_data, weights_of

from mabm.train import inputs, train

pytestmark = needs_training


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    records = small_data()
    monkeypatch.setattr(inputs, "read_data", lambda *_, **__: records)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("run.compile=true",),
        ("batch.micro_batches=2",),
        ("batch.normalization=halves",),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_on_a_gpu(gpu: Device, precision: str, more: tuple[str, ...], tmp_path: Path) -> None:
    config = small_config(f"run.device={gpu.torch}", f"run.precision={precision}", *more)
    history = train(config, tmp_path, progress=False).history
    assert all(math.isfinite(loss) for entry in history[1:] for loss in entry["losses"].values())
    assert all(tensor.isfinite().all() for tensor in weights_of(tmp_path).values())


def test_the_first_clusters_are_those_of_the_cpu(gpu: Device, tmp_path: Path) -> None:
    """Later ones are of weights that rounding has parted."""
    overrides = ("run.precision=float32", "stage1.epochs=0", "stage2.epochs=1")
    found = {}
    for device in ("cpu", str(gpu.torch)):
        config = small_config(f"run.device={device}", *overrides)
        found[device] = train(config, tmp_path / device.replace(":", ""), progress=False).history[1]
    ours, theirs = found[str(gpu.torch)], found["cpu"]
    assert ours["clusters"] == theirs["clusters"]
    assert ours["diagnostics"]["all"]["ari"] == pytest.approx(theirs["diagnostics"]["all"]["ari"])


def test_a_resumed_run_ends_with_the_same_bits(
    gpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = small_config(f"run.device={gpu.torch}", "run.deterministic=true")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole, progress=False)
    # As a kill leaves it: the checkpoint before the last, and none of the results.
    shutil.copytree(whole, stopped)
    newest = max(stopped.glob("checkpoint-*.pt"))
    for path in (newest, newest.with_name(f"{newest.name}.sha256"), stopped / "weights.pt"):
        path.unlink()
    train(config, stopped, progress=False)
    expected, found = weights_of(whole), weights_of(stopped)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert history_of(stopped) == history_of(whole)
