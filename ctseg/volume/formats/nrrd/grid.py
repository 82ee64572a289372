"""Grid and voxel type from an NRRD header, interpreted as in ITK."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.affine import Affine
from ctseg.volume.formats.header_numbers import check_voxels, floats, integer, integers
from ctseg.volume.formats.nrrd.header import UNIT_KEY, NrrdHeader

_DTYPES = {
    alias: dtype
    for dtype, aliases in {
        "int8": "signed char|int8|int8_t",
        "uint8": "uchar|unsigned char|uint8|uint8_t",
        "int16": "short|short int|signed short|signed short int|int16|int16_t",
        "uint16": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
        "int32": "int|signed int|int32|int32_t",
        "uint32": "uint|unsigned int|uint32|uint32_t",
        "int64": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
        "uint64": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
        "float32": "float|float32",
        "float64": "double|float64",
    }.items()
    for alias in aliases.split("|")
}
_COLOURS = ("rgb-color", "rgba-color", "hsv-color", "xyz-color", "complex")
_DOMAIN = ("domain", "space", "time", "none", "???", "")
_SPACES = {
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "scanner-xyz": (1.0, 1.0, 1.0), "3d-right-handed": (1.0, 1.0, 1.0), "3d-left-handed": (1.0, 1.0, 1.0),
}  # fmt: skip
"""Named spaces, with the signs that turn their positions into LPS."""
_TIMED = {"rast": "ras", "last": "las", "lpst": "lps"}


@dataclass(frozen=True)
class NrrdGrid:
    """Grid and voxel type from a header.

    Attributes:
        channels: numbers per voxel; 0 without a channel axis.
        channel_axis: its index among the four stored axes, the fastest one first; 0 without one.
        unit: unit of spacing and origin.
        notes: assumptions and disagreements in the header.
    """

    affine: Affine
    dtype: np.dtype[np.generic]
    channels: int
    channel_axis: int
    unit: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Axis:
    size: int
    kind: str
    direction: tuple[float, ...] | None
    spatial: bool


def grid_of(path: Path, header: NrrdHeader) -> NrrdGrid:
    """Size, type and position of the voxels. A fourth axis of one voxel is dropped, wherever it is.

    Raises:
        FileProblem: there are not three space axes, or voxels are colours or not real numbers.
        ValueError: invalid numbers.
    """
    fields = header.fields
    name = fields.get("type", "").lower()
    if name not in _DTYPES:
        raise FileProblem(
            f"{path} holds voxels of the type '{name[:40]}'; a scan holds one real number per voxel.",
            hint="ctseg reads whole numbers of 8 to 64 bits, float and double.",
        )
    signs = _signs(fields)
    axes = _axes(path, fields, len(signs))
    check_voxels([axis.size for axis in axes], path)
    spatial, others = _three(path, axes)
    matrix, rows, notes = _matrix(fields, axes, spatial, signs)
    origin = _origin(fields, signs, rows) if signs else _mins(fields, axes, spatial, matrix)
    x, y, z = (axes[i].size for i in spatial)
    channels = axes[others[0]].size if others else 0
    at = sum(i < others[0] for i in spatial) if others else 0
    affine = Affine((z, y, x), matrix, origin)
    dtype = np.dtype(_DTYPES[name])
    return NrrdGrid(affine, dtype, channels, at, _unit(header), tuple(notes))


def _signs(fields: Mapping[str, str]) -> tuple[float, ...]:
    """The sign of each space axis; empty if the header names no space."""
    space = fields.get("space", "").lower()
    if space:
        short = _TIMED.get(space, space.removesuffix("-time"))
        if short not in _SPACES:
            raise ValueError(f"its space is '{space[:40]}', which NRRD does not define")
        return (*_SPACES[short], *([1.0] if short != space else []))
    if "spacedimension" in fields:
        return (1.0,) * integer(fields["spacedimension"], "space dimension", 1, 8)
    if "spaceorigin" in fields:
        raise ValueError("it has a space origin but names no space")
    return ()


def _axes(path: Path, fields: Mapping[str, str], dims_of_space: int) -> list[_Axis]:
    count = integer(fields.get("dimension", ""), "dimension", 1, 16)
    sizes = integers(fields.get("sizes", ""), "sizes", count, 1)
    kinds = fields.get("kinds", "").lower().split()
    if kinds and len(kinds) != count:
        raise ValueError(f"its kinds are {len(kinds)} for {count} axes")
    colours = [kind for kind in kinds if kind in _COLOURS]
    if colours:
        raise FileProblem(
            f"{path} holds {colours[0]} voxels; a scan holds one real number per voxel.",
            hint="Convert it to a grey-scale volume first.",
        )
    directions = _directions(fields, count, dims_of_space)
    axes = []
    for index, size in enumerate(sizes):
        kind = kinds[index] if kinds else ""
        direction = directions[index] if directions else None
        spatial = kind in _DOMAIN if directions is None or kind == "time" else direction is not None
        axes.append(_Axis(size, kind, direction, spatial))
    return axes


def _directions(
    fields: Mapping[str, str], count: int, dims_of_space: int
) -> list[tuple[float, ...] | None] | None:
    text = fields.get("spacedirections")
    if text is None:
        return None
    if not dims_of_space:
        raise ValueError("it has space directions but names no space")
    words = re.findall(r"none|\([^()]*\)|\S+", text)
    if len(words) != count:
        raise ValueError(f"its space directions are {len(words)} for {count} axes")
    out: list[tuple[float, ...] | None] = []
    for word in words:
        if word == "none":
            out.append(None)
            continue
        vector = _vector(word, "space directions", dims_of_space)
        if any(map(math.isnan, vector)) and not all(map(math.isnan, vector)):
            raise ValueError(f"its space direction {word[:60]} is no vector")
        out.append(None if math.isnan(vector[0]) else vector)
    return out


def _vector(text: str, what: str, count: int) -> tuple[float, ...]:
    match = re.fullmatch(r"\(([^()]*)\)", text.strip())
    if match is None:
        raise ValueError(f"its {what} hold '{text[:40]}', which is no vector")
    return tuple(floats(match[1], what, count))


def _three(path: Path, axes: list[_Axis]) -> tuple[list[int], list[int]]:
    """Indices of the three space axes, and of the channel axis if there is one."""
    spatial = [i for i, axis in enumerate(axes) if axis.spatial]
    others = [i for i, axis in enumerate(axes) if not axis.spatial and axis.size > 1]
    for index in reversed(list(spatial)):
        if len(spatial) > 3 and axes[index].size == 1:
            spatial.remove(index)
    if len(spatial) == 3 and len(others) < 2:
        return spatial, others
    sizes = tuple(axis.size for axis in axes)
    if len(axes) < 3:
        raise FileProblem(
            f"{path} has {len(axes)} axes; a volume has three.",
            hint="Stack the slices into one file.",
        )
    raise FileProblem(
        f"{path} has {len(axes)} axes of {sizes} voxels, {len(spatial)} of them axes of space; a volume has three.",
        hint="Store one file per time step, or the channels as a vector image.",
    )


def _matrix(
    fields: Mapping[str, str], axes: list[_Axis], spatial: list[int], signs: tuple[float, ...]
) -> tuple[NDArray[np.float64], list[int], list[str]]:
    """The matrix with a column per space axis, its rows of space, and notes."""
    vectors = [axes[i].direction for i in spatial]
    if all(vector is not None for vector in vectors):
        rows = list(range(len(signs)))
        for index, axis in enumerate(axes):  # a dropped axis takes along the row that it runs along
            if axis.direction is not None and index not in spatial and len(rows) > 3:
                along = np.abs(np.array(axis.direction)[rows])
                del rows[int(along.argmax())]
        if len(rows) != 3:
            raise ValueError(f"its space has {len(signs)} dimensions where a volume has three")
        matrix = np.array(vectors, np.float64).T * np.array(signs)[:, None]
        return matrix[rows], rows, _spacing_notes(fields, axes, spatial, matrix[rows])
    if any(axis.direction is not None for axis in axes):
        raise ValueError("its space directions are missing for an axis of space")
    words = fields.get("spacings")
    spacings = [math.nan] * 3
    if words is not None:
        every = floats(words, "spacings", len(axes))
        spacings = [every[i] for i in spatial]
    notes = []
    if any(map(math.isnan, spacings)):
        notes.append("the header has no spacing for all axes; 1 mm is assumed where it is missing")
    return (
        np.diag([1.0 if math.isnan(v) else v for v in spacings]),
        [0, 1, 2],
        notes,
    )


def _spacing_notes(
    fields: Mapping[str, str],
    axes: list[_Axis],
    spatial: list[int],
    matrix: NDArray[np.float64],
) -> list[str]:
    """A note if `spacings` disagree with the directions, which apply."""
    if "spacings" not in fields:
        return []
    every = np.array(floats(fields["spacings"], "spacings", len(axes)))[spatial]
    sizes = np.linalg.norm(matrix, axis=0)
    if not (np.abs(np.abs(every) - sizes) > 1e-3 * sizes).any():
        return []
    joined = [" x ".join(f"{v:.4g}" for v in numbers) for numbers in (every, sizes)]
    return [
        f"its spacings ({joined[0]}) and space directions ({joined[1]}) disagree; the directions count"
    ]


def _origin(
    fields: Mapping[str, str], signs: tuple[float, ...], rows: list[int]
) -> NDArray[np.float64]:
    text = fields.get("spaceorigin")
    if text is None:
        return np.zeros(3)
    vector = np.array(_vector(text, "space origin", len(signs))) * np.array(signs)
    return (
        vector[[row for row in rows if row < len(vector)]]
        if np.isfinite(vector).all()
        else np.zeros(3)
    )


def _mins(
    fields: Mapping[str, str],
    axes: list[_Axis],
    spatial: list[int],
    matrix: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The first voxel of a header without a space: `axis mins`, which are cell edges unless `centers` are nodes."""
    text = fields.get("axismins")
    if text is None:
        return np.zeros(3)
    lows = floats(text, "axis mins", len(axes))
    centres = (fields.get("centers") or fields.get("centerings") or "").lower().split()
    out = []
    for place, index in enumerate(spatial):
        node = len(centres) == len(axes) and centres[index] == "node"
        half = 0.0 if node else matrix[place, place] / 2
        out.append(0.0 if math.isnan(lows[index]) else lows[index] + half)
    return np.array(out)


def _unit(header: NrrdHeader) -> str:
    """The unit of spacing and origin, or the unit to show: that of `space units`, if all axes have the same."""
    units = {unit.strip('" ') for unit in header.fields.get("spaceunits", "").split()}
    return units.pop() if len(units) == 1 else header.notes.get(UNIT_KEY, "mm")
