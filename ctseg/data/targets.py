"""The target of a prepared case: its label on the network's grid; voxels that nobody labelled are ignored."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.lazy import encode_czyx, masked
from ctseg.data.pipeline import AppliedPipeline, follow_label, follow_values
from ctseg.data.steps.axes import Moved
from ctseg.data.steps.base import OnValues
from ctseg.data.steps.crop import ToBox
from ctseg.data.steps.resample import Resampling
from ctseg.specs import Task

_NEVER_PADS = (OnValues, Moved, Resampling, ToBox)
"""Families of steps after which every voxel lies within the scan."""


def target_of(
    task: Task,
    label_czyx: NDArray[Any],
    valid_czyx: NDArray[np.bool_] | None,
    applied: AppliedPipeline,
) -> NDArray[Any]:
    """A label on the scan's grid as the network's target, -1 (NaN) where ignored.

    Args:
        label_czyx: values as stored.
        valid_czyx: [1, Z, Y, X] where the label counts; everywhere where it is None.
        applied: the preprocessing of the scan.
    """
    if task.kind == "regression":
        return _values(task, label_czyx, valid_czyx, applied)
    if valid_czyx is not None:
        task, label_czyx = _hidden(task, label_czyx, valid_czyx)
    target = encode_czyx(task, follow_label(applied, label_czyx, task.ignore))
    return _without_padding(target, applied)


def _hidden(
    task: Task, label_czyx: NDArray[Any], valid_czyx: NDArray[np.bool_]
) -> tuple[Task, NDArray[Any]]:
    """The label with an ignore value where it does not count, and the task that knows this value."""
    ignore = task.ignore
    if ignore is None:
        known = [value for label in task.labels for value in label.values]
        ignore = max(int(label_czyx.max()), 1, *known) + 1
    dtype = np.result_type(label_czyx.dtype, np.min_scalar_type(ignore))
    hidden = np.where(valid_czyx, label_czyx, ignore).astype(dtype)
    return dataclasses.replace(task, ignore=ignore), hidden


def _values(
    task: Task,
    label_czyx: NDArray[Any],
    valid_czyx: NDArray[np.bool_] | None,
    applied: AppliedPipeline,
) -> NDArray[Any]:
    """Float targets, interpolated from known voxels alone: their weighted sum over the sum of their weights."""
    target = encode_czyx(task, label_czyx)
    known = np.isfinite(target) if valid_czyx is None else np.isfinite(target) & valid_czyx
    if known.all():
        return _without_padding(follow_values(applied, target), applied)
    share = follow_values(applied, known.astype(np.float32))
    moved = follow_values(applied, np.where(known, target, 0).astype(np.float32))
    counts = follow_label(applied, known.astype(np.uint8), ignore=0) > 0
    counts &= share > 1e-3
    return np.where(counts, moved / np.where(counts, share, 1), np.nan).astype(np.float32)


def _without_padding(target_czyx: NDArray[Any], applied: AppliedPipeline) -> NDArray[Any]:
    """A target that counts within the scan only: what a step pads is labelled by nobody."""
    if all(isinstance(applied_step.step, _NEVER_PADS) for applied_step in applied.steps):
        return target_czyx
    ones = np.ones((1, *applied.source.shape_zyx), np.uint8)
    return masked(target_czyx, follow_label(applied, ones) > 0)
