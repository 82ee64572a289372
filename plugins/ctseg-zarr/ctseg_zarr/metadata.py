"""OME-NGFF metadata of an image: axes, levels, their scale and position (versions 0.1 to 0.5).

https://ngff.openmicroscopy.org/specifications/index.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.geometry import Geometry

_FOOT = 304.8
MM = {
    "yottameter": 1e27, "zettameter": 1e24, "exameter": 1e21, "petameter": 1e18, "terameter": 1e15,
    "gigameter": 1e12, "megameter": 1e9, "kilometer": 1e6, "hectometer": 1e5, "dekameter": 1e4,
    "meter": 1e3, "decimeter": 100.0, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3,
    "nanometer": 1e-6, "angstrom": 1e-7, "picometer": 1e-9, "femtometer": 1e-12, "attometer": 1e-15,
    "zeptometer": 1e-18, "yoctometer": 1e-21, "inch": 25.4, "foot": _FOOT, "yard": 3 * _FOOT, "mile": 5280 * _FOOT,
    "m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3,
    "μm": 1e-3, "micron": 1e-3, "nm": 1e-6,
}  # fmt: skip
"""Millimetres per unit; the long names are those of the specification (UDUNITS-2), the short ones occur, too."""
OWN = "ctseg"
"""Attribute in which ctseg stores what OME-NGFF has no field for: direction and origin in the patient."""
_OLD_AXES = ("t", "c", "z", "y", "x")
"""The fixed axes of versions 0.1 and 0.2."""


@dataclass(frozen=True)
class Level:
    """One level of a multiscale image.

    Attributes:
        path: path of its array within the image's group.
        scale: scale of each axis, in the axis's unit.
        translation: position of the first voxel's centre.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class Image:
    """A multiscale image.

    Attributes:
        axes: one letter each: t, c, z, y, x.
        units: unit of each axis, empty without one.
        levels: the finest first.
        is_plain: whether it is an array without metadata.
    """

    axes: str
    units: tuple[str, ...]
    levels: tuple[Level, ...]
    is_plain: bool = False


def image_of(attributes: Mapping[str, Any], path: Path) -> Image:
    """Read `multiscales` of a group; of several entries the first one is used.

    Raises:
        FileProblem: invalid metadata.
    """
    try:
        multiscale = attributes["multiscales"][0]
        axes = multiscale.get("axes") or _OLD_AXES
        named = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in axes]
        letters = "".join(_letter(axis) for axis in named)
        if len(set(letters)) < len(letters) or not set("yx") <= set(letters):
            raise ValueError(f"its axes are '{letters}'")
        units = tuple(str(axis.get("unit") or "") for axis in named)
        after = _transform(multiscale.get("coordinateTransformations") or [], len(named))
        levels = []
        for dataset in multiscale["datasets"]:
            transform = _transform(dataset.get("coordinateTransformations") or [], len(named))
            # the level's own transformation comes first, then that of the whole image
            scale = transform[0] * after[0]
            translation = transform[1] * after[0] + after[1]
            levels.append(Level(str(dataset["path"]), tuple(scale), tuple(translation)))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileProblem(
            f"{path}: the attribute 'multiscales' does not follow OME-NGFF ({type(error).__name__}: {error})."
        ) from error
    if not levels:
        raise FileProblem(f"{path}: the attribute 'multiscales' names no levels.")
    return Image(letters, units, tuple(levels))


def _letter(axis: Mapping[str, Any]) -> str:
    name = str(axis["name"]).lower()
    kind = axis.get("type")
    if kind == "channel":
        return "c"
    if kind == "time":
        return "t"
    if name not in ("t", "c", "z", "y", "x"):
        raise ValueError(f"an axis is named '{name}', not t, c, z, y or x")
    return name


def _transform(
    steps: Sequence[Mapping[str, Any]], axes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and translation of a list of transformations, applied in order."""
    scale, translation = np.ones(axes), np.zeros(axes)
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in step:
            raise ValueError(f"a transformation '{kind}' whose numbers are in another file")
        values = np.asarray(step[kind], np.float64)
        if values.shape != (axes,) or not np.isfinite(values).all():
            raise ValueError(f"a {kind} of {values.tolist()} for {axes} axes")
        if kind == "scale":
            scale, translation = scale * values, translation * values
        else:
            translation = translation + values
    return scale, translation


def geometry_of(
    image: Image,
    level: Level,
    shape_zyx: Sequence[int],
    own: Mapping[str, Any] | None,
    unit: str | None,
    path: Path,
) -> Geometry:
    """The grid of a level. Numbers without a unit are millimetres.

    Args:
        own: ctseg's attribute (direction and origin of the finest level).
        unit: unit of numbers without one.
    """
    units = {
        axis: name for axis, name in zip(image.axes, image.units, strict=True) if axis in "zyx"
    }
    factors = {axis: factor_of(name or unit or "millimeter", path) for axis, name in units.items()}

    def along(values: Sequence[float], missing: float) -> list[float]:
        by_axis = dict(zip(image.axes, values, strict=True))
        return [by_axis[a] * factors[a] if a in factors else missing for a in "xyz"]

    spacing = along(level.scale, 1.0)
    if "z" not in factors:
        spacing[2] = spacing[0]
    origin = along(level.translation, 0.0)
    direction = np.eye(3)
    if own and "direction" in own:
        direction = np.asarray(own["direction"], np.float64).reshape(3, 3)
        offset = np.subtract(origin, along(image.levels[0].translation, 0.0))
        origin = (np.asarray(own["origin_xyz"], np.float64) + direction @ offset).tolist()
    shown = min(factors.values(), default=1.0)
    return grids.make_geometry(
        path, shape_zyx, spacing, origin, direction, "um" if shown < 1.0 else "mm"
    )


def factor_of(unit: str, path: Path) -> float:
    """Millimetres in a unit.

    Raises:
        FileProblem: the unit is unknown.
    """
    factor = MM.get(unit, MM.get(unit.lower()) if len(unit) > 2 else None)
    if factor is None:
        raise FileProblem(
            f"{path}: lengths are in '{unit}', which is not a known unit.",
            hint=f"Known are: {', '.join(MM)}",
        )
    return factor
