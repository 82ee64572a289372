"""What is found in one pass over the files of a case that is read lazily, and whether it can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.lazy import OpenFiles, TargetReader
from ctseg.data.load import as_label
from ctseg.data.patch_centres import CentreCollector
from ctseg.data.pipeline import Pipeline
from ctseg.data.readers.grids import grid_image
from ctseg.data.steps import OnValues, Step, keeps_grid
from ctseg.data.steps.base import Array
from ctseg.errors import BadInput
from ctseg.specs import Case, Task
from ctseg.task import check_values
from ctseg.volume.distinct_values import distinct_values, slabs
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.io import open_ref

READ_BYTES = 2**27
"""A pass over a whole file reads about this much at a time."""
SAMPLES = 2**23
"""Per-case statistics of larger scans rest on this many voxels, evenly taken."""


def reason_not_lazy(pipeline: Pipeline, case: Case) -> str | None:
    """Why the patches of a case cannot be read from its files; None where they can."""
    for step in pipeline.steps:
        if step.fits and not isinstance(step, OnValues):
            return f"the step '{step.kind}' crops"
    refs = [*case.images, *(r for r in (case.label, case.mask, case.weight) if r is not None)]
    for ref in refs:
        source = open_ref(ref)
        try:
            if not source.by_region:
                return f"{ref.path} cannot be read by region"
            geometry = source.geometry
        finally:
            source.close()
        for step in pipeline.steps:
            if not keeps_grid(step, geometry):
                return f"the step '{step.kind}' moves voxels"
            if not (step.local and _fits_parts(step, geometry)):
                return f"the step '{step.kind}' needs the whole scan at once"
    return None


class _AskedError(Exception):
    pass


def _fits_parts(step: Step, geometry: Geometry) -> bool:
    """Whether a step finds what it looks for in a scan that comes in parts: it asks for them then."""

    def parts() -> Iterable[tuple[int, Array]]:
        raise _AskedError

    try:
        return step.fit_parts(parts, geometry) is not None
    except _AskedError:
        return True


def size_of(case: Case, task: Task) -> int:
    """Bytes of the prepared scan and target where no step moves voxels."""
    channels, voxels = 0, 1
    for ref in case.images:
        source = open_ref(ref)
        channels += source.channels
        voxels = math.prod(source.geometry.shape_zyx)
        source.close()
    each = {"classes": 2, "channels": task.out_channels, "regression": 4 * task.out_channels}
    return voxels * (4 * channels + each[task.kind])


def survey(
    pipeline: Pipeline, task: Task, case: Case
) -> tuple[Geometry, list[dict[str, Any]], NDArray[np.int32]]:
    """Pass over the files of a case once, in slabs.

    Returns:
        its grid, what each step found by looking, and the places to centre patches on.

    Raises:
        BadInput: no label, or values beyond the task's.
        GeometryMismatch: label, mask or weights on another grid.
    """
    image = OpenFiles(case.images)
    if case.label is None:
        raise BadInput(f"Case {case.id} has no label.")
    target = TargetReader(case, task)
    try:
        geometry = one_grid(case)
        records = _records(pipeline, image, geometry)
        collector = CentreCollector(task)
        blank = zeros_are_background(task)
        for start, label in slabs_of(target.label):
            mask = None
            if target.mask is not None:
                stop = (start + label.shape[1], *geometry.shape_zyx[1:])
                mask = target.mask.read((start, 0, 0), stop)
            for part in slabs(label.shape[1:]):
                piece = label[:, part]
                if mask is None and blank and not piece.any():  # most of a large scan
                    empty = np.zeros((1, 1, 1, 1), np.int16)
                    collector.add(np.broadcast_to(empty, (1, *piece.shape[1:])), start + part.start)
                    continue
                if task.kind != "regression":
                    values = as_label(piece, task, where=target.where)
                    check_values(task, distinct_values(values), where=target.where)
                made = target.made(piece, None if mask is None else mask[:, part])
                collector.add(made, start + part.start)
    finally:
        image.close()
        target.close()
    return geometry, records, collector.result()


def one_grid(case: Case) -> Geometry:
    """The grid that all files of a case share."""
    first: Geometry | None = None
    for ref in (*case.images, case.label, case.mask, case.weight):
        if ref is None:
            continue
        source = open_ref(ref)
        geometry = source.geometry
        source.close()
        if first is None:
            first = geometry
        check_same(
            geometry,
            first,
            names=(str(ref.path), f"the image of case {case.id}"),
            files=(ref.path, grid_image(case.images).path),
            tolerance=ref.grid_tolerance,
        )
    assert first is not None
    return first


def zeros_are_background(task: Task) -> bool:
    """Whether a slab of zeros holds nothing; in a binary scan 0 may be what is looked for."""
    return task.kind == "classes" and 0 in task.labels[0].values and task.ignore != 0


def slabs_of(files: OpenFiles) -> Iterator[tuple[int, NDArray[Any]]]:
    """All of some files in slabs along z: (first slice, [C, slices, Y, X])."""
    sources = files.open()
    depth, height, width = sources[0].geometry.shape_zyx
    plane = sum(s.channels * s.dtype.itemsize for s in sources) * height * width
    thick = max(1, READ_BYTES // plane)
    for chunk in (32, 16, 8, 4):  # files are often chunked so; a chunk should be read once
        if thick >= chunk:
            thick -= thick % chunk
            break
    for start in range(0, depth, thick):
        yield start, files.read((start, 0, 0), (min(start + thick, depth), height, width))


def _records(pipeline: Pipeline, image: OpenFiles, geometry: Geometry) -> list[dict[str, Any]]:
    """What each step finds; statistics rest on all voxels of small scans and evenly taken ones of large scans."""
    if not any(step.fits for step in pipeline.steps):
        return [{} for _ in pipeline.steps]
    every = -(-math.prod(geometry.shape_zyx) // SAMPLES)
    parts = [slab.reshape(slab.shape[0], -1)[:, ::every].copy() for _, slab in slabs_of(image)]
    values: NDArray[Any] = np.concatenate(parts, 1)[:, None, None, :]
    line = Geometry((1, 1, values.shape[-1]))
    records = []
    for step in pipeline.steps:
        record: dict[str, Any] = {}
        if isinstance(step, OnValues):
            record = step.fit(values, line)
            values = step.image(values, line, record)
        records.append(record)
    return records
