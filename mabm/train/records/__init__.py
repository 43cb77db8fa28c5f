"""What a run keeps on the disk: checkpoints, history, environment, TensorBoard files, its lock."""
