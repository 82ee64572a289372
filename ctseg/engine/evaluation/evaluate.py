"""`evaluate`: compares predictions with references, in pairs, on one grid and label by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.evaluation.case_maps import CaseMaps, Slices
from ctseg.engine.evaluation.channel_names import by_name, names_of_values
from ctseg.engine.evaluation.matching import Pairs, find_pairs
from ctseg.engine.evaluation.overlapping import as_one_map_shows
from ctseg.engine.evaluation.read_maps import common_grid, mask_of, read_maps, squeezed, volume_of
from ctseg.errors import BadInput, UnknownName
from ctseg.metrics.aligned import Look
from ctseg.metrics.case import MetricSettings, diagonal_mm, score_labels, score_values
from ctseg.metrics.catalogue import OF_VALUES, REGRESSION, in_group, labels_only, resolve
from ctseg.metrics.overlap import Histogram, confusion, joint_histogram, valid_histogram
from ctseg.metrics.pairs import MapPair
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.specs import DataSet, Task
from ctseg.task import check_values, classes_task, in_one_map, labelled_channels
from ctseg.volume.distinct_values import distinct_values, whole_numbers
from ctseg.volume.geometry import check_same
from ctseg.volume.lattice import CommonGrid
from ctseg.volume.volume import Volume


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
    look: Look | None = None,
) -> Report:
    """Compare predicted label maps with reference ones, or the values of a regression with their targets.

    Args:
        prediction: a volume, a file, or a folder of files named after their cases.
        reference: a volume, a file, a folder of files, a data set's path, or a data set.
        task: meaning of the label values; by default taken from `predictions.json` or the data set, or else every
            value but 0 is a label of its own.
        cases: ids of the cases to evaluate; by default all, and each must have a prediction and a reference.
        slices: start and stop along z of the evaluated slices.
        metrics: names and groups of `ctseg.metrics.catalogue`, or one string with commas; by default Dice, IoU and the
            surface metrics.
        labels: names of the labels to score; all by default.
        tolerance_mm: tolerance of the surface Dice, for all labels or by name; by default 1 mm, or two voxels if these
            are smaller than 0.1 mm.
        iou_thresholds: IoU thresholds for matching instances, for the average precision.
        data_range: intensity range for PSNR; by default the range of each target.
        instances: the values are ids of instances (grains, cells, fibres) instead of labels. The ids of the two maps
            may differ, and all instances are scored under the label `instances`.
        mask: evaluated region (above 0) of the reference, for a single case; a data set names the mask of each case.
        grid_tolerance: largest offset between the voxels of the two maps, as a fraction of a voxel; 0.001 by default.
        prediction_options, reference_options: options for the formats' `open`, e.g. `{"dataset": "/label"}`.
        progress: called with (cases done, total, id of the case).
        look: called with the maps of each case as they are compared, for pictures.

    Raises:
        FileProblem: a file is missing or unreadable.
        GeometryMismatch: the voxels of a prediction differ from those of its reference. The axes may be stored in
            another order or direction, and a prediction may cover a part of the scan: the rest counts as background.
        BadInput: a case without a prediction or reference, or a value that the task does not have.
        UnknownName: a metric or label that does not exist.

    Example:
        >>> evaluate(mask, reference).dice
        {'1': 0.91}
    """
    if instances and labels is not None:
        raise BadInput(
            "The names of labels have no effect on ids of instances, which are scored together.",
            hint="Leave out --labels, or --instance-ids.",
        )
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
        _check_metrics(task, metrics)
        expected = volume_of(reference, reference_options)
        names = ("The prediction of 'case'", "its reference")
        common = common_grid(
            volume_of(prediction, prediction_options), expected, names, None, grid_tolerance, task
        )
        region = None if mask is None else common.to_common(mask_of(volume_of(mask), expected))
        maps = CaseMaps(
            common.one, common.two, "case", slices=_on_common_grid(slices, common), mask=region,
            look=look,
        )  # fmt: skip
        result = evaluate_case(task, maps, settings)
        result = replace(result, notes=(*common.notes, *result.notes))
        return _report([result], settings, {"case": expected.geometry.spacing_zyx})
    pairs = find_pairs(
        Path(prediction),
        reference if isinstance(reference, DataSet) else Path(reference),
        cases=cases,
        prediction_options=prediction_options,
        reference_options=reference_options,
    )
    if mask is not None:
        if len(pairs.pairs) != 1:
            raise BadInput(
                f"One mask was given for {len(pairs.pairs)} cases.",
                hint="Evaluate one case, or name the mask of each case in a data set.",
            )
        pairs = replace(pairs, pairs=(replace(pairs.pairs[0], mask=mask),))
    if grid_tolerance is not None:
        pairs = replace(pairs, grid_tolerance=grid_tolerance)
    if task is not None:
        pairs = replace(pairs, task=task, foreign=())
    _check_metrics(pairs.task, metrics)
    return _evaluate_pairs(pairs, slices, settings, progress, look)


def _check_metrics(task: Task | None, metrics: Sequence[str] | str | None) -> None:
    """Refuse metrics of labels that are named for a regression; `all` there means all that it has."""
    if task is None or task.kind != "regression" or metrics is None:
        return
    names = resolve(metrics)
    others = [name for name in names if name not in in_group(names, OF_VALUES)]
    if others and tuple(others) != labels_only():
        raise BadInput(
            f"The metric '{others[0]}' has no effect on a regression, which has no labels.",
            hint=f"Leave out --metrics, or name some of: {', '.join(REGRESSION)}",
        )


def _evaluate_pairs(
    pairs: Pairs,
    slices: Slices | None,
    settings: MetricSettings,
    progress: Callable[[int, int, str], None] | None,
    look: Look | None,
) -> Report:
    if pairs.labels is not None:  # score only the labels that the prediction was restricted to
        for name in settings.labels or ():
            if name not in pairs.labels:
                raise UnknownName("predicted label", name, pairs.labels)
        settings = replace(settings, labels=settings.labels or pairs.labels)
    results, spacings = [], {}
    for done, pair in enumerate(pairs.pairs, start=1):
        maps, common = read_maps(pair, pairs.task, pairs.grid_tolerance)
        part = _on_common_grid(slices, common)
        shown = pair.drawn if pairs.labels is None else pairs.labels
        maps = replace(maps, slices=part, shown=shown, foreign=pairs.foreign, look=look)
        result = evaluate_case(pairs.task, maps, settings)
        reading_notes = [
            f"{name}: {note}"
            for name, volume in zip(maps.names or (), (common.one, common.two), strict=True)
            for note in volume.metadata.get("notes", ())
        ]
        spacings[pair.case] = common.two.geometry.spacing_zyx
        notes = (*pair.notes, *reading_notes, *common.notes, *result.notes)
        results.append(replace(result, notes=notes))
        if progress is not None:
            progress(done, len(pairs.pairs), pair.case)
    return _report(results, settings, spacings)


def _on_common_grid(slices: Slices | None, common: CommonGrid) -> Slices | None:
    """Convert slices of the reference to slices of the common grid."""
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
    task: Task | None, maps: CaseMaps, settings: MetricSettings | None = None
) -> CaseResult:
    """Score one predicted map against its reference.

    Args:
        task: meaning of the values; None makes every value but 0 a label of its own, named as the files name it.
            Predictions hold the `value` of each label, references its `values`, which are usually the same.
        settings: metrics to compute; by default the fast ones: Dice and IoU, or the errors of a regression.

    Raises:
        GeometryMismatch: the grids of the maps differ.
        BadInput: a value that the task does not have.
    """
    prediction, reference, case_id, group = (
        maps.prediction,
        maps.reference,
        maps.case_id,
        maps.group,
    )
    names = maps.names or (f"The prediction of '{case_id}'", "its reference")
    check_same(prediction.geometry, reference.geometry, names=names)
    part = slice(*maps.slices) if maps.slices else slice(None)
    predicted, expected = (squeezed(v.array)[..., part, :, :] for v in (prediction, reference))
    if not expected.size:
        raise BadInput(
            f"No slices of {names[1]} lie in {maps.slices}: it has {reference.geometry.shape_zyx[0]} slices."
        )
    told = [(predicted, prediction.metadata, names[0]), (expected, reference.metadata, names[1])]
    task, (predicted, expected) = by_name(task, told)
    valid = None if maps.valid is None else maps.valid[part]
    spacing = reference.geometry.spacing_zyx
    if task is not None and task.kind == "regression":
        maps.show(task, predicted, expected)
        settings = settings or MetricSettings()
        metrics = in_group(settings.metrics, OF_VALUES) or REGRESSION
        results = score_values(task, predicted, expected, replace(settings, metrics=metrics), valid)
        return CaseResult(case_id, results, group)
    notes: tuple[str, ...] = ()
    if task is not None and expected.ndim == 4:
        expected = labelled_channels(task, expected)
        if predicted.ndim == 3:
            expected, notes = as_one_map_shows(task, expected, maps.shown)
    if settings is not None and settings.instances:
        pair = MapPair(predicted, expected, spacing, valid)
        maps.show(None, predicted, expected)
        results = _score_instances(task, pair, settings, names)
        return CaseResult(case_id, results, group, diagonal_mm(expected.shape, spacing))
    if task is not None:
        predicted = as_stored(task, predicted)
        expected = maps.without_foreign(task, expected)
    values, histogram = _values(predicted, expected)
    if task is None:
        if expected.ndim == 4 or predicted.ndim == 4:
            raise BadInput(
                f"{names[1]} has one channel for each label, but no file names the labels of the channels.",
                hint="Evaluate against a data set whose dataset.json names them, or give a .seg.nrrd of 3D Slicer, "
                "which names its segments.",
            )
        known = names_of_values(told)
        wanted = (settings and settings.labels) or ()
        named = {int(n) for n in wanted if n.isdecimal()} | {
            value for value, name in known.items() if name in wanted
        }
        present = {*values[0], *values[1], *named} - {0}
        task = classes_task({known.get(v, str(v)): v for v in sorted(present)})
    task = in_one_map(
        task
    )  # labels of channels are known by order, those of one map by written value
    for own, name in zip(values, names, strict=True):
        check_values(task, own, where=name)
    maps.show(task, predicted, expected)
    if histogram is not None and valid is not None:
        histogram = valid_histogram(predicted, expected, valid)
    pair = MapPair(predicted, expected, spacing, valid, histogram=histogram)
    results = score_labels(task, pair, settings or MetricSettings())
    counts = {} if histogram is None else confusion(task, histogram)
    ml = reference.geometry.voxel_volume_mm3 / 1000
    confusion_ml = {
        name: {other: n * ml for other, n in row.items()} for name, row in counts.items()
    }
    diagonal = diagonal_mm(expected.shape, spacing)
    if maps.drawn is not None:  # a voxel that nobody drew may be of any label that nobody drew
        results, confusion_ml = tuple(r for r in results if r.label in maps.drawn), {}
    return CaseResult(case_id, results, group, diagonal, notes, confusion_ml)


def as_stored(task: Task, predicted: NDArray[Any]) -> NDArray[Any]:
    """Convert the values that a task writes to those of its label files; returns the map itself if they are the same.

    A region takes a value that none of its subregions has; a label that the label files do not have becomes background.
    """
    stored_values: dict[int, int] = {}
    for label in task.foreground if predicted.ndim == 3 and not task.stacked else ():
        if not label.values:
            stored_values[label.value] = 0
        elif label.value not in label.values:
            within = {
                v
                for one in task.foreground
                if set(one.values) < set(label.values)
                for v in one.values
            }
            stored_values[label.value] = next(
                (v for v in label.values if v not in within), label.values[0]
            )
    if not stored_values:
        return predicted
    largest = np.min_scalar_type(max(stored_values.values()))
    out = predicted.astype(np.result_type(predicted.dtype, largest))
    for value, stored in stored_values.items():
        out[predicted == value] = stored
    return out


def _values(
    predicted: NDArray[Any], expected: NDArray[Any]
) -> tuple[list[list[int]], Histogram | None]:
    """The values of each map (empty for channels), and their joint histogram if neither has channels."""
    if predicted.ndim == 3 and predicted.shape == expected.shape:
        values, table = joint_histogram(predicted, expected)
        return [values[table.any(axis)].tolist() for axis in (1, 0)], (values, table)
    return [distinct_values(a) if a.ndim == 3 else [] for a in (predicted, expected)], None


def _score_instances(
    task: Task | None, maps: MapPair, settings: MetricSettings, names: tuple[str, str]
) -> tuple[LabelResult, ...]:
    """Results of maps whose values are ids of instances."""
    valid, both = maps.valid, (maps.predicted, maps.reference)
    for array, name in zip(both, names, strict=True):
        if array.ndim != 3:
            raise BadInput(f"{name} has {len(array)} channels; instances need a single map of ids.")
    ids = tuple(whole_numbers(a, where=n) for a, n in zip(both, names, strict=True))
    if task is not None and task.ignore is not None:
        counted = np.asarray(maps.reference != task.ignore)
        valid = counted if valid is None else counted & valid
    one, two = ((array != 0).astype(np.uint8) for array in ids)
    single, settings = classes_task({"instances": 1}), replace(settings, labels=None)
    pair = MapPair(one, two, maps.spacing_zyx, valid, instances=(ids[0], ids[1]))
    return score_labels(single, pair, settings)
