"""Estimates the memory of a prediction and chooses settings that fit."""
