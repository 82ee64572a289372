"""Reads OME-Zarr images and plain Zarr arrays by boxes, at a chosen level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats.calibration import unknown_spacing
from ctseg.volume.formats.outside import is_allowed
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg_zarr.chunks import check_chunks, check_sizes, needs_sizes
from ctseg_zarr.metadata import OWN, Image, Level, factor_of, geometry_of, image_of
from ctseg_zarr.stores import attributes, choose, open_store, zarr_errors

_SAME = 1e-3
"""Tolerance by which the spacing of a level may exceed the requested one."""


def open_ome_zarr(
    path: Path,
    *,
    dataset: str | None = None,
    level: int | str | None = None,
    spacing: float | str | Sequence[float] | None = None,
    voxel: float | str | Sequence[float] | None = None,
    unit: str | None = None,
    axes: str | None = None,
    time: int | str | None = None,
    outside: str = "no",
) -> Source:
    """Open a multiscale image, or a plain array. Only the chunks of the requested boxes are decoded.

    Args:
        path: the folder of the store or of a group in it, or a zipped store.
        dataset: name of the image or array within the store, e.g. `labels/liver`.
        level: level of the pyramid, 0 is the finest; negative ones count from the coarsest.
        spacing: takes the coarsest level that is no coarser than this, mm: one number, or x, y, z.
        voxel: voxel size of a plain array, one number or x, y, z, in `unit`.
        unit: unit of `voxel`, and of images whose axes have none; millimetres by default.
        axes: axes of a plain array, one letter each, e.g. `zcyx`; `zyx` or `czyx` by default.
        time: point in time to read, if there are several.
        outside: `yes` also follows links that lead outside the folder of the store.

    Raises:
        FileProblem: not a Zarr store, damaged, invalid metadata, or several images to choose from.
        BadInput: contradictory options, or a level or time that does not exist.
    """
    allowed = is_allowed(outside)
    root, close = open_store(path)
    about: Mapping[str, Any] = {}
    own: Mapping[str, Any] | None = None
    try:
        with zarr_errors(path):
            node = choose(root, path, dataset)
            if isinstance(node, zarr.Array):
                image = _plain(node, axes, voxel, unit, path)
                chosen, array = image.levels[0], node
                _refuse(path, level=level, spacing=spacing)
            else:
                _refuse(path, voxel=voxel, axes=axes)
                about = attributes(node)
                image, own = image_of(about, path), about.get(OWN)
                number = _level(image, level, spacing, unit, path)
                chosen = image.levels[number]
                about = {"level": number, "levels": len(image.levels), **_names(about)}
                array = _array(node, chosen, path)
        with zarr_errors(path):
            if array.ndim != len(image.axes):
                raise FileProblem(
                    f"{path}: the array {array.path or '/'} has {array.ndim} axes where {image.axes} are announced."
                )
            if array.dtype.kind not in "biuf":
                raise FileProblem(f"{path} holds {array.dtype}, which are not real numbers.")
            sizes = dict(zip(image.axes, array.shape, strict=True))
            shape: Zyx = (sizes.get("z", 1), sizes["y"], sizes["x"])
            geometry = geometry_of(image, chosen, shape, own, unit, path)
            at = _time(time, sizes.get("t", 1), path)
            notes = check_chunks(array, path, allowed=allowed)
            sized = needs_sizes(array, path)
            about = {**about, **_spacing_notes(image, voxel, unit, notes)}
    except BaseException:
        close()
        raise

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        ranges: dict[str, Any] = dict(zip("zyx", map(slice, start, stop), strict=True))
        index = tuple({"t": at, "c": slice(None), **ranges}[axis] for axis in image.axes)
        with zarr_errors(path):
            if sized:
                check_sizes(array, path, index)
            part = np.asarray(array[index])
        axes_left = image.axes.replace("t", "")
        for axis in "cz":
            if axis not in axes_left:
                part, axes_left = part[None], axis + axes_left
        return part.transpose([axes_left.index(axis) for axis in "czyx"])

    def load(start: int, stop: int) -> NDArray[Any]:
        return load_box((start, 0, 0), (stop, *shape[1:]))

    metadata = {"dataset": f"/{array.path}", "axes": image.axes, **about}
    header = ScanHeader(geometry, array.dtype, sizes.get("c", 1), metadata=metadata)
    return Source(path, header, load, load_box=load_box, close=close)


def _spacing_notes(image: Image, voxel: Any, unit: str | None, notes: list[str]) -> dict[str, Any]:
    """Metadata of a source about its voxel size, together with other notes."""
    if image.is_plain and voxel is None:
        known = unknown_spacing(
            "a plain array does not say it", "voxel, e.g. --option voxel=0.7,0.7,2.5"
        )
        return {**known.metadata(), "notes": [*notes, *known.notes]}
    units = [name for axis, name in zip(image.axes, image.units, strict=True) if axis in "zyx"]
    if not image.is_plain and not all(units) and unit is None:
        notes = [*notes, "Its axes name no unit: lengths count as mm. Give it with the option unit"]
    return {"notes": notes} if notes else {}


def _array(group: zarr.Group, level: Level, path: Path) -> zarr.Array[Any]:
    try:
        array = group[level.path]
    except KeyError:
        array = None
    if not isinstance(array, zarr.Array):
        raise FileProblem(
            f"{path}: the level {level.path} that its metadata name is missing.",
            hint="The copy may be incomplete: copy or download the folder again.",
        )
    return array


def _level(
    image: Image, level: int | str | None, spacing: Any, unit: str | None, path: Path
) -> int:
    """The number of the requested level."""
    count = len(image.levels)
    if level is not None:
        if spacing is not None:
            raise BadInput(f"Both level and spacing choose a level of {path}.", hint="Give one.")
        try:
            number = int(level)
        except ValueError:
            number = count
        if not -count <= number < count:
            raise BadInput(
                f"{path} has no level {level}.",
                hint=f"It has the levels 0 to {count - 1}; 0 is the finest.",
            )
        return number % count
    if spacing is None:
        return 0
    limits = _three(spacing, "spacing", path)
    best = 0
    for number in range(count):
        grid = geometry_of(image, image.levels[number], (1, 1, 1), None, unit, path)
        if (np.asarray(grid.spacing_xyz) <= np.asarray(limits) * (1 + _SAME)).all():
            best = number
    return best


def _plain(
    array: zarr.Array[Any], axes: str | None, voxel: Any, unit: str | None, path: Path
) -> Image:
    """The description of an array without metadata other than dimension names, from the options."""
    names: Any = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")  # xarray's names in version 2
    letters = axes or "".join(str(name) for name in names or ())
    if not axes and (sorted(set(letters)) != sorted(letters) or not set("yx") <= set(letters)):
        letters = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}.get(array.ndim, "")
    letters = letters.lower()
    fits = len(letters) == array.ndim == len(set(letters))
    if not fits or not set("yx") <= set(letters) <= set("tczyx"):
        raise BadInput(
            f"{path}: the axes '{axes or letters}' do not fit an array of the shape {array.shape}.",
            hint="Give one letter of t, c, z, y, x for each axis, e.g. axes=zyx",
        )
    x, y, z = _three(voxel, "voxel", path) if voxel is not None else (1.0, 1.0, 1.0)
    by_axis = {"x": x, "y": y, "z": z}
    units = tuple((unit or "millimeter") if a in by_axis else "" for a in letters)
    if unit is not None:
        factor_of(unit, path)
    scale = tuple(by_axis.get(a, 1.0) for a in letters)
    return Image(letters, units, (Level("", scale, (0.0,) * array.ndim),), is_plain=True)


def _three(value: Any, option: str, path: Path) -> tuple[float, float, float]:
    """The value of an option of one or three numbers."""
    try:
        parts = value.split(",") if isinstance(value, str) else np.atleast_1d(value).tolist()
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not np.isfinite(numbers).all() or min(numbers) <= 0:
        raise BadInput(
            f"The option {option} is {value!r} (for {path}).",
            hint=f"Use one positive number, or x, y, z: {option}=0.8,0.8,2.5",
        )
    return numbers[0], numbers[1], numbers[2]


def _time(time: int | str | None, count: int, path: Path) -> int:
    if time is None and count > 1:
        raise BadInput(
            f"{path} holds {count} points in time; a scan is one.",
            hint=f"Choose with the option time, 0 to {count - 1}.",
        )
    try:
        number = int(time or 0)
    except ValueError:
        number = count
    if not 0 <= number < count:
        raise BadInput(f"{path} has no point in time {time}.", hint=f"It has 0 to {count - 1}.")
    return number


def _refuse(path: Path, **options: Any) -> None:
    """Refuse options that do not apply to the object at the path."""
    for name, value in options.items():
        if value is not None:
            what = "a plain array" if name in ("level", "spacing") else "an image with metadata"
            raise BadInput(
                f"{path} is {what}, to which the option {name} does not apply.",
                hint="Omit it.",
            )


def _names(about: Any) -> dict[str, Any]:
    """Names of channels and label values, if the metadata contain them."""
    out: dict[str, Any] = {}
    channels = (about.get("omero") or {}).get("channels") or []
    if channels:
        out["channels"] = [str(channel.get("label", "")) for channel in channels]
    properties = (about.get("image-label") or {}).get("properties") or []
    named = {
        str(p["name"]): int(p["label-value"])
        for p in properties
        if {"name", "label-value"} <= set(p)
    }
    if named:
        out["labels"] = named
        shades = {
            shade["label-value"]: tuple(int(v) for v in shade["rgba"][:3])
            for shade in (about.get("image-label") or {}).get("colors") or []
            if {"label-value", "rgba"} <= set(shade)
        }
        out["colours"] = {name: shades[value] for name, value in named.items() if value in shades}
    return out
