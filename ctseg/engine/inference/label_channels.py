"""The labels of a first model as further channels of a second one, as in nnU-Net's cascade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.steps import Resample
from ctseg.data.steps.base import Array, Box
from ctseg.data.stream import Scan, Stream
from ctseg.engine.inference.decoders import LabelMap
from ctseg.engine.inference.model import Model
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.scratch import scratch


class WithLabels(Stream):
    """A preprocessed scan with a channel of 0 and 1 behind it for each label.

    Args:
        stream: of the scan.
        shown: label maps on the scan's own grid, each with the values of its labels, one a channel.
    """

    def __init__(self, stream: Stream, *shown: tuple[NDArray[np.generic], Sequence[int]]) -> None:
        super().__init__(stream._scan, stream.applied, stream._done)
        channels, z, y, x = self.shape_czyx
        self._shown = []
        for labels_zyx, values in shown:
            labels = _followed(stream.applied, labels_zyx)
            self._shown.append((labels, np.asarray(values, labels.dtype).reshape(-1, 1, 1, 1)))
            channels += len(values)
        self.shape_czyx = (channels, z, y, x)

    def box(self, box: Box) -> Array:
        z, y, x = (slice(a, b) for a, b in box)
        shown = [(labels[z, y, x] == values).astype(np.float32) for labels, values in self._shown]
        return np.concatenate([super().box(box), *shown])


def _followed(applied: AppliedPipeline, labels_zyx: NDArray[np.generic]) -> NDArray[np.generic]:
    """Labels on the grid of the network, resampled as nnU-Net does."""
    labels_czyx = labels_zyx[None]
    for applied_step in applied.steps:
        step, before = applied_step.step, applied_step.before
        if isinstance(step, Resample):
            shape = step.grid(before, applied_step.record).shape_zyx
            labels_czyx = resized(labels_czyx[0], shape, step.coarse_axis(before))[None]
        else:
            labels_czyx = step.label(labels_czyx, before, applied_step.record)
    return np.ascontiguousarray(labels_czyx[0])


def resized(
    labels_zyx: NDArray[np.generic], shape_zyx: Sequence[int], coarse_axis: int | None
) -> NDArray[np.generic]:
    """A label map of another shape, voxel by voxel that of nnU-Net's `resample_data_or_seg`.

    Args:
        coarse_axis: axis along which the nearest slice counts; others are linear.
    """
    if labels_zyx.shape == tuple(shape_zyx):
        return labels_zyx
    if coarse_axis is None:
        return _strongest(labels_zyx, shape_zyx)
    axis = coarse_axis
    plane = [size for other, size in enumerate(shape_zyx) if other != axis]
    slices = [_strongest(one, plane) for one in np.moveaxis(labels_zyx, axis, 0)]
    scale = labels_zyx.shape[axis] / shape_zyx[axis]
    at = np.floor(scale * (np.arange(shape_zyx[axis]) + 0.5)).astype(int)
    return np.stack([slices[index] for index in np.minimum(at, len(slices) - 1)], axis)


def _strongest(labels: NDArray[np.generic], shape: Sequence[int]) -> NDArray[np.generic]:
    """The label with the largest linear share; of equal ones that of the nearest voxel, else the smallest.

    Between two voxels half of the shares are equal but for their rounding. It is that of `ndimage.zoom` in float64,
    since `resize_segmentation` of batchgenerators (0.25.5) computes so. When ctseg prepares data, the smallest of equal
    labels stands.
    """
    factors = [1 / (old / new) for old, new in zip(labels.shape, shape, strict=True)]

    def zoomed(part: NDArray[np.generic], order: int) -> NDArray[np.float64]:
        values = part.astype(np.float64)
        out = scipy.ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=True)
        clipped: NDArray[np.float64] = np.clip(out, values.min(), values.max())
        return clipped

    nearest = zoomed(labels, 0).astype(labels.dtype)
    out, best = np.zeros_like(nearest), np.zeros(nearest.shape)
    nearest_leads = np.zeros(nearest.shape, bool)
    for value in distinct_values(labels):
        share, own = zoomed(labels == value, 1), nearest == value
        better, equal = share > best, (share == best) & (share > 0)
        nearest_leads = np.where(better, own, nearest_leads | (equal & own))
        out[better] = value
        np.maximum(best, share, out=best)
    return np.where(nearest_leads, nearest, out)


def label_map(model: Model, scan: Scan, folder: Path | None = None) -> NDArray[np.generic]:
    """The label map of a scan on its own grid; in a temporary file where it is large."""
    stream, decoder = model.open(scan, folder), LabelMap(model.task)
    mapper = SourceGridMapper(stream.applied)
    out = scratch(mapper.source, np.dtype(decoder.dtype), folder)
    model.predictor.run(stream, [(decoder, ToArray(out, mapper.box, decoder.fill))], mapper=mapper)
    return out
