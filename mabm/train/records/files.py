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

LOCK: Final = "run.lock"  # removed when the run ends in good order
TENSORBOARD: Final = "tensorboard"  # a folder

RESULTS: Final = (STAGE1, WEIGHTS, RESULT, REPORT)
"""What training leads to: without a checkpoint, none of these is replaced."""

WRITTEN: Final = (CONFIG, ENVIRONMENT, HISTORY, *RESULTS)
"""All files that a run writes under a name of their own; checkpoints have their position's."""

_UNFINISHED: Final = re.compile(
    rf"({CHECKPOINT.pattern}(\.sha256)?|{'|'.join(map(re.escape, WRITTEN))})\.\d+{re.escape(PART)}"
)


def is_unfinished(name: str) -> bool:
    """Whether a name is that of a file that a run was writing when it was killed."""
    return _UNFINISHED.fullmatch(name) is not None
