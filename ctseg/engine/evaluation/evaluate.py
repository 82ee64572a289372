"""Predictions against references: read in pairs, compared on one grid, label by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.channel_names import by_name
from ctseg.engine.evaluation.matching import Pairs, find_pairs
from ctseg.errors import BadInput, UnknownName
from ctseg.metrics.case import MetricSettings, diagonal_mm, score_labels, score_values
from ctseg.metrics.catalogue import REGRESSION, in_group, resolve
from ctseg.metrics.overlap import Histogram, joint_histogram
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.specs import DataSet, ImageRef, Task
from ctseg.task import check_values, classes_task, in_one_map, labelled_channels
from ctseg.volume.distinct_values import distinct_values, whole_numbers
from ctseg.volume.geometry import TOLERANCE_VOXELS, check_same
from ctseg.volume.io import read_ref
from ctseg.volume.lattice import CommonGrid, on_common_grid
from ctseg.volume.volume import Volume

Slices = tuple[int | None, int | None]


def evaluate(
    prediction: Volume | Path | str,
    reference: Volume | DataSet | Path | str,
    *,
    task: Task | None = None,
    cases: Sequence[str] | None = None,
    slices: Slices | None = None,
    metrics: Sequence[str] | str | None = None,
    labels: Sequence[str] | None = None,
    tolerance_mm: float | Mapping[str, float] | None = None,
    iou_thresholds: Sequence[float] = (0.5,),
    data_range: float | None = None,
    instances: bool = False,
    mask: Volume | Path | str | None = None,
    grid_tolerance: float | None = None,
    prediction_options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Compare predicted label maps with reference ones, or the values of a regression with their targets.

    Args:
        prediction: a volume, a file, or a folder of files named after their cases.
        reference: a volume, a file, a folder of files, a data set's path, or a data set.
        task: what the label values mean; taken from `predictions.json` or the data set where it is not given,
            and otherwise every value but 0 is a label of its own.
        cases: the only case ids to evaluate; without it every case must be on both sides.
        slices: start and stop along z of the part that counts.
        metrics: names and groups of `ctseg.metrics.catalogue`, or one string with commas; Dice, IoU and the
            surface metrics where it is None.
        labels: names of the only labels to score.
        tolerance_mm: of the surface Dice, for all labels or by name; by the voxel size where it is None: 1 mm, or two
            voxels where these are smaller than 0.1 mm.
        iou_thresholds: at which instances match, for the average precision.
        data_range: to which the PSNR of a regression refers; without it the range of each target.
        instances: the values are ids of instances (grains, cells, fibres) rather than labels; the ids of the two
            maps need not agree, and all is scored under the one label `instances`.
        mask: above 0 where the reference counts, for two volumes; the cases of a data set bring their own.
        grid_tolerance: share of a voxel by which the voxels of the two may lie apart; 0.001 by default.
        prediction_options, reference_options: for the formats' `open`, e.g. `{"dataset": "/label"}`.
        progress: called with the number done, the total and the case's id.

    Raises:
        FileProblem: a file that is missing or cannot be read.
        GeometryMismatch: a prediction that does not lie on the voxels of its reference. It may be stored with its
            axes in another order or direction, or hold a part of them: the rest counts as background.
        BadInput: a case without its fellow, or a value that the task does not know.
        UnknownName: a metric or label that does not exist.

    Example:
        >>> evaluate(mask, reference).dice
        {'1': 0.91}
    """
    settings = MetricSettings(
        resolve(metrics),
        None if labels is None else tuple(labels),
        tolerance_mm,
        tuple(iou_thresholds),
        data_range,
        instances,
    )
    if isinstance(prediction, Volume) or isinstance(reference, Volume):
        if isinstance(reference, DataSet):
            raise BadInput(
                "A data set is compared with a folder of predictions, not with one volume."
            )
        expected = _volume(reference, reference_options)
        names = ("The prediction of 'case'", "its reference")
        common = _common(
            _volume(prediction, prediction_options), expected, names, None, grid_tolerance, task
        )
        where = None if mask is None else common.to_common(_mask_of(_volume(mask, None), expected))
        result = evaluate_case(
            task, common.one, common.two, "case", slices=_moved(slices, common), mask=where,
            settings=settings,
        )  # fmt: skip
        result = replace(result, notes=common.notes)
        return _report([result], settings, {"case": expected.geometry.spacing_zyx})
    found = find_pairs(
        Path(prediction),
        reference if isinstance(reference, DataSet) else Path(reference),
        cases=cases,
        prediction_options=prediction_options,
        reference_options=reference_options,
    )
    if mask is not None:
        if len(found.pairs) != 1:
            raise BadInput(
                f"One mask was given for {len(found.pairs)} cases.",
                hint="Evaluate one case, or let a data set name the mask of each.",
            )
        found = replace(found, pairs=(replace(found.pairs[0], mask=mask),))
    if grid_tolerance is not None:
        found = replace(found, grid_tolerance=grid_tolerance)
    return _evaluate_pairs(found, task or found.task, slices, settings, progress)


