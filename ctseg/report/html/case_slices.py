"""Remembers one slice of each case that is compared, and paints it with its scan."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import CtsegError
from ctseg.metrics.aligned import AlignedCase
from ctseg.specs import ImageRef, Task
from ctseg.task import PALETTE, colour_of, masks
from ctseg.volume.distinct_values import slabs
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_ref
from ctseg.volume.onto_grid import OntoGrid
from ctseg.volume.preview.paint import Colours, Picture, paint_grey, paint_labels
from ctseg.volume.preview.planes import (
    Slice,
    array_axis,
    canonical,
    canonical_spacing_zyx,
    cut,
    window_of,
)
from ctseg.volume.spool import by_region

PIXELS = 384
"""Longer side of a picture."""
_MOST = 1024
"""Most rows or columns of a slice that are kept."""


@dataclass
class _Kept:
    """A slice of a case.

    Attributes:
        geometry: its grid, one voxel thick.
        images: the scan.
        colours: of labels 1, 2, ...; None if the maps hold values in grey.
        maps: by name, label numbers or grey values, compressed.
        shape: rows and columns of the maps.
        pixel_mm: height and width of their pixels.
    """

    geometry: Geometry
    images: tuple[ImageRef, ...]
    colours: Colours | None
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    maps: dict[str, bytes] = field(default_factory=dict)


class CaseSlices:
    """The axial slice of each case in which prediction and reference differ most.

    Pass `add` as `look` to an evaluation. A few kilobytes a case are kept; `tiles` reads the scan's slice.

    Attributes:
        colours: of each label by name, as pictures show it; empty for instances and for the values of a regression.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self.colours: dict[str, tuple[int, int, int]] = {}

    def add(self, case: AlignedCase) -> None:
        """Choose a slice of a case and keep it."""
        axis = array_axis("axial", case.geometry)
        index = most_different(case, axis)
        start = [0, 0, 0]
        start[axis] = index
        shape = list(case.geometry.shape_zyx)
        shape[axis] = 1
        geometry = case.geometry.sub((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
        reference, prediction = (
            _flat(case.task, array.take([index], array.ndim - 3 + axis), geometry)
            for array in (case.reference, case.predicted)
        )
        values = case.task is not None and case.task.kind == "regression"
        kept = _Kept(
            geometry, case.images, None if values else _colours(case.task),
            _thinned(reference.pixels).shape, _thinned_mm(reference),
        )  # fmt: skip
        window = window_of(reference.pixels[None]) if values else None
        for name, one in (("reference", reference), ("prediction", prediction)):
            kept.maps[name] = _packed(one, window)
        self._kept[case.case_id] = kept
        if case.task is not None and not values:
            self.colours |= {
                label.name: colour_of(case.task, index)
                for index, label in enumerate(case.task.foreground)
            }

    def add_other(self, case: AlignedCase) -> None:
        """Keep the slice that `add` chose of another prediction of the same case, where it has one."""
        kept = self._kept.get(case.case_id)
        if kept is None or kept.colours is None:
            return
        axis = array_axis("axial", case.geometry)
        origin = np.asarray(kept.geometry.origin_xyz) - np.asarray(case.geometry.origin_xyz)
        along = origin @ case.geometry.matrix / np.asarray(case.geometry.spacing_xyz)
        index = round(float(along[2 - axis]))
        if not 0 <= index < case.geometry.shape_zyx[axis]:
            return
        slab = case.predicted.take([index], case.predicted.ndim - 3 + axis)
        other = (
            _flat(case.task, slab, kept.geometry)
            if slab.shape[-3:] == kept.geometry.shape_zyx
            else None
        )
        if other is not None:
            kept.maps["other"] = _packed(other, None)

    def tiles(self, case_id: str) -> dict[str, Picture]:
        """Pictures of a case by name: `scan` where it can be read, `reference`, `prediction` and perhaps `other`.

        Empty for an unknown case.
        """
        kept = self._kept.get(case_id)
        if kept is None:
            return {}
        scan = _scan(kept)
        out: dict[str, Picture] = {}
        if scan is not None:
            out["scan"] = paint_grey(scan, window_of(scan.pixels[None]), PIXELS)
        for name, packed in kept.maps.items():
            dtype = np.dtype(np.uint8 if kept.colours is None else np.uint32)
            pixels: NDArray[Any] = np.frombuffer(zlib.decompress(packed), dtype).reshape(kept.shape)
            shown = Slice(pixels, kept.pixel_mm, ("", "", "", ""))
            if kept.colours is None:
                out[name] = paint_grey(shown, (0.0, 255.0), PIXELS)
                continue
            black = Slice(np.zeros_like(pixels, np.uint8), kept.pixel_mm, shown.sides)
            grey = out["scan"] if "scan" in out else paint_grey(black, (0.0, 1.0), PIXELS)
            out[name] = paint_labels(grey, pixels, kept.colours, 0.35 if "scan" in out else 0.7)
        return out


def most_different(case: AlignedCase, axis: int) -> int:
    """The slice along an array axis with the most voxels that differ; where none do, with the most foreground."""
    depth = case.geometry.shape_zyx[axis]
    differing, labelled = np.zeros(depth), np.zeros(depth)
    others = tuple(i for i in range(3) if i != axis)
    for part in slabs(case.geometry.shape_zyx):
        one, two = (_joined(array[..., part, :, :]) for array in (case.predicted, case.reference))
        differs: NDArray[Any] = one != two
        if case.task is not None and case.task.kind == "regression":
            differs = np.nan_to_num(np.abs(one.astype(np.float64) - two))
        elif case.task is not None and case.task.ignore is not None:
            differs &= two != case.task.ignore
        where = part if axis == 0 else slice(None)
        differing[where] += differs.sum(others)
        labelled[where] += (two > 0).sum(others)
    return int((differing if differing.any() else labelled).argmax())


def _joined(array: NDArray[Any]) -> NDArray[Any]:
    """One value for each voxel, for a comparison: of channels, which of them are there."""
    if array.ndim == 3:
        return array
    if array.dtype.kind == "f" or len(array) > 30:
        summed: NDArray[Any] = array.astype(np.float64).sum(0)
        return summed
    out = np.zeros(array.shape[1:], np.int64)
    for number, channel in enumerate(array):
        out |= (channel > 0).astype(np.int64) << number
    return out


def _flat(task: Task | None, slab: NDArray[Any], geometry: Geometry) -> Slice:
    """A slab one voxel thick as an axial slice of label numbers, or of the first value of a regression."""
    if task is not None and task.kind == "regression":
        numbers = (slab[0] if slab.ndim == 4 else slab).astype(np.float32)
    elif task is None:
        numbers = slab.astype(np.uint32)
    else:
        numbers = np.zeros(slab.shape[-3:], np.uint32)
        parts = [one > 0.5 for one in slab] if slab.ndim == 4 else masks(task, slab).values()
        for number, part in enumerate(parts, start=1):
            numbers[part] = number
    return cut(canonical(numbers, geometry), canonical_spacing_zyx(geometry), "axial", 0)


def _colours(task: Task | None) -> Colours:
    if task is None or not task.foreground:
        return PALETTE
    return [colour_of(task, index) for index in range(len(task.foreground))]


def _step(shape: tuple[int, ...]) -> int:
    return -(-max(shape) // _MOST)


def _thinned(pixels: NDArray[Any]) -> NDArray[Any]:
    step = _step(pixels.shape)
    return pixels[::step, ::step]


def _thinned_mm(image: Slice) -> tuple[float, float]:
    step = _step(image.pixels.shape)
    return image.pixel_mm[0] * step, image.pixel_mm[1] * step


def _packed(image: Slice, window: tuple[float, float] | None) -> bytes:
    """Pixels of a slice, compressed: label numbers, or grey values within a window."""
    pixels = _thinned(image.pixels)
    if window is not None:
        low, high = window
        scaled = (np.nan_to_num(pixels, nan=low) - low) / max(high - low, 1e-6)
        pixels = (scaled.clip(0, 1) * 255).astype(np.uint8)
    return zlib.compress(np.ascontiguousarray(pixels).tobytes(), 1)


def _scan(kept: _Kept) -> Slice | None:
    """The slice of the scan; None where it cannot be read, which is no reason to fail."""
    if not kept.images:
        return None
    with ExitStack() as stack:
        try:
            source = open_ref(kept.images[0])
            stack.callback(source.close)
            if kept.geometry.shape_zyx[0] > 1:  # else each of its rows would unpack the file
                source = by_region(source)
                stack.callback(source.close)
            slab = OntoGrid(source, kept.geometry, "linear").read()[0]
        except CtsegError:
            return None
    return cut(canonical(slab, kept.geometry), canonical_spacing_zyx(kept.geometry), "axial", 0)
