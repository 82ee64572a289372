"""Scans and label maps reduced to a number of voxels that can be shown, read slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Label, VolumeSource, Zyx
from ctseg.task import PALETTE
from ctseg.volume.distinct_values import whole_numbers
from ctseg.volume.file_names import names_apart
from ctseg.volume.formats.source import options_of
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import format_of, open_volume
from ctseg.volume.labels import labels_in
from ctseg.volume.onto_grid import OntoGrid
from ctseg.volume.spool import by_region
from ctseg.volume.volume import Volume

DISPLAY_VOXELS = 2**24
"""Most voxels of a scan that is shown; larger ones are reduced."""
_LONGEST = 2048
"""Most voxels along an axis of a 3D texture that browsers hold."""
_SLAB_BYTES = 2**26
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class DisplayLabels:
    """A label map on the grid of the shown scan.

    Attributes:
        name: of the file, with its folders where another map's file has the same name.
        array: label values [Z, Y, X].
        labels: foreground labels with names and colours, by value.
        volumes_mm3: volume of each label value in the region shown, counted in the file's own voxels.
    """

    name: str
    array: NDArray[Any]
    labels: tuple[Label, ...]
    volumes_mm3: Mapping[int, float]


@dataclass(frozen=True)
class Display:
    """A scan, or a region of it, reduced to at most a number of voxels, and label maps on its grid.

    Attributes:
        volume: one channel, [Z, Y, X].
        layers: in the order of their files.
        note: how the scan was reduced; empty if each voxel is shown.
    """

    volume: Volume
    layers: tuple[DisplayLabels, ...]
    note: str


def read_display(
    scan: Path,
    masks: Sequence[Path] = (),
    *,
    region: Box | None = None,
    labels: Sequence[Label] = (),
    most: int = DISPLAY_VOXELS,
) -> Display:
    """Read a scan and label maps for a picture, in memory that does not grow with their size.

    A scan with a pyramid is read at the level nearest to the wanted size; what is still too large is averaged over
    blocks of voxels. Label maps may lie on any grid that overlaps the scan's; the nearest voxel is taken.

    Args:
        region: first voxel and the one past the last along z, y, x of the scan as it is stored.
        labels: names of label values, before those that a file declares.
        most: voxels of the result.

    Raises:
        BadInput: the region is no part of the scan, or a mask is no label map.
        GeometryMismatch: a mask does not overlap the scan.
    """
    with ExitStack() as stack:
        full = _opened(stack, scan)
        box = region or tuple((0, n) for n in full.geometry.shape_zyx)
        for (a, b), n in zip(box, full.geometry.shape_zyx, strict=True):
            if not 0 <= a < b <= n:
                raise BadInput(
                    f"The region {box} (z, y, x) is no part of a scan of {full.geometry.shape_zyx} voxels."
                )
        wanted = full.geometry.sub(
            (box[0][0], box[1][0], box[2][0]),
            (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0]),
        )
        source, start, shape = _level(stack, scan, full, wanted, most)
        factors = factors_for(shape, source.geometry.spacing_zyx, most)
        grid = reduced(source.geometry.sub(start, shape), factors)
        array = _averaged(source, start, shape, factors)
        layers = tuple(
            _labels(path, name, wanted, grid, labels)
            for path, name in zip(masks, names_apart(masks), strict=True)
        )
    ratio = [s / f for s, f in zip(grid.spacing_xyz, full.geometry.spacing_xyz, strict=True)]
    note = ""
    if max(ratio) > 1.01:
        by = " x ".join(f"{r:.3g}" for r in ratio)
        note = f"Reduced {by} times along x, y, z, to {' x '.join(map(str, grid.shape_zyx[::-1]))} voxels."
    if region is not None:
        note = f"{note} Region {','.join(f'{a}:{b}' for a, b in box)} (z, y, x).".strip()
    return Display(Volume(array, grid), layers, note)


def factors_for(shape_zyx: Zyx, spacing_zyx: Sequence[float], most: int) -> Zyx:
    """Whole factors by which each axis is reduced: the finest axes first, so that voxels become more isotropic."""
    factors = [1, 1, 1]

    def sizes() -> list[int]:
        return [math.ceil(n / f) for n, f in zip(shape_zyx, factors, strict=True)]

    for axis, length in enumerate(shape_zyx):
        factors[axis] = math.ceil(length / _LONGEST)
    while math.prod(sizes()) > most:
        widths = [
            s * f if f < n else math.inf
            for s, f, n in zip(spacing_zyx, factors, shape_zyx, strict=True)
        ]
        factors[widths.index(min(widths))] += 1
    return factors[0], factors[1], factors[2]


def reduced(geometry: Geometry, factors: Zyx) -> Geometry:
    """The grid whose voxels are blocks of another grid's; the last blocks may reach beyond it."""
    z, y, x = factors
    first = geometry.position(((x - 1) / 2, (y - 1) / 2, (z - 1) / 2))
    sx, sy, sz = geometry.spacing_xyz
    depth, height, width = (
        math.ceil(n / f) for n, f in zip(geometry.shape_zyx, factors, strict=True)
    )
    return replace(
        geometry,
        shape_zyx=(depth, height, width),
        spacing_xyz=(sx * x, sy * y, sz * z),
        origin_xyz=tuple(first),
    )


def _opened(stack: ExitStack, path: Path, **options: Any) -> VolumeSource:
    source = open_volume(path, **options)
    stack.callback(source.close)
    return source


