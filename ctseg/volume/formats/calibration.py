"""Voxel sizes of files that may lack them: pictures, and volumes without a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctseg import plugins
from ctseg.errors import FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.formats.units import read_spacing
from ctseg.volume.geometry import Geometry, Xyz
from ctseg.volume.header import VolumeHeader

SPACING_OPTION = "spacing, e.g. --option spacing='0.7 0.7 2.5' or spacing=5um"
UNKNOWN = "spacing_unknown"
"""Metadata key that marks an assumed spacing; its value is the note that says so."""


@dataclass(frozen=True)
class Calibration:
    """The voxel size of a file.

    Attributes:
        spacing_xyz: spacing in mm.
        unit: unit in which lengths are shown.
        is_known: whether the file gives the voxel size; else 1 mm is assumed, along the finest axis.
        notes: assumptions that were made.
    """

    spacing_xyz: Xyz
    unit: str = "mm"
    is_known: bool = True
    notes: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """Metadata of a source with this voxel size."""
        return {
            **({} if self.is_known else {UNKNOWN: self.notes[0] if self.notes else True}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def known_spacing(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a source whose voxel size is given after all: without the mark of an assumed one, and its note."""
    if UNKNOWN not in metadata:
        return dict(metadata)
    known = {name: value for name, value in metadata.items() if name not in (UNKNOWN, "notes")}
    notes = [note for note in metadata.get("notes") or () if note != metadata[UNKNOWN]]
    return {**known, "notes": notes} if notes else known


def unknown_spacing(
    why: str, option: str = SPACING_OPTION, spacing_xyz: Xyz = (1.0, 1.0, 1.0)
) -> Calibration:
    """An assumed voxel size, with a note.

    Args:
        why: reason, e.g. "the file does not say it".
        option: how the user sets the voxel size.
        spacing_xyz: what is assumed, with 1 along the finest axis.
    """
    taken = " x ".join(f"{size:g}" for size in spacing_xyz)
    note = (
        f"The voxel size is unknown ({why}): {taken} mm is taken. Give it with the option {option}"
    )
    return Calibration(spacing_xyz, "mm", False, (note,))


def is_assumed(header: VolumeHeader) -> bool:
    """Whether a volume to write has the voxel size that was assumed for the scan it belongs to."""
    scan = header.reference
    return (
        scan is not None
        and bool(scan.metadata.get(UNKNOWN))
        and scan.geometry.spacing_xyz == header.geometry.spacing_xyz
    )


def calibration_of_option(spacing: str) -> Calibration:
    """The voxel size from the value of an option.

    Raises:
        BadInput: the value is not a spacing.
    """
    return Calibration(*read_spacing(spacing))


def grid_of(
    path: Path, shape_zyx: Sequence[int], calibration: Calibration, like: str | None
) -> tuple[Geometry, dict[str, Any]]:
    """The grid of a file without origin and direction, and metadata about it.

    Args:
        calibration: voxel size from the file.
        like: a scan whose grid is used if the file has no voxel size and the shapes are equal.

    Raises:
        FileProblem: the numbers are not a grid, or `like` is not a scan.
    """
    z, y, x = shape_zyx
    if like is not None and not calibration.is_known:
        lender = _grid_at(Path(like))
        if lender.shape_zyx == (z, y, x):
            note = f"It knows no voxel size of its own and takes the grid of {like}, whose shape it has."
            return lender, {"notes": [note]}
        calibration = replace(
            calibration,
            notes=(*calibration.notes, f"{like} has another shape and cannot lend its grid."),
        )
    geometry = grids.make_geometry(
        path, (z, y, x), calibration.spacing_xyz, (0.0, 0.0, 0.0), np.eye(3), calibration.unit
    )
    return geometry, calibration.metadata()


def _grid_at(path: Path) -> Geometry:
    spec = next((spec for spec in plugins.formats() if spec.recognise(path)), None)
    if spec is None:
        raise FileProblem(f"{path}, whose grid the option like names, is no scan.")
    source = spec.open(path)
    try:
        return source.geometry
    finally:
        source.close()
