"""Overlap of predictions with references, and the reports made of it."""