def _evaluate_pairs(
    found: Pairs,
    task: Task | None,
    slices: Slices | None,
    settings: MetricSettings,
    progress: Callable[[int, int, str], None] | None,
) -> Report:
    if found.labels is not None:  # what nobody asked the prediction for was not missed
        for name in settings.labels or ():
            if name not in found.labels:
                raise UnknownName("predicted label", name, found.labels)
        settings = replace(settings, labels=settings.labels or found.labels)
    results, spacings = [], {}
    for done, pair in enumerate(found.pairs, start=1):
        names = (str(pair.prediction.path), str(pair.reference.path))
        made, expected = read_map(pair.prediction), read_map(pair.reference)
        files = (pair.prediction.path, pair.reference.path)
        common = _common(made, expected, names, files, found.grid_tolerance, task)
        mask = None
        if pair.mask is not None:
            mask = common.to_common(_mask_of(_volume(pair.mask, None), expected))
        result = evaluate_case(
            task, common.one, common.two, pair.case, names=names, slices=_moved(slices, common),
            mask=mask, group=pair.group, settings=settings,
        )  # fmt: skip
        read = [
            f"{name}: {note}"
            for name, volume in zip(names, (made, expected), strict=True)
            for note in volume.metadata.get("notes", ())
        ]
        spacings[pair.case] = expected.geometry.spacing_zyx
        results.append(replace(result, notes=(*read, *common.notes)))
        if progress is not None:
            progress(done, len(found.pairs), pair.case)
    return _report(results, settings, spacings)


def _common(
    prediction: Volume,
    reference: Volume,
    names: tuple[str, str],
    files: tuple[Path, Path] | None,
    tolerance: float | None,
    task: Task | None,
) -> CommonGrid:
    """Both maps on one grid; the values of a regression have no background to fill a part that is missing."""
    return on_common_grid(
        prediction,
        reference,
        names=names,
        files=files,
        tolerance=TOLERANCE_VOXELS if tolerance is None else tolerance,
        pad=task is None or task.kind != "regression",
    )


def _moved(slices: Slices | None, common: CommonGrid) -> Slices | None:
    """Slices of the reference as slices of the common grid."""
    if slices is None:
        return None
    start, stop = slices
    before, own = -common.start[0], common.reference_depth
    return (start or 0) + before, (own if stop is None else min(stop, own)) + before


def _report(
    results: Sequence[CaseResult],
    settings: MetricSettings,
    spacings_zyx: Mapping[str, Sequence[float]],
) -> Report:
    report = Report(tuple(results), settings.to_dict(spacings_zyx))
    if isinstance(settings.tolerance_mm, Mapping) and results:
        for name in settings.tolerance_mm:
            if name not in report.labels:
                raise UnknownName("label", name, report.labels)
    return report


