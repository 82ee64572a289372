"""The typed steps of preprocessing. Each step that moves voxels has its inverse.

A step turns a scan [C, Z, Y, X] on one grid into one on another. What it found by looking at the scan (a crop box,
a case's mean) is its record, so that labels and predictions follow the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.checking import fill_dataclass
from ctseg.errors import ConfigError, UnknownName
from ctseg.volume.geometry import Geometry, as_matrix, as_xyz
from ctseg.volume.resample import resample, resampled_geometry

Array = NDArray[Any]
Record = dict[str, Any]
Order = Literal[0, 1, 3]


class Step(Protocol):
    """One step. Steps that leave the grid alone implement `look` and `values` only (see `OnValues`)."""

    kind: ClassVar[str]

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        """What the step must know about this scan, as plain JSON data."""
        ...

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        """The grid after the step."""
        ...

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """The scan after the step, float32."""
        ...

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """An integer map after the step."""
        ...

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        """Take an array on the grid after the step back to the one before; `fill` [C] is put where nothing was."""
        ...


class OnValues:
    """Base of steps that change values and leave the grid alone."""

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        return geometry

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return label_czyx

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        return array_czyx


@dataclass(frozen=True)
class Orient:
    """Flip and permute the axes so that x, y, z of the array run to the left, back and head (LPS).

    Oblique scans go to the nearest such order of axes, without resampling. Exact, and exactly undone.
    """

    kind: ClassVar[str] = "orient"

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        axes = geometry.nearest_axes()
        source = [[a for a, _ in axes].index(space) for space in range(3)]  # array axis for x, y, z
        signs = [axes[a][1] for a in source]
        old_shape_xyz = geometry.shape_zyx[::-1]
        corner = [0, 0, 0]
        for array_axis, sign in zip(source, signs, strict=True):
            corner[array_axis] = old_shape_xyz[array_axis] - 1 if sign < 0 else 0
        matrix = geometry.matrix[:, source] * np.asarray(signs)
        shape_xyz = [old_shape_xyz[a] for a in source]
        return dataclasses.replace(
            geometry,
            shape_zyx=(shape_xyz[2], shape_xyz[1], shape_xyz[0]),
            spacing_xyz=as_xyz(geometry.spacing_xyz[a] for a in source),
            origin_xyz=as_xyz(geometry.position(corner)),
            direction=as_matrix(matrix),
        )

    def _moves(self, geometry: Geometry) -> tuple[list[int], list[int]]:
        """For the new array axes z, y, x: which old array axis (1..3 of CZYX), and which new ones are flipped."""
        axes = geometry.nearest_axes()
        source_xyz = [[a for a, _ in axes].index(space) for space in range(3)]
        order = [3 - source_xyz[space] for space in (2, 1, 0)]
        flips = [1 + i for i, space in enumerate((2, 1, 0)) if axes[source_xyz[space]][1] < 0]
        return order, flips

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        order, flips = self._moves(geometry)
        moved = image_czyx.transpose(0, *order)
        return np.flip(moved, tuple(flips)) if flips else moved

    label = image

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        order, flips = self._moves(geometry)
        moved = np.flip(array_czyx, tuple(flips)) if flips else array_czyx
        return moved.transpose(0, *(1 + np.argsort(order)))


@dataclass(frozen=True)
class Crop:
    """Crop to the box of voxels above a threshold in any channel, with a margin.

    Attributes:
        above: `0` crops to non-zero voxels of skull-stripped MR; `-500` to the body in CT.
        margin_mm: kept around the box.
    """

    kind: ClassVar[str] = "crop"
    above: float = 0.0
    margin_mm: float = 0.0

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        inside: Array = np.any(image_czyx > self.above, axis=0)
        box = []
        for axis, size in enumerate(inside.shape):
            others = tuple(a for a in range(3) if a != axis)
            hits = np.flatnonzero(np.any(inside, axis=others))
            margin = int(np.ceil(self.margin_mm / geometry.spacing_zyx[axis]))
            low, high = (int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, size)
            box.append([max(low - margin, 0), min(high + margin, size)])
        return {"box_zyx": box}

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        (z, z1), (y, y1), (x, x1) = record["box_zyx"]
        return geometry.sub((z, y, x), (z1 - z, y1 - y, x1 - x))

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return image_czyx[(slice(None), *(slice(a, b) for a, b in record["box_zyx"]))]

    label = image

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        out = np.empty((array_czyx.shape[0], *geometry.shape_zyx), array_czyx.dtype)
        out[:] = fill.astype(array_czyx.dtype)[:, None, None, None]
        out[(slice(None), *(slice(a, b) for a, b in record["box_zyx"]))] = array_czyx
        return out


@dataclass(frozen=True)
class Resample:
    """Resample to a spacing; the extent of the scan is kept, so the spacing reached differs in the last digits.

    Attributes:
        spacing_xyz: target in mm, 0 keeps an axis as it is.
        order: interpolation of the scan: 0 nearest, 1 linear, 3 cubic.
        coarse_order: the same along an axis whose spacing is over 3 x the finest (nnU-Net's rule).
    """

    kind: ClassVar[str] = "resample"
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: Order = 3
    coarse_order: Order = 0

    def __post_init__(self) -> None:
        if min(self.spacing_xyz) < 0:
            raise ConfigError(f"The target spacing cannot be negative: {self.spacing_xyz}.")

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        shape = []
        for axis in range(3):
            old, new = geometry.spacing_zyx[axis], self.spacing_xyz[2 - axis]
            size = geometry.shape_zyx[axis]
            shape.append(max(1, round(size * old / new)) if new else size)
        return resampled_geometry(geometry, (shape[0], shape[1], shape[2]))

    def orders(self, geometry: Geometry, order: int) -> tuple[int, int, int]:
        spacing = np.asarray(geometry.spacing_zyx)
        coarse = spacing > 3 * spacing.min()
        z, y, x = (min(self.coarse_order, order) if c else order for c in coarse)
        return z, y, x

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        shape = self.grid(geometry, record).shape_zyx
        if shape == image_czyx.shape[1:]:
            return image_czyx
        tensor = torch.from_numpy(np.ascontiguousarray(image_czyx, np.float32))
        out: Array = resample(tensor, shape, self.orders(geometry, self.order)).numpy()
        return out

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """Each value is resampled linearly as a map of its own; the strongest wins."""
        shape = self.grid(geometry, record).shape_zyx
        if shape == label_czyx.shape[1:]:
            return label_czyx
        orders = self.orders(geometry, 1)
        out = np.zeros((label_czyx.shape[0], *shape), label_czyx.dtype)
        best = torch.full(out.shape, -1.0)
        result = torch.from_numpy(out)
        for value in np.unique(label_czyx):
            share = resample(torch.from_numpy(label_czyx == value), shape, orders)
            better = share > best
            result[better] = int(value)
            best = torch.maximum(best, share)
        return out

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        """Linear for floating arrays (logits, probabilities), by the strongest value for integer ones."""
        if array_czyx.shape[1:] == geometry.shape_zyx:
            return array_czyx
        if array_czyx.dtype.kind == "f":
            tensor = torch.from_numpy(np.ascontiguousarray(array_czyx, np.float32))
            out: Array = resample(tensor, geometry.shape_zyx, (1, 1, 1)).numpy()
            return out
        here = self.grid(geometry, record)
        back = Resample(geometry.spacing_xyz, order=1, coarse_order=1)
        return back.label(array_czyx, here, {})


@dataclass(frozen=True)
class CropOrPad:
    """Crop or pad to a shape about the centre, as TorchIO's CropOrPad places it.

    A value that no scan holds shows a network where the scan ends.

    Attributes:
        shape_zyx: voxels after the step, 0 keeps an axis as it is.
        value: put around the scan, one number a channel, in the unit that the scan has at this step.
        crop: whether larger axes are cropped; else they stay as they are.
    """

    kind: ClassVar[str] = "crop_or_pad"
    shape_zyx: tuple[int, int, int] = (0, 0, 0)
    value: tuple[float, ...] = (0.0,)
    crop: bool = True

    def __post_init__(self) -> None:
        if min(self.shape_zyx) < 0:
            raise ConfigError(f"A shape cannot be negative: {self.shape_zyx}.")

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def _before(self, geometry: Geometry) -> list[tuple[int, int, int]]:
        """Per axis: voxels added in front (negative: cropped), and the sizes before and after."""
        out = []
        for size, wanted in zip(geometry.shape_zyx, self.shape_zyx, strict=True):
            new = wanted if wanted and (self.crop or wanted > size) else size
            half = -(-abs(new - size) // 2)  # the larger half in front
            out.append((half if new >= size else -half, size, new))
        return out

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        (z, _, nz), (y, _, ny), (x, _, nx) = self._before(geometry)
        return geometry.sub((-z, -y, -x), (nz, ny, nx))

    def _slices(self, geometry: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the part that both grids share lies before the step, and after it."""
        before, after = [slice(None)], [slice(None)]
        for front, size, new in self._before(geometry):
            length = min(size, new)
            before.append(slice(max(-front, 0), max(-front, 0) + length))
            after.append(slice(max(front, 0), max(front, 0) + length))
        return tuple(before), tuple(after)

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self._placed(image_czyx, geometry, per_channel(self.value))

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self._placed(label_czyx, geometry, np.zeros((1, 1, 1, 1)))

    def _placed(self, array_czyx: Array, geometry: Geometry, value: Array) -> Array:
        shape = self.grid(geometry, {}).shape_zyx
        if shape == array_czyx.shape[1:]:
            return array_czyx
        before, after = self._slices(geometry)
        out = np.empty((array_czyx.shape[0], *shape), array_czyx.dtype)
        out[:] = value.astype(array_czyx.dtype)
        out[after] = array_czyx[before]
        return out

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        if geometry.shape_zyx == array_czyx.shape[1:]:
            return array_czyx
        before, after = self._slices(geometry)
        out = np.empty((array_czyx.shape[0], *geometry.shape_zyx), array_czyx.dtype)
        out[:] = fill.astype(array_czyx.dtype)[:, None, None, None]
        out[before] = array_czyx[after]
        return out


@dataclass(frozen=True)
class Clip(OnValues):
    """Clip each channel to a range; one range serves all channels.

    Attributes:
        low, high: in the unit of the scan (HU in CT), one number a channel.
    """

    kind: ClassVar[str] = "clip"
    low: tuple[float, ...] = (-1024.0,)
    high: tuple[float, ...] = (3071.0,)

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return np.clip(image_czyx, per_channel(self.low), per_channel(self.high))


@dataclass(frozen=True)
class Normalise(OnValues):
    """(x - mean) / std with fixed numbers, as the foreground statistics of a CT data set.

    Attributes:
        mean, std: one number a channel.
    """

    kind: ClassVar[str] = "normalise"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ConfigError(f"The deviation to divide by must be positive: {self.std}.")

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        scaled = (image_czyx - per_channel(self.mean)) / per_channel(self.std)
        return scaled.astype(np.float32, copy=False)


@dataclass(frozen=True)
class NormaliseCase(OnValues):
    """(x - mean) / std with each scan's own mean and deviation, per channel.

    Attributes:
        nonzero: take the statistics over non-zero voxels only, and leave the others at 0.
        percentiles: clip to these percentiles of the scan first; (0, 100) for none.
    """

    kind: ClassVar[str] = "normalise_case"
    nonzero: bool = False
    percentiles: tuple[float, float] = (0.0, 100.0)

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        out: Record = {"low": [], "high": [], "mean": [], "std": []}
        for channel in image_czyx:
            values = channel[channel != 0] if self.nonzero and channel.any() else channel.ravel()
            low, high = (float(v) for v in np.percentile(values, self.percentiles))
            values = np.clip(values, low, high).astype(np.float64)
            for key, value in zip(
                ("low", "high", "mean", "std"),
                (low, high, float(values.mean()), max(float(values.std()), 1e-8)),
                strict=True,
            ):
                out[key].append(value)
        return out

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        clipped = np.clip(image_czyx, per_channel(record["low"]), per_channel(record["high"]))
        out = (clipped - per_channel(record["mean"])) / per_channel(record["std"])
        if self.nonzero:
            out = np.where(image_czyx == 0, np.float32(0), out)
        return out.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Rescale(OnValues):
    """Map a range linearly onto another one, e.g. 0..255 onto -1..1; values outside are clipped.

    Attributes:
        low, high: the range of the scan.
        to_low, to_high: the range after.
    """

    kind: ClassVar[str] = "rescale"
    low: float = 0.0
    high: float = 255.0
    to_low: float = -1.0
    to_high: float = 1.0

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ConfigError(f"The range {self.low}..{self.high} is empty.")

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        share = (np.clip(image_czyx, self.low, self.high) - self.low) / (self.high - self.low)
        out = share * (self.to_high - self.to_low) + self.to_low
        return out.astype(np.float32, copy=False)


def per_channel(values: Any) -> Array:
    """One number a channel as an array [C, 1, 1, 1] that broadcasts over the scan."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1, 1)


STEPS: Mapping[str, Any] = {
    step.kind: step
    for step in (Orient, Crop, CropOrPad, Resample, Clip, Normalise, NormaliseCase, Rescale)
}


def parse_step(data: Mapping[str, Any]) -> Step:
    """A step from its plain form, e.g. `{"kind": "clip", "low": [-160], "high": [240]}`.

    Raises:
        UnknownName: no step of that kind.
        ConfigError: an unknown option or an impossible value.
    """
    options = dict(data)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError("A preprocessing step needs a kind.", hint=f"Kinds: {', '.join(STEPS)}")
    if kind not in STEPS:
        raise UnknownName("preprocessing step", kind, STEPS)
    step: Step = fill_dataclass(STEPS[kind], options, owner=kind)
    return step


def step_to_dict(step: Step) -> dict[str, Any]:
    """The plain form of a step."""
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(step).items()}
    return {"kind": step.kind, **options}
