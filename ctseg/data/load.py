"""A case read and checked: its scan, and its label on the same grid."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.readers.grids import grid_image
from ctseg.errors import BadInput
from ctseg.specs import Case, ImageRef, Task
from ctseg.task import check_values, labelled_channels, with_values_of
from ctseg.volume.distinct_values import distinct_values, whole_numbers
from ctseg.volume.geometry import check_same
from ctseg.volume.io import open_ref, open_volume, read_images
from ctseg.volume.volume import Volume


def check_channels(cases: Iterable[Case], names: Sequence[str]) -> None:
    """Check that each scan has as many channels as the data set names; only headers are read.

    Raises:
        BadInput: it has not; the message names the file.
    """
    for case in cases:
        counts = []
        for ref in case.images:
            with contextlib.closing(open_volume(ref.path, **ref.options)) as source:
                counts.append(source.channels)
        if sum(counts) != len(names):
            odd = next(
                (ref for ref, n in zip(case.images, counts, strict=True) if n > 1), case.images[0]
            )
            raise BadInput(
                f"The scan of case {case.id} ({odd.path}) has {_channels(sum(counts))}; the data set names "
                f"{_channels(len(names))} ({', '.join(names)}).",
                hint="Name each channel of its files in dataset.json, or store each in a file of its own.",
            )


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def load_image(case: Case) -> Volume:
    """The scan of a case, [C, Z, Y, X].

    Raises:
        BadInput: the scan holds NaN or infinity.
    """
    volume = read_images(case.images)
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise BadInput(
            f"The scan of case {case.id} ({case.images[0].path}) holds NaN or infinite values.",
            hint="Replace them in the file, by the value of air for example.",
        )
    return volume


def load_label(case: Case, task: Task, image: Volume) -> Volume:
    """The label of a case in the values of the task, [Z, Y, X] or stacked [C, Z, Y, X], checked against scan and task.

    Raises:
        BadInput: no label, or values beyond the task's.
        GeometryMismatch: another shape or grid than the scan's.
    """
    if case.label is None:
        raise BadInput(f"Case {case.id} has no label.")
    source = open_ref(case.label)
    try:
        geometry, array = source.geometry, source.read()
    finally:
        source.close()
    scan = grid_image(case.images).path
    check_same(
        geometry,
        image.geometry,
        names=(f"The label {case.label.path}", f"its image {scan}"),
        files=(case.label.path, scan),
        tolerance=case.label.grid_tolerance,
    )
    own = stored_task(case, task)
    label = as_label(array, own, where=str(case.label.path))
    if task.kind == "regression":
        if np.isnan(label).all():
            raise BadInput(f"{case.label.path} holds NaN only; there is nothing to learn from.")
    else:
        check_values(own, distinct_values(label), where=str(case.label.path))
        if case.task is not None:
            label = renumbered(label, own, task)
    return Volume(label, image.geometry)


def stored_task(case: Case, task: Task) -> Task:
    """The task with the values that the label file of a case has; those of a joined data set are found by name.

    A label that the data set does not have has none; an ignore value counts where the task has one, too.
    """
    if case.task is None:
        return task
    own = with_values_of(task, case.task)
    return own if task.ignore is not None else replace(own, ignore=None)


def renumbered(label: NDArray[Any], own: Task, task: Task) -> NDArray[Any]:
    """A map of one task's label values as a map of another's, whose labels are the same in the same order.

    Returns:
        integers of the smallest type that holds the new values; what no label has is 0.
    """
    pairs = [
        (value, new.values[0])
        for old, new in zip(own.labels, task.labels, strict=True)
        for value in old.values
    ]
    if own.ignore is not None and task.ignore is not None:
        pairs.append((own.ignore, task.ignore))
    news = [0, *(new for _, new in pairs)]
    out = np.zeros(label.shape, np.result_type(*map(np.min_scalar_type, (min(news), max(news)))))
    for value, new in pairs:
        out[label == value] = new
    return out


def load_extra(case: Case, ref: ImageRef | None, image: Volume) -> NDArray[np.float32] | None:
    """A weight map or mask of a case, float32 [1, Z, Y, X], checked against its scan; None where there is none.

    Raises:
        BadInput: negative or non-finite weights, or several channels.
        GeometryMismatch: another grid than the scan's.
    """
    if ref is None:
        return None
    source = open_ref(ref)
    try:
        geometry, array = source.geometry, source.read()
    finally:
        source.close()
    check_same(
        geometry,
        image.geometry,
        names=(str(ref.path), f"the image of case {case.id}"),
        files=(ref.path, grid_image(case.images).path),
        tolerance=ref.grid_tolerance,
    )
    values = array.astype(np.float32)
    if values.shape[0] != 1 or not np.isfinite(values).all() or values.min() < 0:
        raise BadInput(
            f"The weight map or mask of case {case.id} ({ref.path}) must be one map of finite numbers, "
            "none of them negative."
        )
    return values


def as_label(array_czyx: NDArray[Any], task: Task, *, where: str) -> NDArray[Any]:
    """The label array in the shape that the task needs, integer unless the task is a regression."""
    if task.kind == "regression":
        return float_target(array_czyx, task, where=where)
    if task.stacked:
        array_czyx = labelled_channels(task, array_czyx)
    expected = task.out_channels if task.stacked else 1
    if array_czyx.shape[0] != expected:
        raise BadInput(
            f"{where} has {array_czyx.shape[0]} channels; the task needs {expected} "
            f"({'one binary map a label' if task.stacked else 'one map of label values'})."
        )
    array_czyx = whole_numbers(array_czyx, where=where)
    if array_czyx.dtype.kind == "b":
        array_czyx = array_czyx.astype(np.uint8)
    return array_czyx if task.stacked else array_czyx[0]


def float_target(array_czyx: NDArray[Any], task: Task, *, where: str) -> NDArray[np.float32]:
    """The target of a regression, one map a channel of the task; NaN marks voxels that nobody measured."""
    if array_czyx.shape[0] != task.out_channels:
        raise BadInput(
            f"{where} has {array_czyx.shape[0]} channels; the task predicts {task.out_channels} "
            f"({', '.join(label.name for label in task.labels)}).",
            hint="Name one label in [task] for every channel of the targets",
        )
    target: NDArray[np.float32] = array_czyx.astype(np.float32)
    if np.isinf(target).any():
        raise BadInput(
            f"{where} holds infinite values.",
            hint="Mark what is unknown as NaN, which is left out.",
        )
    return target
