"""A list of preprocessing steps applied to a case, and the way back for what was predicted."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.config import PreprocessConfig
from ctseg.data.steps import Record, Resampling, Step, parse_step, step_to_dict
from ctseg.data.steps.resample import resampled_chunks
from ctseg.specs import Task
from ctseg.volume.geometry import Geometry

CHUNK_BYTES = 2**26
"""Resampling back works through slices in chunks of about this size."""


@dataclass(frozen=True)
class Passage:
    """One step as it was applied to one scan: the grid before it, and what it found by looking."""

    step: Step
    before: Geometry
    record: Record


@dataclass(frozen=True)
class Trail:
    """The way of one scan through all steps."""

    passages: tuple[Passage, ...]
    source: Geometry
    target: Geometry

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `Pipeline.trail` makes the trail again."""
        return {
            "geometry": dataclasses.asdict(self.source),
            "records": [passage.record for passage in self.passages],
        }


class Pipeline:
    """The steps of a run.

    Args:
        steps: in the order of application.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    @classmethod
    def of(cls, config: PreprocessConfig) -> Pipeline:
        return cls([parse_step(step) for step in config.steps])

    def to_config(self) -> PreprocessConfig:
        return PreprocessConfig(steps=tuple(step_to_dict(step) for step in self.steps))

    def image(
        self, image_czyx: NDArray[Any], geometry: Geometry
    ) -> tuple[NDArray[np.float32], Trail]:
        """The scan as the network sees it, float32 and contiguous, and the way it took."""
        source, passages = geometry, []
        for step in self.steps:
            record = step.look(image_czyx, geometry)
            passages.append(Passage(step, geometry, record))
            image_czyx = step.image(image_czyx, geometry, record)
            geometry = step.grid(geometry, record)
        array = np.ascontiguousarray(image_czyx, np.float32)
        return array, Trail(tuple(passages), source, geometry)

    def typical_grid(self, geometry: Geometry) -> Geometry:
        """The grid of a scan after the steps, as far as can be said without its voxels: crops keep all."""
        for step in self.steps:
            if not step.looks:
                geometry = step.grid(geometry, {})
        return geometry

    def trail(self, data: dict[str, Any]) -> Trail:
        """The trail from `Trail.to_dict`, without the scan."""
        return self.trail_of(Geometry(**data["geometry"]), data["records"])

    def trail_of(self, source: Geometry, records: Sequence[Record]) -> Trail:
        """The trail of a scan of which the steps' records are known."""
        geometry, passages = source, []
        for step, record in zip(self.steps, records, strict=True):
            passages.append(Passage(step, geometry, record))
            geometry = step.grid(geometry, record)
        return Trail(tuple(passages), source, geometry)


def follow_label(trail: Trail, label_czyx: NDArray[Any]) -> NDArray[Any]:
    """An integer map [C, Z, Y, X] on the source grid, taken the way of its scan."""
    for passage in trail.passages:
        label_czyx = passage.step.label(label_czyx, passage.before, passage.record)
    return np.ascontiguousarray(label_czyx)


def follow_values(trail: Trail, values_czyx: NDArray[Any]) -> NDArray[np.float32]:
    """A float map [C, Z, Y, X] (a weight map) on the source grid, moved as its scan was but not normalised."""
    for passage in trail.passages:
        values_czyx = passage.step.weight(values_czyx, passage.before, passage.record)
    return np.ascontiguousarray(values_czyx, np.float32)


def back(
    trail: Trail, array_czyx: NDArray[Any], fill: NDArray[Any], *, until: int = 0
) -> NDArray[Any]:
    """An array on the network's grid, taken back to the source grid.

    Args:
        fill: [C], what is put outside a crop.
        until: how many of the first steps are left undone.
    """
    for passage in reversed(trail.passages[until:]):
        array_czyx = passage.step.undo(array_czyx, passage.before, passage.record, fill)
    return array_czyx


def background_fill(task: Task, *, probabilities: bool) -> NDArray[np.float32]:
    """What stands outside a crop: certain background as logits or as probabilities."""
    fill = np.full(task.out_channels, 0.0 if probabilities else -30.0, np.float32)
    if task.kind == "classes":
        fill[0] = 1.0 if probabilities else 30.0
    return fill if task.kind != "regression" else np.zeros_like(fill)


def labels_back(
    trail: Trail,
    logits_czyx: torch.Tensor,
    task: Task,
    decode: Callable[[torch.Tensor], torch.Tensor],
    dtype: str,
) -> NDArray[Any]:
    """Logits on the network's grid to a label map [Z, Y, X] on the source grid.

    The last resampling is undone in chunks of slices that are decoded at once, so that logits on the source grid
    never exist as a whole; what comes before it (crop, orientation) is undone on the labels.
    """
    resamplings = [i for i, p in enumerate(trail.passages) if isinstance(p.step, Resampling)]
    fill = background_fill(task, probabilities=False)
    if len(resamplings) > 1:
        whole = back(trail, logits_czyx.cpu().numpy(), fill)
        return decode(torch.from_numpy(whole)).numpy().astype(dtype)
    at = resamplings[0] if resamplings else len(trail.passages)
    array = (
        back(trail, logits_czyx.cpu().numpy(), fill, until=at + 1)
        if at + 1 < len(trail.passages) and _moves(trail, at + 1)
        else None
    )
    logits = logits_czyx if array is None else torch.from_numpy(np.ascontiguousarray(array))
    zero = np.zeros(1, dtype)
    if resamplings:
        passage = trail.passages[at]
        step = passage.step
        assert isinstance(step, Resampling)
        labels = np.empty(passage.before.shape_zyx, dtype)
        positions = step.back_positions(passage.before)
        for start, stop, part in resampled_chunks(logits, positions, CHUNK_BYTES):
            labels[start:stop] = decode(part).cpu().numpy()
    else:
        labels = decode(logits).cpu().numpy().astype(dtype)
    for passage in reversed(trail.passages[:at]):
        labels = passage.step.undo(labels[None], passage.before, passage.record, zero)[0]
    return np.ascontiguousarray(labels)


def _moves(trail: Trail, start: int) -> bool:
    """Whether any step from `start` on changes the grid."""
    grids = [p.before for p in trail.passages[start:]] + [trail.target]
    return any(a != b for a, b in itertools.pairwise(grids))
