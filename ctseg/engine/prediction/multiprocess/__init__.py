"""Prediction with several processes that torchrun starts."""
