"""A list of preprocessing steps applied to a case, and the way back for what was predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config import PreprocessConfig
from ctseg.data.steps import Record, Step, parse_step, step_to_dict
from ctseg.data.steps.base import Box
from ctseg.data.steps.resample import Resampling
from ctseg.data.steps.sparse import resample_sparse
from ctseg.data.steps.track import Tracks, straight
from ctseg.specs import Task
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class AppliedStep:
    """One step as it was applied to one scan: the grid before it, and what it found by looking."""

    step: Step
    before: Geometry
    record: Record


@dataclass(frozen=True)
class AppliedPipeline:
    """The way of one scan through all steps."""

    steps: tuple[AppliedStep, ...]
    source: Geometry
    target: Geometry

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `Pipeline.restore` makes the applied pipeline again."""
        return {
            "geometry": dataclasses.asdict(self.source),
            "records": [applied_step.record for applied_step in self.steps],
        }


class Pipeline:
    """The steps of a run.

    Args:
        steps: in the order of application.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    @classmethod
    def of(cls, config: PreprocessConfig, packages: Mapping[str, str] | None = None) -> Pipeline:
        """The steps of a run or card.

        Args:
            packages: the packages of steps that do not ship with ctseg, by kind, where a card names them.
        """
        owners = packages or {}
        return cls([parse_step(s, package=owners.get(str(s.get("kind")))) for s in config.steps])

    def to_config(self) -> PreprocessConfig:
        return PreprocessConfig(steps=tuple(step_to_dict(step) for step in self.steps))

    def image(
        self, image_czyx: NDArray[Any], geometry: Geometry
    ) -> tuple[NDArray[np.float32], AppliedPipeline]:
        """The scan as the network sees it, float32 and contiguous, and the way it took."""
        source, steps = geometry, []
        for step in self.steps:
            record = step.fit(image_czyx, geometry)
            steps.append(AppliedStep(step, geometry, record))
            image_czyx = step.image(image_czyx, geometry, record)
            geometry = step.grid(geometry, record)
        array = np.ascontiguousarray(image_czyx, np.float32)
        return array, AppliedPipeline(tuple(steps), source, geometry)

    def typical_grid(self, geometry: Geometry) -> Geometry:
        """The grid of a scan after the steps, as far as can be said without its voxels: crops keep all."""
        for step in self.steps:
            if not step.fits:
                geometry = step.grid(geometry, {})
        return geometry

    def restore(self, data: dict[str, Any]) -> AppliedPipeline:
        """The applied pipeline from `AppliedPipeline.to_dict`, without the scan."""
        return self.applied_of(Geometry(**data["geometry"]), data["records"])

    def applied_of(self, source: Geometry, records: Sequence[Record]) -> AppliedPipeline:
        """The applied pipeline of a scan of which the steps' records are known."""
        geometry, steps = source, []
        for step, record in zip(self.steps, records, strict=True):
            steps.append(AppliedStep(step, geometry, record))
            geometry = step.grid(geometry, record)
        return AppliedPipeline(tuple(steps), source, geometry)


def follow_label(
    applied: AppliedPipeline, label_czyx: NDArray[Any], ignore: int | None = None
) -> NDArray[Any]:
    """An integer map [C, Z, Y, X] on the source grid, taken the way of its scan.

    Args:
        ignore: the value of voxels that nobody labelled; resampling loses no labelled ones to them.
    """
    for applied_step in applied.steps:
        step, before, record = applied_step.step, applied_step.before, applied_step.record
        if ignore is not None and isinstance(step, Resampling):
            label_czyx = resample_sparse(step, label_czyx, before, record, ignore)
        else:
            label_czyx = step.label(label_czyx, before, record)
    return np.ascontiguousarray(label_czyx)


def follow_values(applied: AppliedPipeline, values_czyx: NDArray[Any]) -> NDArray[np.float32]:
    """A float map [C, Z, Y, X] (a weight map) on the source grid, moved as its scan was but not normalised."""
    for applied_step in applied.steps:
        values_czyx = applied_step.step.weight(
            values_czyx, applied_step.before, applied_step.record
        )
    return np.ascontiguousarray(values_czyx, np.float32)


def tracks_of(applied: AppliedPipeline) -> Tracks:
    """Where the voxels along each axis of the scan lie on the network's grid."""
    tracks = straight(applied.source.shape_zyx)
    for applied_step in applied.steps:
        tracks = applied_step.step.track_axes(tracks, applied_step.before, applied_step.record)
    return tracks


def spans_of(tracks: Tracks) -> Box:
    """The box of the scan that lies within the network's grid; empty along an axis of which nothing does."""
    spans = []
    for track in tracks:
        hits = np.flatnonzero(track.inside)
        spans.append((int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, 0))
    return spans[0], spans[1], spans[2]


def background_fill(task: Task, *, probabilities: bool) -> NDArray[np.float32]:
    """What stands outside a crop: certain background as logits or as probabilities."""
    fill = np.full(task.out_channels, 0.0 if probabilities else -30.0, np.float32)
    if task.kind == "classes":
        fill[0] = 1.0 if probabilities else 30.0
    return fill if task.kind != "regression" else np.zeros_like(fill)
