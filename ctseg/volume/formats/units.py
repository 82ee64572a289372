"""Names of units of length in files, and their size in millimetres."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry, Xyz, as_xyz

MM = {
    "m": 1e3, "meter": 1e3, "metre": 1e3, "dm": 100.0, "decimeter": 100.0, "decimetre": 100.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3,
    "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6, "angstrom": 1e-7, "å": 1e-7,
    "pm": 1e-9, "picometer": 1e-9, "picometre": 1e-9,
}  # fmt: skip
"""Inches are omitted on purpose: they give the resolution of a print, not the size of a voxel."""
INCH = 25.4
_METRE = 1e3
_LIGHT_YEAR = 9_460_730_472_580_800 * _METRE
_ASTRONOMICAL_UNIT = 149_597_870_700 * _METRE
OME = {
    "Ym": 1e27, "Zm": 1e24, "Em": 1e21, "Pm": 1e18, "Tm": 1e15, "Gm": 1e12, "Mm": 1e9, "km": 1e6, "hm": 1e5,
    "dam": 1e4, "m": 1e3, "dm": 100.0, "cm": 10.0, "mm": 1.0, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "nm": 1e-6,
    "pm": 1e-9, "fm": 1e-12, "am": 1e-15, "zm": 1e-18, "ym": 1e-21, "\u00c5": 1e-7, "\u212b": 1e-7,
    "thou": INCH / 1000, "li": INCH / 12, "in": INCH, "ft": 12 * INCH, "yd": 36 * INCH, "mi": 63360 * INCH,
    "ua": _ASTRONOMICAL_UNIT, "ly": _LIGHT_YEAR, "pc": _ASTRONOMICAL_UNIT * 648_000 / math.pi, "pt": INCH / 72,
}  # fmt: skip
"""Millimetres per unit of length in OME-XML, whose names are case-sensitive: `Mm` differs from `mm`.

`pixel` and `reference frame`, which the schema also allows, are not lengths.
https://www.openmicroscopy.org/Schemas/Documentation/Generated/OME-2016-06/ome_xsd.html#UnitsLength
"""


def unit_of(name: str) -> tuple[float, str]:
    """Millimetres per unit (1 for an unknown one), and whether to show lengths in `mm` or `um`."""
    factor = MM.get(name.strip().lower(), 1.0)
    return factor, shown_in(factor)


def shown_in(factor: float) -> str:
    """The unit in which to show lengths that a file gives in units of `factor` millimetres."""
    return "um" if factor < 1.0 else "mm"


def in_unit(geometry: Geometry, name: str) -> Geometry:
    """Convert a grid whose numbers were read as millimetres but have another unit."""
    factor, shown = unit_of(name)
    if factor == 1.0:
        return replace(geometry, unit=shown)
    return replace(
        geometry,
        spacing_xyz=as_xyz(v * factor for v in geometry.spacing_xyz),
        origin_xyz=as_xyz(v * factor for v in geometry.origin_xyz),
        unit=shown,
    )


def read_spacing(text: str) -> tuple[Xyz, str]:
    """Parse a spacing, one number or x, y, z, with a unit or in mm; returns it in mm, and the unit to show.

    Raises:
        BadInput: the text is not a spacing.

    Example:
        >>> read_spacing("5 um")
        ((0.005, 0.005, 0.005), 'um')
    """
    match = re.fullmatch(r"([\d.eE+\s,x-]+?)\s*([a-zA-Zµμ]*)", text.strip())
    words = re.split(r"[\s,x]+", match[1].strip(" ,")) if match else []
    name = match[2] if match else ""
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or min(values) <= 0 or (name and name.lower() not in MM):
        raise BadInput(
            f"'{text}' is not a spacing.",
            hint='Write x, y and z, or one number for all, in mm or with a unit: "0.7 0.7 2.5", "5um"',
        )
    factor, shown = unit_of(name or "mm")
    x, y, z = values * 3 if len(values) == 1 else values
    return (x * factor, y * factor, z * factor), shown
