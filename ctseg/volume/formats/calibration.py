"""Voxel sizes of files that may not know theirs: pictures, and volumes without a header of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctseg import plugins
from ctseg.errors import FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.formats.units import read_spacing
from ctseg.volume.geometry import Geometry, Xyz

SPACING_OPTION = "spacing, e.g. --option spacing='0.7 0.7 2.5' or spacing=5um"
UNKNOWN = "spacing_unknown"
"""The entry of a source's metadata that says that its spacing is made up."""


@dataclass(frozen=True)
class Calibration:
    """The voxel size of a file.

    Attributes:
        spacing_xyz: mm.
        unit: to show lengths in.
        is_known: whether the file says it; else voxels of 1 mm are taken.
        notes: what was taken for granted.
    """

    spacing_xyz: Xyz
    unit: str = "mm"
    is_known: bool = True
    notes: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """What a source says of it."""
        return {
            **({} if self.is_known else {UNKNOWN: True}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def unknown(why: str, option: str = SPACING_OPTION) -> Calibration:
    """Voxels of 1 mm, and a note that says so.

    Args:
        why: nothing is known, e.g. "the file does not say it".
        option: how to give the voxel size.
    """
    note = f"The voxel size is unknown ({why}): 1 x 1 x 1 mm is taken. Give it with the option {option}"
    return Calibration((1.0, 1.0, 1.0), "mm", False, (note,))


def given(spacing: str) -> Calibration:
    """The voxel size that an option gives.

    Raises:
        BadInput: it is no spacing.
    """
    return Calibration(*read_spacing(spacing))


def grid_of(
    path: Path, shape_zyx: Sequence[int], known: Calibration, like: str | None
) -> tuple[Geometry, dict[str, Any]]:
    """The grid of a file without origin and direction, and what its metadata say of it.

    Args:
        known: what the file says.
        like: a scan whose grid counts where the file knows no voxel size and has the same number of voxels.

    Raises:
        FileProblem: numbers that are no grid, or no such scan.
    """
    z, y, x = shape_zyx
    if like is not None and not known.is_known:
        lender = _grid_at(Path(like))
        if lender.shape_zyx == (z, y, x):
            note = f"It knows no voxel size of its own and takes the grid of {like}, whose shape it has."
            return lender, {"notes": [note]}
        known = replace(
            known, notes=(*known.notes, f"{like} has another shape and cannot lend its grid.")
        )
    geometry = grids.make_geometry(
        path, (z, y, x), known.spacing_xyz, (0.0, 0.0, 0.0), np.eye(3), known.unit
    )
    return geometry, known.metadata()


def _grid_at(path: Path) -> Geometry:
    spec = next((spec for spec in plugins.formats() if spec.recognise(path)), None)
    if spec is None:
        raise FileProblem(f"{path}, whose grid the option like names, is no scan.")
    source = spec.open(path)
    try:
        return source.geometry
    finally:
        source.close()