def _level(
    stack: ExitStack, path: Path, full: VolumeSource, wanted: Geometry, most: int
) -> tuple[VolumeSource, Zyx, Zyx]:
    """The source to read, and the box of it that covers the wanted grid."""
    source = full
    spec = format_of(path)
    share = (math.prod(wanted.shape_zyx) / most) ** (1 / 3)
    if share > 1 and spec is not None and "level" in options_of(spec):
        coarser = ",".join(f"{s * share:.9g}" for s in full.geometry.spacing_xyz)
        source = _opened(stack, path, spacing=coarser)
    if not source.by_region:
        source = by_region(source)
        stack.callback(source.close)
    own = source.geometry
    corner = np.asarray(wanted.shape_zyx[::-1]) - 0.5
    ends = wanted.position(np.array([[-0.5, -0.5, -0.5], corner]))
    inside = (ends - np.asarray(own.origin_xyz)) @ own.matrix / np.asarray(own.spacing_xyz) + 0.5
    size = np.asarray(own.shape_zyx)
    first = np.rint(inside[0][::-1]).astype(int).clip(0, size - 1)
    last = np.rint(inside[1][::-1]).astype(int).clip(first + 1, size)
    a, b, c = (int(v) for v in first)
    depth, height, width = (int(v) for v in last - first)
    return source, (a, b, c), (depth, height, width)


def _averaged(source: VolumeSource, start: Zyx, shape: Zyx, factors: Zyx) -> NDArray[Any]:
    """The first channel of a box, averaged over blocks, [Z, Y, X]."""
    out = []
    stop_yx = (start[1] + shape[1], start[2] + shape[2])
    for first, last in _spans(shape, factors[0], source.dtype.itemsize * source.channels):
        slab = source.read_box(
            (start[0] + first, *start[1:]), (start[0] + last, *stop_yx)
        )[0]  # fmt: skip
        if max(factors) == 1:
            out.append(slab)
            continue
        mean = block_means(slab, factors)
        out.append(np.rint(mean).astype(source.dtype) if source.dtype.kind in "iu" else mean)
    return np.concatenate(out)


def block_means(array_zyx: NDArray[Any], factors: Zyx) -> NDArray[Any]:
    """The mean of each block of voxels; blocks at the end may be smaller."""
    for axis, factor in enumerate(factors):
        array_zyx = _mean(array_zyx, axis, factor)
    return array_zyx


def _mean(array: NDArray[Any], axis: int, factor: int) -> NDArray[Any]:
    starts = np.arange(0, array.shape[axis], factor)
    counts = np.diff(np.append(starts, array.shape[axis]))
    sums = np.add.reduceat(array, starts, axis=axis, dtype=np.float32)
    wide = [1, 1, 1]
    wide[axis] = -1
    mean: NDArray[Any] = sums / counts.reshape(wide).astype(np.float32)
    return mean


def _spans(shape: Zyx, factor: int, voxel_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of slices that hold whole blocks and a limited number of bytes."""
    plane = shape[1] * shape[2] * voxel_bytes
    step = factor * max(1, _SLAB_BYTES // max(1, plane * factor))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def _labels(
    path: Path, name: str, wanted: Geometry, grid: Geometry, names: Sequence[Label]
) -> DisplayLabels:
    """A label map on the shown grid; its labels are counted at full size in the wanted region."""
    with ExitStack() as stack:
        own = _opened(stack, path)
        if own.channels != 1:
            raise BadInput(
                f"{path} has {own.channels} channels; a mask that is shown is one map of label values.",
                hint="Write its labels as one map, or name a file for each of them.",
            )
        source = by_region(own)
        if source is not own:
            stack.callback(source.close)
        counted = _over(source, wanted)
        counts, per_voxel = _count(counted, path), counted.geometry.voxel_volume_mm3
        array = whole_numbers(OntoGrid(source, grid, "nearest").read()[0], where=str(path))
        known = {label.value: label for label in (*labels_in(own.metadata), *names)}
    labels = tuple(
        replace(
            known.get(value, Label(f"label {value}", (value,), value)),
            colour=(known[value].colour if value in known else None) or _colour(index),
        )
        for index, value in enumerate(sorted(counts))
    )
    volumes = {value: count * per_voxel for value, count in counts.items()}
    return DisplayLabels(name, array, labels, volumes)


def _colour(index: int) -> tuple[int, int, int]:
    """A colour of the palette; from its second round on, lighter and darker ones."""
    red, green, blue = PALETTE[index % len(PALETTE)]
    turn = index // len(PALETTE) % 5
    share, goal = 0.3 * ((turn + 1) // 2), (255 if turn % 2 else 0)
    red, green, blue = (round(c + share * (goal - c)) for c in (red, green, blue))
    return red, green, blue


def _over(source: VolumeSource, wanted: Geometry) -> VolumeSource:
    """The mask itself where it has the wanted grid, else on it."""
    return source if source.geometry.agrees(wanted) else OntoGrid(source, wanted, "nearest")


def _count(source: VolumeSource, path: Path) -> dict[int, int]:
    counts: dict[int, int] = {}
    for first, last in _spans(source.geometry.shape_zyx, 1, source.dtype.itemsize):
        slab = whole_numbers(source.read((first, last)), where=str(path))
        for value, count in zip(*np.unique(slab, return_counts=True), strict=True):
            counts[int(value)] = counts.get(int(value), 0) + int(count)
    counts.pop(0, None)
    return counts
