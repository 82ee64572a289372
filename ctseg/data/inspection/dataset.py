"""What is in a data set: sizes, intensities and labels of each case, and whatever would spoil a training."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.inspection.checks import check_dataset
from ctseg.data.inspection.report import CaseReport, DataReport, Intensity, LabelSize
from ctseg.errors import BadInput, CtsegError
from ctseg.specs import Case, DataSet, ImageRef, Task, VolumeSource
from ctseg.task import check_values, masks, to_dict
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_ref
from ctseg.volume.labels import labels_in

QUANTILES = (0.5, 50.0, 99.5)
_SAMPLE = 4_000_000
"""Voxels that quantiles are taken from; larger scans are sampled at even distances."""
_SLAB = 64_000_000
_SPACING_FACTOR = 3.0
"""A spacing this much larger or smaller than the median is more likely a wrong unit than a protocol."""


def inspect_dataset(dataset: DataSet, advance: Callable[[str], None] | None = None) -> DataReport:
    """Read every image and label of a data set once.

    Args:
        dataset: what a reader found.
        advance: called with the id of each case that is done.

    Returns:
        The report; files that cannot be read are problems in it, not errors.
    """
    report = DataReport(
        name=dataset.name,
        path=dataset.path,
        reader=dataset.reader,
        channels=dataset.channels,
        task=to_dict(dataset.task) if dataset.task else None,
        licence=dataset.licence,
        folds=len(dataset.splits),
    )
    contents: dict[str, list[str]] = defaultdict(list)
    for case in (*dataset.cases, *dataset.unlabelled):
        found, content = _inspect_case(case, dataset)
        report.cases.append(found)
        if content:
            contents[content].append(case.id)
        if advance is not None:
            advance(case.id)
    report.problems += [
        f"{', '.join(ids)} have the same images." for ids in contents.values() if len(ids) > 1
    ]
    if dataset.task is not None and dataset.task.labels:
        report.problems += _missing_labels(dataset.task, report.cases)
    _mark_spacing(report.cases)
    check_dataset(report, dataset)
    return report


def _inspect_case(case: Case, dataset: DataSet) -> tuple[CaseReport, str]:
    """The report of a case and a digest of its image voxels, empty where they could not be read."""
    report = CaseReport(case.id, labelled=case.label is not None)
    digest = hashlib.blake2b()
    names = list(dataset.channels)
    grid: Geometry | None = None
    readable = True
    for ref in case.images:
        count = len(names) if len(case.images) == 1 else 1
        own, names = names[:count], names[count:]
        try:
            source = open_ref(ref if readable else dataclasses.replace(ref, onto=None))
            try:
                if source.channels != count:
                    raise BadInput(
                        f"{ref.path} has {source.channels} channels, the data set {len(dataset.channels)}."
                    )
                look(source, report, own, digest)
            finally:
                source.close()
        except CtsegError as error:
            report.problems.append(error.message)
            readable = False
            continue
        if grid is not None and (
            difference := grid.difference(source.geometry, ref.grid_tolerance)
        ):
            report.problems.append(
                f"{ref.path} is not on the grid of the first image: {difference}."
            )
        grid = grid or source.geometry
    if case.label is not None:
        try:
            look_at_label(case.label, dataset.task, grid, report)
        except CtsegError as error:
            report.problems.append(error.message)
    for extra in (case.weight, case.mask):
        if extra is not None and grid is not None:
            report.problems += _look_at_map(extra, grid)
    return report, digest.hexdigest() if readable else ""


def _look_at_map(ref: ImageRef, grid: Geometry) -> list[str]:
    """What is wrong with a weight map or mask."""
    try:
        source = open_ref(ref)
    except CtsegError as error:
        return [error.message]
    try:
        if difference := grid.difference(source.geometry, ref.grid_tolerance):
            return [f"The map {ref.path} is not on the grid of its image: {difference}."]
    finally:
        source.close()
    return []


def _slabs(source: VolumeSource) -> Iterator[NDArray[Any]]:
    """The volume in parts of bounded size where the format can be read by region."""
    depth, y, x = source.geometry.shape_zyx
    step = max(1, _SLAB // (y * x * source.channels)) if source.by_region else depth
    for start in range(0, depth, step):
        yield source.read((start, min(start + step, depth)))


def look(source: VolumeSource, report: CaseReport, names: list[str], digest: Any) -> None:
    """Geometry, intensities and NaN of one file, one channel a name."""
    grid = source.geometry
    if report.shape_zyx is None:
        report.shape_zyx, report.spacing_xyz = grid.shape_zyx, grid.spacing_xyz
        report.origin_xyz, report.unit = grid.origin_xyz, grid.unit
        report.orientation, report.dtype = grid.orientation, str(source.dtype)
    _take_notes(source, report)
    voxels = int(np.prod(grid.shape_zyx, dtype=np.int64))
    stride = max(1, -(-voxels // _SAMPLE))
    samples: list[list[NDArray[Any]]] = [[] for _ in names]
    lows, highs = [np.inf] * len(names), [-np.inf] * len(names)
    bad = 0
    digest.update(repr((grid.shape_zyx, str(source.dtype))).encode())
    for slab in _slabs(source):
        digest.update(slab.data)
        if slab.dtype.kind == "b":  # of which NumPy takes no percentiles
            slab = slab.view(np.uint8)
        for index, channel in enumerate(slab):
            finite = channel.reshape(-1)
            if channel.dtype.kind == "f":
                good = np.isfinite(finite)
                bad += int(finite.size - good.sum())
                finite = finite[good]
            if finite.size:
                lows[index] = min(lows[index], float(finite.min()))
                highs[index] = max(highs[index], float(finite.max()))
                samples[index].append(finite[::stride])
    for index, name in enumerate(names):
        if not samples[index]:
            continue
        low, middle, high = np.percentile(np.concatenate(samples[index]), QUANTILES)
        report.intensity.append(
            Intensity(name, lows[index], float(low), float(middle), float(high), highs[index])
        )
        if lows[index] == highs[index]:
            what = f"the channel {name}" if name else "the image"
            report.problems.append(f"{source.path}: {what} is {lows[index]:g} everywhere.")
    if bad:
        report.problems.append(f"{source.path} has {bad} voxels that are NaN or infinite.")


def _take_notes(source: VolumeSource, report: CaseReport) -> None:
    for note in map(str, source.metadata.get("notes") or ()):
        if note not in report.notes:
            report.notes.append(note)


def look_at_label(
    ref: ImageRef, task: Task | None, grid: Geometry | None, report: CaseReport
) -> None:
    source = open_ref(ref)
    try:
        _take_notes(source, report)
        if grid is not None and (
            difference := grid.difference(source.geometry, ref.grid_tolerance)
        ):
            report.problems.append(
                f"The label {ref.path} is not on the grid of its image: {difference}."
            )
        if grid is not None:
            notes = source.metadata.get("notes") or ()
            report.notes += [f"The label {ref.path}: {note}" for note in notes]
        ignore = task.ignore if task is not None else None
        if task is not None and not task.labels and task.kind == "classes":
            task = None  # the labels are found by looking
        channels = len(task.labels) if task is not None and task.stacked else 1
        if task is not None and task.kind == "regression":
            return
        if source.channels != channels:
            report.problems.append(
                f"The label {ref.path} should have {channels} "
                f"channel{'s' if channels > 1 else ''}; it has {source.channels}."
            )
            return
        named = {label.value: label.name for label in labels_in(source.metadata)}
        counts: Counter[str] = Counter()
        values: set[int] = set()
        for slab in _slabs(source):
            whole = slab.astype(np.int64) if slab.dtype.kind == "f" and _all_whole(slab) else slab
            if whole.dtype.kind == "f":
                report.problems.append(
                    f"The label {ref.path} has values that are no whole numbers."
                )
                return
            found, numbers = np.unique(whole, return_counts=True)
            values |= {int(v) for v in found}
            if task is None:
                counts.update(
                    {
                        named.get(int(v), f"value {v}"): int(n)
                        for v, n in zip(found, numbers, strict=True)
                        if v not in (0, ignore)
                    }
                )
            else:
                maps = masks(task, whole if task.stacked else whole[0])
                counts.update({name: int(mask.sum()) for name, mask in maps.items()})
        volume = source.geometry.voxel_volume_mm3 / 1000.0
        report.labels += [LabelSize(name, n, n * volume) for name, n in counts.items()]
        if values and values == {ignore}:
            report.problems.append(
                f"Every voxel of the label {ref.path} is {ignore}, the ignore value: nobody labelled it."
            )
        if task is not None:
            check_values(task, values, where=f"The label {ref.path}")
    finally:
        source.close()


def _all_whole(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all() and (array == np.rint(array)).all())


def _missing_labels(task: Task, cases: Iterable[CaseReport]) -> list[str]:
    """Labels that the task names and no case has; of no meaning where none could be read."""
    read = [case for case in cases if case.labels]
    if not read:
        return []
    seen = {size.name for case in read for size in case.labels if size.voxels}
    return [
        f"The label '{label.name}' is in none of the {len(read)} labelled cases."
        for label in task.foreground
        if label.name not in seen
    ]


def _mark_spacing(cases: list[CaseReport]) -> None:
    """Note spacings far from those of the other cases."""
    spacings = [case.spacing_xyz for case in cases if case.spacing_xyz is not None]
    if len(spacings) < 3:
        return
    median = np.median(np.array(spacings), axis=0)
    for case in cases:
        if case.spacing_xyz is None:
            continue
        ratio = np.array(case.spacing_xyz) / median
        if (np.maximum(ratio, 1 / ratio) > _SPACING_FACTOR).any():
            shown, usual = (" x ".join(f"{v:.4g}" for v in s) for s in (case.spacing_xyz, median))
            case.problems.append(
                f"its spacing {shown} mm is far from the usual {usual} mm; is the unit right?"
            )
