"""Voxel size in TIFF files, from ImageJ's, OME's and the resolution tags; and how ctseg writes it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element

import tifffile

from ctseg.errors import FileProblem
from ctseg.volume.formats.calibration import SPACING_OPTION, Calibration, unknown_spacing
from ctseg.volume.formats.units import INCH, MM, OME, shown_in, unit_of
from ctseg.volume.geometry import Geometry, Xyz, as_xyz

VERSION = "1.11a"
"""Lowest version of ImageJ with these hyperstack fields."""
_PRINTS = (
    1, 72, 75, 90, 96, 100, 120, 144, 150, 160, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 2400, 4800,
)  # fmt: skip
"""Dots per inch of screens and prints, which programs write if they know no voxel size."""
_SAME = 1e-3
_INCHES = ("inch", "inches", "in")
_INCH = 2
_RESOLUTION_UNITS = {
    _INCH: ("inch", INCH),
    3: ("centimetre", 10.0),
    4: ("millimetre", 1.0),
    5: ("micrometre", 1e-3),
}
"""Names and millimetres by `ResolutionUnit`; the last two are not in TIFF 6.0, but tifffile and others use them."""
_FINE = 0.1
"""Voxel size in mm below which lengths are shown in micrometres if the file's unit does not decide."""
_ASSUMED = "assumed_spacing_xyz"
"""Line of the description, beside those of ImageJ, with the voxel size that was assumed for want of one."""
_NO_UNIT = ("pixel", "pixels", "px", "voxel", "voxels", "none", "null")


def calibration(tif: tifffile.TiffFile, ome: Element | None, path: Path) -> Calibration:
    """The voxel size of a file.

    Args:
        ome: the element `Pixels` of its OME-XML, if it has one.

    Raises:
        FileProblem: the unit of lengths is unknown.
    """
    if ome is not None and (from_file := _from_ome(ome, path)) is not None:
        return from_file
    if tif.is_imagej and (from_file := _from_imagej(tif)) is not None:
        return from_file
    return _from_tags(tif)


def _from_ome(pixels: Element, path: Path) -> Calibration | None:
    """The voxel size in OME-XML; None without one, or for pixels of size 1, as uncalibrated images are exported."""
    texts = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"}
    units = {axis: pixels.get(f"PhysicalSize{axis}Unit", "µm").strip() for axis in "XYZ"}
    if texts["X"] is None or texts["Y"] is None:
        return None
    sizes: dict[str, float] = {}
    for axis, text in texts.items():
        if text is None:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value <= 0:
            raise FileProblem(
                f"{path} gives the voxel size along {axis.lower()} as {text!r}.",
                hint=f"Give it with the option {SPACING_OPTION}",
            )
        if units[axis] not in OME:
            if units[axis] == "pixel" and value == 1.0:
                return None
            raise FileProblem(
                f"{path} gives its voxel size in '{units[axis]}', which is no known length.",
                hint=f"Give it with the option {SPACING_OPTION}",
            )
        sizes[axis] = value * OME[units[axis]]
    return _complete(sizes["X"], sizes["Y"], sizes.get("Z"), shown_in(OME[units["X"]]))


def _from_imagej(tif: tifffile.TiffFile) -> Calibration | None:
    """The voxel size of ImageJ; None if its description has no unit, since ImageJ then uses the resolution tags."""
    metadata = tif.imagej_metadata or {}
    name = str(metadata.get("unit", "")).strip().lower()
    if not name or name in _INCHES:
        return _from_tags(tif, metadata.get("spacing")) if name else None
    if name in _NO_UNIT:
        assumed = _assumed_sizes(metadata.get(_ASSUMED))
        return unknown_spacing("its unit is pixels", spacing_xyz=assumed)
    if name not in MM:
        return unknown_spacing(f"its unit is '{name}'")
    factor, unit = unit_of(name)
    dots = _dots(tif)
    if dots is None:
        return None
    depth = _positive(metadata.get("spacing"))
    return _complete(factor / dots[0], factor / dots[1], depth and depth * factor, unit)


