"""The files of a run: checkpoints, history, environment, TensorBoard files, its lock."""
