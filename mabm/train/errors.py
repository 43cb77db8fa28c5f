"""What stops a training run."""


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that the message names; what was saved is still good."""