def evaluate_case(
    task: Task | None,
    prediction: Volume,
    reference: Volume,
    case_id: str,
    *,
    names: tuple[str, str] | None = None,
    slices: Slices | None = None,
    mask: NDArray[Any] | None = None,
    group: str | None = None,
    settings: MetricSettings | None = None,
) -> CaseResult:
    """Score one predicted map, in the geometry that both maps share.

    Args:
        task: what the values mean; None makes every value but 0 a label of its own. Predictions hold the `value` of
            each label, references its `values`, which are mostly the same.
        prediction, reference: label values [Z, Y, X], or one map a label [C, Z, Y, X]; float values of a regression.
        names: what to call the two in messages.
        slices: start and stop along z of the part that counts.
        mask: [Z, Y, X] or [1, Z, Y, X], above 0 where the reference counts.
        group: the patient or specimen of the case.
        settings: what is measured; without them what costs little: Dice and IoU, or the errors of a regression.

    Raises:
        GeometryMismatch: the maps lie on different grids.
        BadInput: a value that the task does not know.
    """
    names = names or (f"The prediction of '{case_id}'", "its reference")
    check_same(prediction.geometry, reference.geometry, names=names)
    part = slice(*slices) if slices else slice(None)
    made, expected = (_squeezed(v.array)[..., part, :, :] for v in (prediction, reference))
    if not expected.size:
        raise BadInput(
            f"No slices of {names[1]} lie in {slices}: it has {reference.geometry.shape_zyx[0]}."
        )
    maps = [(made, prediction.metadata, names[0]), (expected, reference.metadata, names[1])]
    task, (made, expected) = by_name(task, maps)
    valid = None if mask is None else np.asarray(_squeezed(mask)[part] > 0)
    spacing = reference.geometry.spacing_zyx
    if task is not None and task.kind == "regression":
        settings = settings or MetricSettings()
        wanted = in_group(settings.metrics, "regression") or REGRESSION
        found = score_values(task, made, expected, replace(settings, metrics=wanted), valid)
        return CaseResult(case_id, found, group)
    if task is not None and expected.ndim == 4:
        expected = labelled_channels(task, expected)
    if settings is not None and settings.instances:
        results = _score_instances(task, made, expected, spacing, settings, valid, names=names)
        return CaseResult(case_id, results, group, diagonal_mm(expected.shape, spacing))
    if task is not None:
        made = as_stored(task, made)
    values, histogram = _values(made, expected)
    if task is None:
        if expected.ndim == 4 or made.ndim == 4:
            raise BadInput(
                f"{names[1]} has one channel a label, and nothing says what the labels are.",
                hint="Evaluate against a data set whose dataset.json names them, or give a .seg.nrrd of 3D Slicer, "
                "which names its segments.",
            )
        asked = [int(n) for n in (settings and settings.labels) or () if n.isdecimal()]
        present = {*values[0], *values[1], *asked} - {0}
        task = classes_task({str(v): v for v in sorted(present)})
    task = in_one_map(
        task
    )  # channels are told by their order, values in one map as they were written
    for seen, name in zip(values, names, strict=True):
        check_values(task, seen, where=name)
    results = score_labels(
        task, made, expected, spacing, settings or MetricSettings(), valid, histogram=histogram
    )
    return CaseResult(case_id, results, group, diagonal_mm(expected.shape, spacing))


def as_stored(task: Task, made: NDArray[Any]) -> NDArray[Any]:
    """A predicted map with the values of label files, where the task writes others; the map itself where it does not.

    A region takes a value that none of the regions in it has.
    """
    moved: dict[int, int] = {}
    for label in task.foreground if made.ndim == 3 and not task.stacked else ():
        if label.values and label.value not in label.values:
            within = {
                v
                for one in task.foreground
                if set(one.values) < set(label.values)
                for v in one.values
            }
            moved[label.value] = next((v for v in label.values if v not in within), label.values[0])
    if not moved:
        return made
    out = made.astype(np.result_type(made.dtype, np.min_scalar_type(max(moved.values()))))
    for value, stored in moved.items():
        out[made == value] = stored
    return out


def _values(made: NDArray[Any], expected: NDArray[Any]) -> tuple[list[list[int]], Histogram | None]:
    """The values that either map holds, none where it has channels; and their joint histogram where neither has."""
    if made.ndim == 3 and made.shape == expected.shape:
        found, table = joint_histogram(made, expected)
        return [found[table.any(axis)].tolist() for axis in (1, 0)], (found, table)
    return [distinct_values(a) if a.ndim == 3 else [] for a in (made, expected)], None


def _score_instances(
    task: Task | None,
    made: NDArray[Any],
    expected: NDArray[Any],
    spacing_zyx: Sequence[float],
    settings: MetricSettings,
    valid: NDArray[np.bool_] | None,
    *,
    names: tuple[str, str],
) -> tuple[LabelResult, ...]:
    for array, name in zip((made, expected), names, strict=True):
        if array.ndim != 3:
            raise BadInput(f"{name} has {len(array)} channels where one map of instances is due.")
    ids = tuple(whole_numbers(a, where=n) for a, n in zip((made, expected), names, strict=True))
    if task is not None and task.ignore is not None:
        counted = np.asarray(expected != task.ignore)
        valid = counted if valid is None else counted & valid
    one, two = ((array != 0).astype(np.uint8) for array in ids)
    alone, settings = classes_task({"instances": 1}), replace(settings, labels=None)
    return score_labels(alone, one, two, spacing_zyx, settings, valid, instances=(ids[0], ids[1]))


def _squeezed(array: NDArray[Any]) -> NDArray[Any]:
    return array[0] if array.ndim == 4 and array.shape[0] == 1 else array


def _volume(item: Volume | ImageRef | Path | str, options: Mapping[str, Any] | None) -> Volume:
    if isinstance(item, Volume):
        return item
    return read_map(item if isinstance(item, ImageRef) else ImageRef(Path(item), options or {}))


def _mask_of(mask: Volume, reference: Volume) -> NDArray[Any]:
    check_same(mask.geometry, reference.geometry, names=("The mask", "its reference"))
    return mask.array


def read_map(ref: ImageRef) -> Volume:
    """A label map [Z, Y, X], or [C, Z, Y, X] where it has several channels, of the slices that belong to it."""
    volume = read_ref(ref)
    return replace(volume, array=_squeezed(volume.array))
