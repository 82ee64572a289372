"""Names of units of length as files write them, in millimetres."""

from __future__ import annotations

from dataclasses import replace

from ctseg.volume.geometry import Geometry, as_xyz

MM = {
    "m": 1e3, "meter": 1e3, "metre": 1e3, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3,
    "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6,
}  # fmt: skip
"""Inches are left out on purpose: they are the resolution of a print, not the size of a voxel."""


def unit_of(name: str) -> tuple[float, str]:
    """Millimetres in a unit (1 for an unknown one), and whether to show lengths in `mm` or `um`."""
    factor = MM.get(name.strip().lower(), 1.0)
    return factor, "um" if factor < 1.0 else "mm"


def in_unit(geometry: Geometry, name: str) -> Geometry:
    """A grid whose numbers were read as millimetres and are of another unit."""
    factor, shown = unit_of(name)
    if factor == 1.0:
        return replace(geometry, unit=shown)
    return replace(
        geometry,
        spacing_xyz=as_xyz(v * factor for v in geometry.spacing_xyz),
        origin_xyz=as_xyz(v * factor for v in geometry.origin_xyz),
        unit=shown,
    )
