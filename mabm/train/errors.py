"""Exceptions that end a training run."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why. What was saved before is still good."""


class RunInUseError(RuntimeError):
    """Another run uses the folder; nothing in it was changed."""


class TrainingStopped(Exception):  # noqa: N818 - it is no error
    """Training was asked to stop, and stopped at a checkpoint; the same call resumes there."""
