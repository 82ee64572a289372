"""The built-in zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctseg.hookspecs import hookimpl


@hookimpl
def ctseg_zoos() -> Sequence[Path]:
    """The zoo inside an installed package, or the one beside the package in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_zoo"
    if inside.is_dir():
        return [inside]
    beside = package.parent
    return [beside / "zoo"] if (beside / "pyproject.toml").is_file() else []
