"""The check of a preprocessing step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.checking import fill_dataclass
from ctseg.data.pipeline import AppliedPipeline, AppliedStep, tracks_of
from ctseg.data.steps import METHODS, Step, step_to_dict
from ctseg.data.steps.base import Box
from ctseg.extension_specs import StepSpec
from ctseg.testing.options import require
from ctseg.volume.geometry import Geometry

SHAPE = (10, 12, 14)
SAME = 1e-4
"""Largest difference, relative to the largest value, between computations that should agree."""


def check_step(spec: StepSpec, options: Mapping[str, Any] | None = None) -> None:
    """Check that a step fulfils the contract of `ctseg.data.steps.Step`.

    Its options survive a run file; what it finds in a scan is plain JSON, and the same when the scan comes slab by
    slab; the scan after it has the shape of its grid, and the scan before it is left alone; a part of the result is
    the same as when it is made from a box; labels keep their values and their type; and voxels are tracked within the
    grid.

    Args:
        options: of the step; the defaults if omitted.
    """
    found: Any = spec.load()
    require(getattr(found, "kind", None) == spec.name, f"{spec.name}: its class has another kind")
    lacks = [name for name in METHODS if not hasattr(found, name)]
    require(not lacks, f"{spec.name}: its class lacks {', '.join(lacks)}")
    step: Step = fill_dataclass(found, options or {}, owner=spec.name)
    stored = json.loads(json.dumps(step_to_dict(step)))
    require(
        fill_dataclass(found, {k: v for k, v in stored.items() if k != "kind"}, owner=spec.name)
        == step,
        f"{spec.name}: its options change in a run file: {stored}",
    )
    geometry = Geometry(SHAPE, (0.75, 1.0, 2.0), (10.0, -20.0, 30.0))
    rng = np.random.default_rng(0)
    scan = (100 * rng.normal(size=(1, *SHAPE)) + 200).astype(np.float32)
    scan[:, :2] = scan[:, :, :1] = 0
    _check_scan(spec.name, step, scan, geometry)


def _check_scan(name: str, step: Step, scan: NDArray[Any], geometry: Geometry) -> None:
    before = scan.copy()
    record = step.fit(scan, geometry)
    require(
        json.loads(json.dumps(record)) == _plain(record), f"{name}: its record is no plain JSON"
    )
    grid = step.grid(geometry, record)
    image = step.image(scan, geometry, record)
    require(np.array_equal(scan, before), f"{name}: changes the scan that it is given")
    expected = (len(scan), *grid.shape_zyx)
    require(image.shape == expected, f"{name}: gives {image.shape}, its grid is {expected}")
    require(bool(np.isfinite(image).all()), f"{name}: gives values that are not finite")

    def parts() -> Iterator[tuple[int, NDArray[Any]]]:
        for start in range(0, SHAPE[0], 3):
            yield start, scan[:, start : start + 3]

    by_parts = step.fit_parts(parts, geometry)
    if by_parts is not None:
        again = step.image(scan, geometry, by_parts)
        require(_alike(again, image), f"{name}: finds something else when a scan comes in slabs")
    if step.local:
        z, y, x = grid.shape_zyx
        for box in (((z // 3, z), (0, y), (x // 4, x)), ((0, z // 2 or 1), (y // 2, y), (0, x))):
            _check_box(name, step, scan, image, box, geometry, record)
    _check_maps(name, step, geometry, record, grid)


def _check_box(
    name: str, step: Step, scan: NDArray[Any], image: NDArray[Any], box: Box, *rest: Any
) -> None:
    geometry, record = rest
    needed = step.input_box(box, geometry, record)
    part = step.part(scan[_slices(needed)], needed, box, geometry, record)
    require(
        _alike(part, image[_slices(box)]),
        f"{name}: the box {box} made from {needed} differs from the same box of the whole scan",
    )


def _check_maps(name: str, step: Step, geometry: Geometry, record: Any, grid: Geometry) -> None:
    label = np.zeros((1, *SHAPE), np.uint8)
    label[:, 3:8, 4:9, 5:10] = 3
    moved = step.label(label, geometry, record)
    require(moved.shape[1:] == grid.shape_zyx, f"{name}: a label map becomes {moved.shape}")
    require(moved.dtype.kind in "iu", f"{name}: a label map becomes {moved.dtype}")
    require(set(np.unique(moved)) <= {0, 3}, f"{name}: labels get values {np.unique(moved)}")
    weight = step.weight(label.astype(np.float32), geometry, record)
    require(weight.shape[1:] == grid.shape_zyx, f"{name}: a weight map becomes {weight.shape}")
    require(float(weight.min()) >= 0, f"{name}: weights become negative")
    applied = AppliedPipeline((AppliedStep(step, geometry, record),), geometry, grid)
    for axis, track in enumerate(tracks_of(applied)):
        require(
            len(track.at) == SHAPE[axis] and track.inside.any(),
            f"{name}: axis {axis} has {SHAPE[axis]} voxels, and {len(track.at)} are tracked",
        )


def _slices(box: Box) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, b) for a, b in box))


def _alike(one: NDArray[Any], two: NDArray[Any]) -> bool:
    scale = max(float(np.abs(two).max()), 1.0)
    return one.shape == two.shape and float(np.abs(one - two).max()) <= SAME * scale


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in data.items()}
    return [_plain(v) for v in data] if isinstance(data, list | tuple) else data
