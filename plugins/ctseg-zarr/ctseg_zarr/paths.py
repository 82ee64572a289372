"""Recognises Zarr stores. Imports neither zarr nor NumPy."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".ome.zarr", ".zarr")
ZIPPED = (".zarr.zip", ".ozx")
_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""Files of which every Zarr group or array of version 3 or 2 has at least one."""


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder with a Zarr group or array, or a zipped store."""
    try:
        if path.is_dir():
            return any((path / mark).is_file() for mark in _MARKS)
        return path.name.lower().endswith(ZIPPED) and path.is_file()
    except OSError:
        return False


def suffix_of(path: Path) -> str:
    """The suffix of a name that marks it as a store; empty without one."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
