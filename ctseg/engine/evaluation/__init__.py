"""Evaluation of predictions against references."""
