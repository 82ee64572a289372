"""A scan in memory: voxels together with their grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.geometry import IDENTITY, Geometry, Matrix, Xyz


@dataclass(frozen=True)
class Volume:
    """An array and its geometry.

    Attributes:
        array: [Z, Y, X], or [C, Z, Y, X] with channels.
        geometry: its grid; the shape must be that of the array's last three axes.
        metadata: further information from the file.
    """

    array: NDArray[Any]
    geometry: Geometry
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise BadInput(
                f"A volume is [Z, Y, X] or [C, Z, Y, X], not an array of {self.array.ndim} axes."
            )
        if self.array.shape[-3:] != self.geometry.shape_zyx:
            raise BadInput(
                f"The array is {self.array.shape[-3:]} (z, y, x) and its geometry {self.geometry.shape_zyx}."
            )

    @classmethod
    def from_array(
        cls,
        array: NDArray[Any],
        *,
        spacing_xyz: Xyz = (1.0, 1.0, 1.0),
        origin_xyz: Xyz = (0.0, 0.0, 0.0),
        direction: Matrix = IDENTITY,
        unit: str = "mm",
    ) -> Volume:
        """A volume from an array [Z, Y, X] or [C, Z, Y, X] and the parts of its geometry, in mm."""
        if array.ndim not in (3, 4):
            raise BadInput(f"A volume is [Z, Y, X] or [C, Z, Y, X], not {array.ndim} axes.")
        z, y, x = array.shape[-3:]
        return cls(array, Geometry((z, y, x), spacing_xyz, origin_xyz, direction, unit))

    @property
    def czyx(self) -> NDArray[Any]:
        """The array with a channel axis: a view [C, Z, Y, X]."""
        return self.array if self.array.ndim == 4 else self.array[None]

    @property
    def spacing_xyz(self) -> Xyz:
        return self.geometry.spacing_xyz

    @property
    def origin_xyz(self) -> Xyz:
        return self.geometry.origin_xyz

    @property
    def direction(self) -> Matrix:
        return self.geometry.direction

    def _repr_html_(self) -> str:
        """What notebooks show: facts, and slices through the middle."""
        from ctseg.volume.preview.html import volume_html

        return volume_html(self.czyx, self.geometry)
