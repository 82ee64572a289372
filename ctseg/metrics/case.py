"""All metrics of one case: overlap counted in one pass over both maps, surfaces within each label's box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.extension_specs import MetricSpec
from ctseg.metrics.boxes import in_threads, label_boxes, volume_of
from ctseg.metrics.catalogue import CHEAP, OF_VALUES, in_group, metric
from ctseg.metrics.overlap import OverlapCounts, label_counts, label_mask, label_valid
from ctseg.metrics.pairs import Cut, LabelPair, MapPair, ValuePair
from ctseg.metrics.report import LabelResult, State
from ctseg.specs import Task
from ctseg.task import select
from ctseg.volume.distinct_values import whole_numbers

_SMALL_VOXEL_MM = 0.1


@dataclass(frozen=True)
class MetricSettings:
    """Which metrics are computed, and with which parameters.

    Attributes:
        metrics: names from the catalogue.
        labels: the labels to score; None for all of the task.
        tolerance_mm: tolerance of the surface Dice, one for all labels or one per label. Labels that a mapping omits,
            and all labels if it is None, have `default_tolerance`.
        iou_thresholds: IoU from which two instances match; the average precision is the mean over the thresholds.
        data_range: intensity range for the PSNR of a regression; None takes the range of the target.
        instances: whether the values of both maps are instance ids rather than labels.
    """

    metrics: tuple[str, ...] = CHEAP
    labels: tuple[str, ...] | None = None
    tolerance_mm: float | Mapping[str, float] | None = None
    iou_thresholds: tuple[float, ...] = (0.5,)
    data_range: float | None = None
    instances: bool = False

    def __post_init__(self) -> None:
        tolerance = self.tolerance_mm
        tolerances = tolerance.values() if isinstance(tolerance, Mapping) else [tolerance or 0.0]
        if not all(math.isfinite(t) and t >= 0 for t in tolerances):
            raise BadInput(f"A tolerance is a length in mm, 0 or more, not {tolerance}.")
        width = self.data_range
        if width is not None and not (math.isfinite(width) and width > 0):
            raise BadInput(f"The data range is the width of a range, above 0, not {width}.")
        if not self.iou_thresholds or not all(0 < t <= 1 for t in self.iou_thresholds):
            raise BadInput(
                f"IoU thresholds must be above 0 and at most 1, not {self.iou_thresholds}."
            )

    def tolerance_of(self, label: str, spacing_zyx: Sequence[float]) -> float:
        if isinstance(self.tolerance_mm, Mapping):
            return self.tolerance_mm.get(label, default_tolerance(spacing_zyx))
        return default_tolerance(spacing_zyx) if self.tolerance_mm is None else self.tolerance_mm

    def to_dict(self, spacings_zyx: Mapping[str, Sequence[float]] | None = None) -> dict[str, Any]:
        """The parameters that a reader of the results needs, as plain data.

        Args:
            spacings_zyx: spacing of each case, in mm, from which default tolerances are taken.
        """
        out: dict[str, Any] = {}
        tolerance = self.tolerance_mm
        if "surface_dice" in self.metrics:
            chosen = {case: default_tolerance(s) for case, s in (spacings_zyx or {}).items()}
            default = max(chosen.values(), default=1.0)
            if tolerance is None and len(set(chosen.values())) > 1:
                out["tolerance_by_case_mm"] = chosen
            out["tolerance_mm"] = dict(tolerance) if isinstance(tolerance, Mapping) else tolerance
            if tolerance is None:
                out["tolerance_mm"] = default
            if tolerance is None or isinstance(tolerance, Mapping):
                out["default_tolerance_mm"] = default
        if "average_precision" in self.metrics:
            out["iou_thresholds"] = list(self.iou_thresholds)
        if self.instances:
            out["instances"] = True
        if "psnr" in self.metrics and self.data_range is not None:
            out["data_range"] = self.data_range
        return out


def default_tolerance(spacing_zyx: Sequence[float]) -> float:
    """The default tolerance of the surface Dice in mm for voxels of this size.

    1 mm, about how much two readers of a clinical scan differ; two voxels for voxels smaller than 0.1 mm, as in
    micro-CT, where 1 mm would tolerate everything.
    """
    largest = max(spacing_zyx)
    return 1.0 if largest >= _SMALL_VOXEL_MM else 2 * largest


def score_labels(task: Task, maps: MapPair, settings: MetricSettings) -> tuple[LabelResult, ...]:
    """Results of every label of a case, in the order of the task."""
    predicted, reference = (
        whole_numbers(array) if array.ndim == 3 else array
        for array in (maps.predicted, maps.reference)
    )
    spacing_zyx, valid, instances = maps.spacing_zyx, maps.valid, maps.instances
    labels = task.foreground if settings.labels is None else select(task, settings.labels)
    counts = label_counts(task, predicted, reference, valid, maps.histogram)
    chosen = [spec for spec in map(metric, settings.metrics) if spec.group != OF_VALUES]
    ml = math.prod(spacing_zyx) / 1000
    diagonal = diagonal_mm(reference.shape, spacing_zyx)
    wanted = {
        label.name: _metrics_to_measure(chosen, state_of(counts[label.name])) for label in labels
    }
    indices = [
        i for i, label in enumerate(task.foreground) if _needs_box(wanted.get(label.name, ()))
    ]
    boxes = dict(zip(indices, label_boxes(task, predicted, reference, indices), strict=True))

    def pair_of(index: int) -> LabelPair:
        name, box = task.foreground[index].name, boxes.get(index) or (slice(None),) * 3

        def cut() -> Cut:
            one, two = (label_mask(task, m[(..., *box)], index) for m in (predicted, reference))
            part = None if valid is None else valid[box]
            counted = label_valid(task, reference[(..., *box)], index, part)
            ids = None if instances is None else (instances[0][box], instances[1][box])
            return Cut(one, two, counted, ids)

        tolerance = settings.tolerance_of(name, spacing_zyx)
        return LabelPair(name, counts[name], spacing_zyx, tolerance, settings.iou_thresholds, cut)

    def measure(index: int) -> dict[str, float | None]:
        pair = pair_of(index)
        return {spec.name: _number(spec, pair) for spec in wanted[pair.label]}

    order = sorted(boxes, key=lambda index: -volume_of(boxes[index]))
    order += [i for i, label in enumerate(task.foreground) if label in labels and i not in boxes]
    measured = dict(zip(order, in_threads(measure, order), strict=True))
    out = []
    for label in labels:
        voxels = counts[label.name]
        state = state_of(voxels)
        values = measured[task.foreground.index(label)]
        for spec in chosen:
            if state in ("missed", "invented") and spec.worst is not None:
                values[spec.name] = diagonal if spec.worst == "diagonal" else spec.worst
        ordered = {name: values.get(name) for name in settings.metrics}
        volumes = (voxels.predicted * ml, voxels.reference * ml)
        out.append(LabelResult(label.name, ordered, *volumes, state))
    return tuple(out)


def _metrics_to_measure(chosen: Sequence[MetricSpec], state: State) -> list[MetricSpec]:
    """The metrics that are measured for a label; where only one map has it, the others have their worst score."""
    if state == "absent":
        return []
    return [spec for spec in chosen if state == "both" or spec.worst is None]


def _needs_box(metrics: Iterable[MetricSpec]) -> bool:
    return any(spec.group != "overlap" for spec in metrics)


def _number(spec: MetricSpec, pair: LabelPair | ValuePair) -> float | None:
    value = spec.measure(pair)
    return None if value is None else float(value)


def score_values(
    task: Task,
    predicted: NDArray[Any],
    reference: NDArray[Any],
    settings: MetricSettings,
    valid: NDArray[np.bool_] | None = None,
) -> tuple[LabelResult, ...]:
    """Results of every channel of a regression, in the order of the task.

    Args:
        predicted, reference: float values [C, Z, Y, X], or [Z, Y, X] for one channel; reference voxels
            that are NaN or the task's ignore value do not count.

    Raises:
        BadInput: the number of channels is not the task's.
    """
    stacks = [array if array.ndim == 4 else array[None] for array in (predicted, reference)]
    for stack in stacks:
        if len(stack) != len(task.labels):
            raise BadInput(
                f"The map has {len(stack)} channels, the task has {len(task.labels)} values."
            )
    out = []
    chosen = [metric(name) for name in in_group(settings.metrics, OF_VALUES)]
    scored = task.labels if settings.labels is None else select(task, settings.labels)
    for label, prediction, truth in zip(task.labels, *stacks, strict=True):
        if label not in scored:
            continue
        mask = valid
        if task.ignore is not None:
            counted = truth != task.ignore
            mask = counted if valid is None else counted & valid
        pair = ValuePair(label.name, prediction, truth, mask, settings.data_range)
        values = dict.fromkeys(settings.metrics) | {s.name: _number(s, pair) for s in chosen}
        state: State = "both" if pair.errors.voxels else "absent"
        out.append(LabelResult(label.name, values, state=state))
    return tuple(out)


def diagonal_mm(shape: Sequence[int], spacing_zyx: Sequence[float]) -> float:
    """The length of a scan's diagonal: the largest distance between two of its points."""
    return math.hypot(*(n * s for n, s in zip(shape[-3:], spacing_zyx, strict=True)))


def state_of(counts: OverlapCounts) -> State:
    """Whether a label is in both maps, in only one, or in neither."""
    if counts.reference:
        return "both" if counts.predicted else "missed"
    return "invented" if counts.predicted else "absent"
