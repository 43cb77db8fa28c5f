"""The listeners of a run: evaluation, history, log, TensorBoard, weights, checkpoints, report."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from mabm._core.files import write_text
from mabm.evaluation import SearchScores
from mabm.models import save_encoder
from mabm.report.page import is_complete
from mabm.train import distributed
from mabm.train.config_files import to_tree
from mabm.train.position import STAGES, Position
from mabm.train.records.checkpoint import save_checkpoint
from mabm.train.records.files import REPORT, RESULT, STAGE1, TENSORBOARD, WEIGHTS
from mabm.train.records.history import History
from mabm.train.records.resuming import state_of
from mabm.train.records.tensorboard import TensorBoardLog
from mabm.train.reporting import report_progress, report_run
from mabm.train.run import Listener, Run
from mabm.train.scoring import extract_test_features, score_searches, score_within_modalities

logger = logging.getLogger(__name__)


class Evaluation(Listener):
    """Evaluates the encoder at the start, every few epochs, and in the last epoch of a stage.

    All processes extract features; only the first one searches and gets scores. Without test
    images there are no scores.

    Args:
        scores: The last scores of a run that is resumed.
    """

    def __init__(self, scores: list[SearchScores]) -> None:
        self.scores = scores

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Adds the scores to the entry if the epoch is to be evaluated."""
        stage, epoch = entry["stage"], entry["epoch"]
        if not len(run.inputs.test):
            return
        if stage:
            every = run.config.run.evaluate_every
            if epoch != run.config.stage(stage).epochs and not (every and epoch % every == 0):
                return
            run.progress.describe(Position(stage, epoch - 1), "evaluation")
        features = extract_test_features(
            run.encoder,
            run.inputs.test,
            batch_size=run.config.batch.evaluation,
            workers=run.config.data.workers,
        )
        if distributed.rank():
            return
        data = run.inputs.data
        self.scores = score_searches(features, run.inputs.test, data.name, trial=data.trial)
        entry["evaluation"] = {scores.task: scores.to_dict() for scores in self.scores}
        entry["within_modality"] = score_within_modalities(features, run.inputs.test)


class HistoryRecord(Listener):
    """Appends a line for each epoch to the history.

    Args:
        history: The file.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Adds the duration of the epoch in seconds, including evaluation, and writes the entry."""
        entry["seconds"] = time.perf_counter() - run.epoch_started
        self.history.append(entry)


class Log(Listener):
    """Reports iterations and epochs on the terminal or in the log."""

    def after_iteration(self, run: Run) -> None:
        """Counts the iteration."""
        run.progress.advance(run.position)

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Logs one line about the epoch; the entry must have its duration."""
        run.progress.tell_epoch(entry)


class TensorBoardRecord(Listener):
    """Writes the scalars of each epoch for TensorBoard.

    Args:
        folder: Folder of the run.
        history: History of the run, to which each entry was already added.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self.folder, self.history = folder, history

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Writes the entry; its step is its line number in the history."""
        before = len(self.history.read()) - 1
        with TensorBoardLog(self.folder / TENSORBOARD, first_step=before) as log:
            log.append(entry)


class Weights(Listener):
    """Saves the encoder at the end of stage 1, and with the scores at the end of training.

    Args:
        folder: Folder of the run.
        evaluation: The listener that has the scores.
    """

    def __init__(self, folder: Path, evaluation: Evaluation) -> None:
        self.folder, self.evaluation = folder, evaluation

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Saves ``stage1.pt`` after the last epoch of stage 1."""
        stage = STAGES[0]
        if (entry["stage"], entry["epoch"]) == (stage, run.config.stage(stage).epochs):
            self._save(run, STAGE1)

    def after_training(self, run: Run) -> None:
        """Saves ``weights.pt`` and ``result.json``."""
        self._save(run, WEIGHTS)
        result = {"scores": [scores.to_dict() for scores in self.evaluation.scores]}
        write_text(self.folder / RESULT, json.dumps(result, indent=2) + "\n")

    def _save(self, run: Run, name: str) -> None:
        save_encoder(
            run.encoder,
            self.folder / name,
            name=run.config.model.name,
            meta={
                "data": run.inputs.data.name,
                "trial": run.inputs.data.trial,
                "config": to_tree(run.config),
            },
        )


class Checkpoints(Listener):
    """Saves a checkpoint after each epoch, every few iterations, and when the run is stopped.

    The first process writes; all wait for it.

    Args:
        folder: Folder of the run.
        saved: Position of the newest checkpoint, and whether it is within an epoch; ``None`` for a
            new run.
    """

    def __init__(self, folder: Path, saved: tuple[Position, bool] | None) -> None:
        self.folder, self.saved = folder, saved

    def after_iteration(self, run: Run) -> None:
        """Saves every ``checkpoint_every`` iterations, except after the last of an epoch."""
        every, iteration = run.config.run.checkpoint_every, run.position.iteration
        is_last = iteration == run.config.stage(run.position.stage).iterations
        if every and iteration % every == 0 and not is_last:
            self._save(run)

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Saves."""
        self._save(run)

    def before_stop(self, run: Run) -> None:
        """Saves a checkpoint unless the newest one is up to date."""
        if self.saved != (run.position, run.epoch is not None):
            self._save(run)

    def _save(self, run: Run) -> None:
        if distributed.rank() == 0:
            state = state_of(run.config, run.inputs, run.learner, run.epoch)
            save_checkpoint(self.folder, run.position, state)
        distributed.barrier()
        self.saved = run.position, run.epoch is not None


class Report(Listener):
    """Writes the report: curves after each epoch, clusters and searches at the end of the run.

    The first process writes the curves. At the end all take part, unless the report is complete.

    Args:
        folder: Folder of the run, with the history, to which each entry was already added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_epoch(self, run: Run, entry: dict[str, Any]) -> None:
        """Writes ``report.html`` from the files of the run; logs a warning if that fails."""
        if distributed.rank():
            return
        started = time.perf_counter()
        try:
            report_progress(self.folder)
        except Exception as error:  # a failed report must not end the run
            logger.warning("the report cannot be written (training continues): %s", error)
        else:
            logger.debug("the report took %.1f s", time.perf_counter() - started)

    def after_training(self, run: Run) -> None:
        """Clusters and searches once more, and writes the complete ``report.html``."""
        if distributed.share(is_complete(self.folder / REPORT)):
            return
        if distributed.rank() == 0:
            logger.info("report: clusters and searches of the last epoch")
        report_run(run.encoder, run.inputs, run.config, self.folder)
