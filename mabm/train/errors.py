"""What stops a training run."""


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that the message names; what was saved is still good."""


class RunInUseError(RuntimeError):
    """Another run is going on in the folder; nothing in it was touched."""


class TrainingStopped(Exception):  # noqa: N818 - it is no error
    """Training was asked to stop and did, at a checkpoint; the same call goes on from there."""
