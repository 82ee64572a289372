"""Scans and their geometry, in memory and on disk."""
