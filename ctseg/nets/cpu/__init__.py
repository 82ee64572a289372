"""Convolutions made for CPUs."""
