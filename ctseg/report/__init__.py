"""Plots of training runs and pictures of predictions, drawn without a display."""
