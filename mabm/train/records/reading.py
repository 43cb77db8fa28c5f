"""The files in the folder of a run, read by those who report on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mabm.train.config_files import read_tables
from mabm.train.records.files import CONFIG, ENVIRONMENT, HISTORY, RESULT
from mabm.train.records.history import History

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """What a run, finished or not, says of itself.

    Attributes:
        folder: Folder of the run.
        history: Entries of all epochs, in order.
        config_toml: Configuration as text; empty without one.
        settings: The same as nested dictionaries, as they are in the file: it may be of an earlier
            version.
        environment: Versions and hardware as name -> text; empty where they are not known.
        is_finished: Whether training is over.
    """

    folder: Path
    history: list[dict[str, Any]]
    config_toml: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    is_finished: bool


def read_run(folder: Path) -> RunRecord:
    """Reads the folder of a run, which may go on meanwhile.

    Raises:
        FileNotFoundError: The folder has no history.
        ImportError: An extra is missing.
        OSError: A file cannot be read.
        ValueError: History or configuration is damaged.
    """
    history = History(folder / HISTORY)
    if not history.path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of a run, with {HISTORY}")
    config = folder / CONFIG
    text, settings = read_tables(config) if config.is_file() else ("", {})
    return RunRecord(
        folder,
        history.read(),
        text,
        settings,
        read_environment(folder),
        (folder / RESULT).is_file(),
    )


def read_environment(folder: Path) -> dict[str, str]:
    """The environment that a run began in; empty if its file is gone or damaged, as a warning says.

    Args:
        folder: Folder of the run.
    """
    path = folder / ENVIRONMENT
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return {}
    if not isinstance(facts, dict):
        logger.warning("%s is no JSON object", path)
        return {}
    return {str(name): str(words) for name, words in facts.items()}
