"""Reads the files in the folder of a run, for reports."""

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
    """The recorded state of a run, finished or not.

    Attributes:
        folder: Folder of the run.
        history: Entries of all epochs, in order.
        config_toml: Configuration as text; empty if there is none.
        settings: The configuration as nested dictionaries, exactly as in the file, which may be
            from an earlier version.
        environment: Versions and hardware as name -> text; empty if they are not known.
        is_finished: Whether training is over.
    """

    folder: Path
    history: list[dict[str, Any]]
    config_toml: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    is_finished: bool


def read_run(folder: Path) -> RunRecord:
    """Reads the folder of a run, which may still be training.

    Raises:
        FileNotFoundError: The folder has no history.
        ImportError: An extra is not installed.
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
    """The environment that a run started in; empty, with a warning, if its file is unreadable.

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
        logger.warning("%s is not a JSON object", path)
        return {}
    return {str(name): str(words) for name, words in facts.items()}