def _assumed_sizes(text: object) -> Xyz:
    """The voxel size that ctseg assumed when it wrote the file; 1 mm in files of other programs."""
    sizes = [size for word in str(text).split() if (size := _positive(word)) is not None]
    return as_xyz(sizes) if len(sizes) == 3 else (1.0, 1.0, 1.0)


def _from_tags(tif: tifffile.TiffFile, depth: object = None) -> Calibration:
    """The voxel size in `XResolution`, `YResolution` and `ResolutionUnit`; a print's dots per inch are ignored.

    Args:
        depth: distance of slices in the same unit, if ImageJ gives one.
    """
    dots, tag = _dots(tif), tif.pages.first.tags.get("ResolutionUnit")
    unit = int(tag.value) if tag is not None else _INCH
    if dots is None or unit not in _RESOLUTION_UNITS:
        return unknown_spacing("the file does not say it")
    name, factor = _RESOLUTION_UNITS[unit]
    if dots == (1.0, 1.0):
        return unknown_spacing(f"1 dot per {name} is what programs write that do not know it")
    if any(_is_print(value * INCH / factor) for value in dots):
        return unknown_spacing(
            f"{dots[0] * INCH / factor:.4g} dots per inch are the resolution of a screen or print"
        )
    size = factor / dots[0]
    slices = _positive(depth)
    return _complete(
        size, factor / dots[1], slices and slices * factor, "um" if size < _FINE else "mm"
    )


def _is_print(dots_per_inch: float) -> bool:
    return any(abs(dots_per_inch / usual - 1) < _SAME for usual in _PRINTS)


def _dots(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    """Pixels per unit along x and y; None if a tag is missing or invalid."""
    pixels_per_unit: list[float] = []
    for name in ("XResolution", "YResolution"):
        tag = tif.pages.first.tags.get(name)
        try:
            pixels, length = tag.value  # type: ignore[union-attr]
            value = float(pixels) / float(length)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None
        if not math.isfinite(value) or value <= 0:
            return None
        pixels_per_unit.append(value)
    return pixels_per_unit[0], pixels_per_unit[1]


def _positive(value: object) -> float | None:
    try:
        number = abs(float(str(value)))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _complete(x: float, y: float, z: float | None, unit: str) -> Calibration:
    """A calibration; slices without a given distance are as far apart as pixels."""
    if z is not None:
        return Calibration((x, y, z), unit)
    note = (
        "the distance of slices is unknown: they count as far apart as pixels along x. "
        f"Give it with the option {SPACING_OPTION}"
    )
    return Calibration((x, y, x), unit, True, (note,))


def description(geometry: Geometry, channels: int | None, *, is_assumed: bool) -> str:
    """The ImageDescription with which ImageJ and Fiji open the file as one stack.

    Args:
        is_assumed: whether the voxel size is an assumption; the file then has the unit `pixel`.
    """
    depth = geometry.shape_zyx[0]
    factor = 1000.0 if geometry.unit == "um" else 1.0
    unit = "pixel" if is_assumed else "um" if geometry.unit == "um" else "mm"
    lines = [
        f"ImageJ={VERSION}",
        f"images={depth * (channels or 1)}",
        *([f"channels={channels}"] if channels is not None else []),
        f"slices={depth}",
        *(["hyperstack=true", "mode=grayscale"] if channels is not None else []),
        f"unit={unit}",
        f"spacing={geometry.spacing_xyz[2] * factor!r}",
        *([f"{_ASSUMED}={' '.join(map(repr, geometry.spacing_xyz))}"] if is_assumed else []),
        "loop=false",
    ]
    return "\n".join(lines) + "\n"


def resolution(geometry: Geometry) -> tuple[float, float]:
    """Pixels per unit along x and y, for the resolution tags."""
    factor = 1000.0 if geometry.unit == "um" else 1.0
    x, y, _ = geometry.spacing_xyz
    return 1.0 / (x * factor), 1.0 / (y * factor)
