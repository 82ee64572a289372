"""Losses: pure functions of tensors. Option classes (`ctseg.losses.config`) are free of torch."""
