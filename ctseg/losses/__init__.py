"""Losses as pure functions of tensors. Their option classes (`ctseg.losses.config`) import no torch."""
