"""Names of the files in the folder of a run, in the order they are written."""

from __future__ import annotations

import re
from typing import Final

from mabm._core.files import PART

CONFIG: Final = "config.toml"
ENVIRONMENT: Final = "environment.json"
HISTORY: Final = "history.jsonl"
CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)-(\d+)-(\d+)\.pt")  # stage, epoch, iteration
STAGE1: Final = "stage1.pt"
WEIGHTS: Final = "weights.pt"
RESULT: Final = "result.json"  # written when training is over
REPORT: Final = "report.html"

LOCK: Final = "run.lock"  # removed when the run ends normally
TENSORBOARD: Final = "tensorboard"  # a folder

RESULTS: Final = (STAGE1, WEIGHTS, RESULT, REPORT)
"""Results of training: without a checkpoint, none of these is replaced."""

WRITTEN: Final = (CONFIG, ENVIRONMENT, HISTORY, *RESULTS)
"""All files that a run writes under a fixed name; checkpoints are named by their position."""

_UNFINISHED: Final = re.compile(
    rf"({CHECKPOINT.pattern}(\.sha256)?|{'|'.join(map(re.escape, WRITTEN))})\.\d+{re.escape(PART)}"
)


def is_unfinished(name: str) -> bool:
    """Whether a name is that of a temporary file left by a killed run."""
    return _UNFINISHED.fullmatch(name) is not None
