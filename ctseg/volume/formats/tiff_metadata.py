"""Voxel size in TIFF files: what ImageJ and OME write, and how ctseg writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tifffile

from ctseg.volume.formats.units import MM, unit_of
from ctseg.volume.geometry import Geometry, Xyz

VERSION = "1.11a"
"""The lowest version of ImageJ whose hyperstack fields these are."""


def voxel_size(tif: tifffile.TiffFile) -> tuple[Xyz, str]:
    """Spacing in mm and the unit to show it in; 1 mm where the file says nothing usable."""
    if tif.is_ome and tif.ome_metadata and (found := _from_ome(tif.ome_metadata)):
        return found
    if tif.is_imagej and (found := _from_imagej(tif)):
        return found
    return (1.0, 1.0, 1.0), "mm"


def _from_ome(xml: str) -> tuple[Xyz, str] | None:
    image = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    image = image[0] if isinstance(image, list) else image
    pixels = image.get("Pixels", {})
    sizes: list[float] = []
    unit = "mm"
    for axis in "XYZ":
        value = pixels.get(f"PhysicalSize{axis}")
        if value is None:
            if axis == "Z" and len(sizes) == 2:
                value, factor = (
                    sizes[0],
                    1.0,
                )  # a stack without a slice distance is taken as isotropic
            else:
                return None
        else:
            factor, unit = unit_of(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")))
        sizes.append(float(value) * factor)
    return _checked(sizes, unit)


def _from_imagej(tif: tifffile.TiffFile) -> tuple[Xyz, str] | None:
    metadata: Mapping[str, Any] = tif.imagej_metadata or {}
    name = str(metadata.get("unit", ""))
    if name.lower() not in MM:
        return None
    factor, unit = unit_of(name)
    tags = tif.pages.first.tags
    sizes = []
    for axis in ("XResolution", "YResolution"):
        if axis not in tags:
            return None
        pixels, length = tags[axis].value
        if not pixels or not length:
            return None
        sizes.append(length / pixels * factor)
    depth = metadata.get("spacing")
    sizes.append(abs(float(depth)) * factor if depth else sizes[0])
    return _checked(sizes, unit)


def _checked(sizes: list[float], unit: str) -> tuple[Xyz, str] | None:
    x, y, z = sizes
    return ((x, y, z), unit) if min(sizes) > 0 else None


def description(geometry: Geometry, channels: int | None) -> str:
    """The ImageDescription with which ImageJ and Fiji open the file as one calibrated stack."""
    depth = geometry.shape_zyx[0]
    factor = 1000.0 if geometry.unit == "um" else 1.0
    lines = [
        f"ImageJ={VERSION}",
        f"images={depth * (channels or 1)}",
        *([f"channels={channels}"] if channels is not None else []),
        f"slices={depth}",
        *(["hyperstack=true", "mode=grayscale"] if channels is not None else []),
        f"unit={'um' if geometry.unit == 'um' else 'mm'}",
        f"spacing={geometry.spacing_xyz[2] * factor!r}",
        "loop=false",
    ]
    return "\n".join(lines) + "\n"


def resolution(geometry: Geometry) -> tuple[float, float]:
    """Pixels per unit along x and y, for the resolution tags."""
    factor = 1000.0 if geometry.unit == "um" else 1.0
    x, y, _ = geometry.spacing_xyz
    return 1.0 / (x * factor), 1.0 / (y * factor)
