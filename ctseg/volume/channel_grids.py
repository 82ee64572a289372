"""A channel with a grid of its own, such as PET beside CT, brought onto the grid of another channel of its case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctseg.errors import GeometryMismatch
from ctseg.specs import VolumeSource
from ctseg.volume.geometry import Geometry
from ctseg.volume.onto_grid import OntoGrid

LEAST_COVERED = 0.5
"""Least share of the grid that another channel of the same patient covers."""
_SAMPLES = 17
"""Voxels along each axis at which it is looked."""


class ChannelOntoGrid(OntoGrid):
    """A channel interpolated onto another's grid; beyond its edge the nearest value is repeated.

    Args:
        note: what was done, for the user.
    """

    def __init__(self, source: VolumeSource, geometry: Geometry, note: str) -> None:
        super().__init__(source, geometry, "linear", outside=None)
        notes = [*(source.metadata.get("notes") or ()), note]
        self.metadata: Mapping[str, Any] = {**source.metadata, "notes": notes}


def on_grid_of(source: VolumeSource, other: VolumeSource, tolerance: float) -> VolumeSource:
    """A channel on the grid of another channel of its case: itself if it lies there, else interpolated.

    Args:
        source: the channel; closed with the result.
        other: the channel whose grid it is.
        tolerance: largest offset of voxels that lie on the same grid, as a fraction of a voxel.

    Raises:
        GeometryMismatch: the two cannot be of one patient, or the headers do not say where they lie.
    """
    own, wanted = source.geometry, other.geometry
    if own.agrees(wanted, tolerance):
        return source
    names = (str(source.path), str(other.path))
    files = (source.path, other.path)
    apart = own.offset_voxels(wanted)
    if own.shape_zyx == wanted.shape_zyx and apart is not None and apart < 1:
        raise own.mismatch(wanted, names=names, files=files)  # rather a header that was rounded
    _check_patient(source, other)
    if own.unit != wanted.unit or _says_nothing(own) or _says_nothing(wanted):
        raise own.mismatch(wanted, names=names, files=files)
    covered = share_covered(own, wanted)
    if covered < LEAST_COVERED:
        raise GeometryMismatch(
            f"{source.path} covers {covered:.0%} of the grid of {other.path}: they cannot be channels of one case.",
            hint="Check that both belong to the same patient, and that their headers say where they lie.",
        )
    spacing, target = (" x ".join(f"{s:.4g}" for s in g.spacing_xyz) for g in (own, wanted))
    note = (
        f"{source.path.name} has a grid of its own ({spacing} {own.unit}) and is interpolated onto that of "
        f"{other.path.name} ({target} {wanted.unit})"
    )
    if covered < 1:
        note += f", of which it covers {covered:.1%}; the nearest value is repeated beyond"
    return ChannelOntoGrid(source, wanted, note)


def share_covered(own: Geometry, wanted: Geometry) -> float:
    """The share of a grid's voxels that lie within another grid, from evenly taken ones."""
    axes = [np.linspace(0, n - 1, min(n, _SAMPLES)).round() for n in wanted.shape_zyx]
    z, y, x = (g.ravel() for g in np.meshgrid(*axes, indexing="ij"))
    places = wanted.affine @ np.stack([x, y, z, np.ones_like(x)])
    inside = np.linalg.inv(own.affine) @ places
    size_xyz = np.asarray(own.shape_zyx[::-1])[:, None]
    return float(((inside[:3] >= -0.5) & (inside[:3] <= size_xyz - 0.5)).all(0).mean())


def _check_patient(source: VolumeSource, other: VolumeSource) -> None:
    """Refuse files of different patients, or whose places have nothing to do with each other."""
    for key, what in (("patient_id", "patient"), ("frame_of_reference_uid", "frame of reference")):
        one, two = source.metadata.get(key), other.metadata.get(key)
        if one and two and one != two:
            raise GeometryMismatch(
                f"{source.path} and {other.path} are to be channels of one case, but their {what} differs.",
                hint="Choose two series of one patient that share a frame of reference, or register them first.",
            )


def _says_nothing(geometry: Geometry) -> bool:
    """Whether a grid is what a file without one gets: voxels of 1 from 0 on, along the axes."""
    return bool(np.array_equal(np.abs(geometry.affine), np.eye(4)))
