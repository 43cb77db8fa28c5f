"""Exceptions that end a training run."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why. Everything saved before stays valid."""


class RunInUseError(RuntimeError):
    """Another run uses the folder; nothing in it was changed."""


class TrainingStopped(Exception):  # noqa: N818 - not an error
    """Training was asked to stop, and stopped at a checkpoint; the same call resumes there."""
