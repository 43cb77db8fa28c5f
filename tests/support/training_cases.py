"""Small training runs on Emoji-XM: a few identities, a few steps, a checkpoint after each."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mabm.data import ImageSet, ReidData, identity_splits, render_identities
from mabm.train import Config, inputs, load_config, train

NUM_TRAIN, NUM_TEST = 14, 6
SMALL = (
    "data.height=24",  # half of the drawings: a quarter of the work
    "data.width=24",
    "batch.identities=4",
    "batch.instances=4",
    "stage1.epochs=2",
    "stage1.iterations=3",
    "stage2.epochs=2",
    "stage2.iterations=3",
    "run.checkpoint_every=1",
    "run.evaluate_every=0",
    "run.report=false",
    "run.precision=float32",  # every CPU has it
)


def small_config(*overrides: str) -> Config:
    return load_config("emoji_xm", [*SMALL, *overrides])


@functools.cache
def small_data() -> ReidData:
    """The first unlabeled identities, some to train and some to test on; no test identity."""
    wanted = identity_splits().unlabeled[: NUM_TRAIN + NUM_TEST]
    frames = render_identities(wanted)
    images = ImageSet(frames.images, frames.identity, frames.camera, frames.modality)
    is_test = np.isin(frames.identity, wanted[NUM_TRAIN:])
    train_rows, test_rows = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return ReidData("emoji_xm", images.select(train_rows), images.select(test_rows))


def fewer_data(num_train: int, num_test: int) -> ReidData:
    """The first identities of each part of :func:`small_data`."""
    data = small_data()
    train, test = (
        part.select(np.flatnonzero(np.isin(part.identity, np.unique(part.identity)[:count])))
        for part, count in ((data.train, num_train), (data.test, num_test))
    )
    return ReidData(data.name, train, test)


def use_small_data() -> None:
    """Makes :func:`mabm.train.train` read it, in this process."""
    data = small_data()
    inputs.read_data = lambda *_, **__: data


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)["state"]


def history_of(folder: Path) -> list[dict[str, Any]]:
    """All entries, without the times."""
    entries = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    use_small_data()
    train(small_config(*sys.argv[2:]), sys.argv[1], progress=False)
