"""Microstructure descriptors of volumes of any size."""
