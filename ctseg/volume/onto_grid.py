"""A scan or label map on the grid of another scan: shifted by whole voxels where they coincide, else resampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from ctseg.errors import GeometryMismatch
from ctseg.specs import VolumeSource, Zyx
from ctseg.volume.formats.source import check_box, check_slices
from ctseg.volume.geometry import Geometry
from ctseg.volume.labels import labels_in
from ctseg.volume.lattice import placement
from ctseg.volume.spool import Spool, unpacked

Interpolation = Literal["nearest", "linear"]
_FEW_VALUES = 64
"""Most different values of a map of whole numbers that counts as a label map."""
_ALIKE = 0.7
"""Fraction of the voxels above 0 with an equal neighbour along x from which such a map counts as a label map."""
_SAMPLE_SLICES = 16


class OntoGrid:
    """Another source, on a given grid; see `ctseg.specs.VolumeSource`.

    Args:
        source: read by region; closed with this source.
        geometry: the grid.
        interpolation: method where voxels do not coincide.
        outside: value outside the source's grid; None for that of the nearest voxel.

    Raises:
        GeometryMismatch: the two do not overlap.
    """

    def __init__(
        self,
        source: VolumeSource,
        geometry: Geometry,
        interpolation: Interpolation,
        outside: float | None = 0.0,
    ) -> None:
        self._source = source
        self._interpolation = interpolation
        self._outside = outside
        self.path = source.path
        self.geometry = geometry
        self.channels = source.channels
        self.dtype = source.dtype
        self.by_region = source.by_region
        self._held: NDArray[Any] | None = None
        """All voxels of a source that cannot be read by region."""
        self.metadata: Mapping[str, Any] = source.metadata
        place = placement(source.geometry, geometry)
        self.moved = place is not None
        """Whether the voxels coincide, so that none is interpolated."""
        affine = np.linalg.inv(source.geometry.affine) @ geometry.affine
        self._turn, self._offset = affine[:3, :3][::-1, ::-1], affine[:3, 3][::-1]
        if self.moved:
            self._turn, self._offset = np.rint(self._turn), np.rint(self._offset)
        if self._reach((0, 0, 0), geometry.shape_zyx) is None:
            raise GeometryMismatch(
                f"{source.path} lies outside the grid that it is to be brought onto.",
                hint="Check that both belong to the same case.",
            )

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        depth, height, width = self.geometry.shape_zyx
        start, stop = check_slices(slices, depth, self.path)
        return self.read_box((start, 0, 0), (stop, height, width))

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        start, stop = check_box(start_zyx, stop_zyx, self.geometry.shape_zyx, self.path)
        shape = (self.channels, *(b - a for a, b in zip(start, stop, strict=True)))
        out = np.full(shape, self._outside or 0, self.dtype)
        for number in range(shape[1]):  # slice by slice, since the coordinates take much memory
            z = start[0] + number
            self._fill(out[:, number], (z, *start[1:]), (z + 1, *stop[1:]))
        return out

    def unpack(self, spool: Spool) -> OntoGrid:
        """The same with the source unpacked to disk, so that it is read by region."""
        inner = unpacked(self._source, spool)
        out = OntoGrid(inner, self.geometry, self._interpolation, self._outside)
        out.metadata = self.metadata
        return out

    def close(self) -> None:
        self._source.close()

    def _part(self, first: Zyx, last: Zyx) -> NDArray[Any]:
        """A box of the source, which is read once if it cannot be read by region."""
        if self.by_region:
            return self._source.read_box(first, last)
        if self._held is None:
            self._held = self._source.read()
        (z, y, x), (z1, y1, x1) = first, last
        return self._held[:, z:z1, y:y1, x:x1]

    def _reach(self, start: Zyx, stop: Zyx) -> tuple[Zyx, Zyx] | None:
        """The box of the source that voxels of the grid are computed from; None if they lie outside."""
        ends = np.array([start, np.asarray(stop) - 1], np.float64)
        corners = np.array([ends[list(bits), range(3)] for bits in np.ndindex(2, 2, 2)])
        places = corners @ self._turn.T + self._offset
        size = np.asarray(self._source.geometry.shape_zyx)
        if self._outside is None:
            places = places.clip(0, size - 1)
        first = np.floor(places.min(0) - 1).clip(0, size)
        last = (np.floor(places.max(0)) + 2).clip(0, size)
        if (places.max(0) < -0.5).any() or (places.min(0) >= size - 0.5).any():
            return None
        a, b = (tuple(int(v) for v in ends) for ends in (first, last))
        return (a[0], a[1], a[2]), (b[0], b[1], b[2])

    def _fill(self, out: NDArray[Any], start: Zyx, stop: Zyx) -> None:
        """Fill one slice [C, Y, X] of the grid."""
        reach = self._reach(start, stop)
        if reach is None:
            return
        first, last = reach
        part = self._part(first, last)
        _, y, x = np.meshgrid(*(np.arange(a, b) for a, b in zip(start, stop, strict=True)), indexing="ij")  # fmt: skip
        grid = np.stack([np.full(y.shape, start[0]), y, x]).reshape(3, -1)
        places = self._turn @ grid + self._offset[:, None]
        size = np.asarray(self._source.geometry.shape_zyx)[:, None]
        if self._outside is None:
            places = places.clip(0, size - 1)
        inside = ((places >= -0.5) & (places < size - 0.5)).all(0)
        inside_zyx = places[:, inside] - np.asarray(first)[:, None]
        out_raveled = out.reshape(len(out), -1)
        if self._interpolation == "nearest" or self.moved:
            z, y, x = (
                np.floor(inside_zyx + 0.5)
                .astype(np.int64)
                .clip(0, np.array(part.shape[1:])[:, None] - 1)
            )
            out_raveled[:, inside] = part[:, z, y, x]
            return
        if part.dtype == np.float16:  # which SciPy does not interpolate
            part = part.astype(np.float32)
        for number, channel in enumerate(part):
            values = scipy.ndimage.map_coordinates(
                channel, inside_zyx, np.float64, order=1, mode="nearest"
            )
            out_raveled[number, inside] = values if self.dtype.kind == "f" else np.rint(values)


def interpolation_for(source: VolumeSource) -> tuple[Interpolation, str]:
    """Nearest for label maps, linear for images, and the reason."""
    if labels_in(source.metadata):
        return "nearest", "a label map by its names"
    depth = source.geometry.shape_zyx[0]
    step = max(1, depth // _SAMPLE_SLICES)
    values: set[float] = set()
    same = counted = 0
    for z in range(step // 2, depth, step):
        plane = source.read((z, z + 1))
        if plane.dtype.kind == "f" and not np.array_equal(plane, np.rint(plane)):
            return "linear", "an image by its fractional values"
        values.update(np.unique(plane).tolist())
        body = plane[..., :-1] != 0
        same += int((body & (plane[..., :-1] == plane[..., 1:])).sum())
        counted += int(body.sum())
    if min(values) >= 0 and (len(values) <= _FEW_VALUES or same >= _ALIKE * counted):
        return "nearest", f"a label map by its {len(values)} values"
    return "linear", f"an image by its {len(values)} values"
