"""TensorBoard files: the scalars of every epoch, for comparing runs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mabm._core.arguments import check_integer
from mabm._core.files import naming_file


class TensorBoardLog:
    """Writes history entries as scalars; the step is the number of the epoch in the whole run.

    Tags are the keys of an entry, joined by slashes, and are the same in all epochs:
    ``seconds``, ``learning_rate``, ``losses/NAME``, ``clusters/NAME``,
    ``diagnostics/CLUSTERING/NAME``, ``diagnostics/CLUSTERING/neighbor_mix/FROM_TO`` by modality,
    ``evaluation/TASK/SCORE`` (means over trials), ``within_modality/MODALITY/SCORE``, and
    ``warnings``, their number.

    Args:
        folder: Folder of the event file; created if it does not exist.
        first_step: Step of the first entry to write: the number of entries before it in the
            history. Entries of a killed run from that step on are hidden.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: The file cannot be written, now or later; ``filename`` is the file.
    """

    def __init__(self, folder: str | os.PathLike[str], *, first_step: int = 0) -> None:
        check_integer("first_step", first_step, at_least=0)
        self._step = first_step
        self._event, record_writer = require_tensorboard()
        os.makedirs(folder, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{time.time_ns()}.{os.getpid()}"
        self._path = Path(folder) / name
        # Written here and not by torch's writer, whose thread reports a full disk by itself.
        with naming_file(self._path):
            self._file = self._path.open("xb")
        self._records: Any = record_writer(self._file)
        try:
            self._write(file_version="brain.Event:2")
            self._write(step=first_step, session_log={"status": "START"})  # hides what came after
        except OSError:
            with suppress(OSError):
                self._file.close()
            raise

    def append(self, entry: Mapping[str, Any]) -> None:
        """Writes the scalars of one history entry; values that are not finite are left out.

        Args:
            entry: The entry of one epoch, as in one line of the history.
        """
        for tag, value in epoch_scalars(entry).items():
            summary = {"value": [{"tag": tag, "simple_value": value}]}
            self._write(step=self._step, summary=summary)
        self._step += 1

    def close(self) -> None:
        """Closes the event file."""
        with naming_file(self._path):
            self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        with naming_file(self._path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_tensorboard() -> tuple[Any, Any]:
    """TensorBoard's event class and record writer, or an ImportError that names the extra."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise ImportError(
            'run.tensorboard needs TensorBoard: pip install "mabm[tensorboard]"'
        ) from error
    return Event, RecordWriter


def epoch_scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of one history entry, by the tags of :class:`TensorBoardLog`."""
    scalars: dict[str, float] = {}
    for key in ("seconds", "learning_rate", "losses", "clusters", "within_modality"):
        scalars.update(_numbers(entry.get(key), key))
    for clustering, facts in (entry.get("diagnostics") or {}).items():
        tag = f"diagnostics/{clustering}"
        scalars.update(_numbers(facts, tag))
        modalities = facts.get("modalities", ())
        for start, row in zip(modalities, facts.get("neighbor_mix") or (), strict=False):
            for end, share in zip(modalities, row or (), strict=False):
                scalars.update(_numbers(share, f"{tag}/neighbor_mix/{start}_{end}"))
    for task, scores in (entry.get("evaluation") or {}).items():
        scalars.update(_numbers(scores["mean"], f"evaluation/{task}"))
    scalars["warnings"] = float(len(entry.get("warnings") or ()))
    return scalars


def _numbers(value: object, tag: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{tag}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield tag, float(value)
