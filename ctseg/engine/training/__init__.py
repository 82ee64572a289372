"""A run: preparation, the training loop, validation, checkpoints."""
