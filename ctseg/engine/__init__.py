"""Step, validate, predict: runtime, training loop, checkpoints, tiles."""
