"""Commands of ``mabm`` run in this process, files for them, and what every error keeps to."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

# What the fixture ``run`` is. Words of the command line; status, standard output, standard error.
Run: TypeAlias = Callable[..., tuple[int, str, str]]

COMMANDS: Final = (
    "demo",
    "cluster",
    "estimate",
    "assign",
    "train",
    "report",
    "evaluate",
    "extract",
    "census",
    "info",
    "completion",
)
"""Every command, in the order of the help."""

NUM_SAMPLES: Final = 40


def write_inputs(folder: Path) -> None:
    """Features and modality in files of every kind: f.npy, m.npy, m.csv, g.npz, s.safetensors."""
    features = np.random.default_rng(0).normal(size=(NUM_SAMPLES, 6)).astype(np.float32)
    modality = np.arange(NUM_SAMPLES) % 2
    np.save(folder / "f.npy", features)
    np.save(folder / "m.npy", modality)
    np.savez(folder / "g.npz", features=features, modality=modality)
    from safetensors.numpy import save_file  # of an extra, which not every machine has

    save_file({"features": features, "modality": modality}, folder / "s.safetensors")
    rows = "".join(f"{row},{group}\n" for row, group in enumerate(modality))
    (folder / "m.csv").write_text(f"row,modality\n{rows}")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(run: Run, *words: object) -> str:
    """The one line of a command that fails, and leaves every file as it was."""
    before = contents(Path())
    status, _, err = run(*words)
    assert status in (1, 2), err
    assert contents(Path()) == before
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "--debug" not in err
    return err
