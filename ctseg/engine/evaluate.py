"""Predictions against references: read in pairs, compared on one grid, label by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ctseg.engine.pairs import Pairs, find_pairs
from ctseg.errors import BadInput
from ctseg.metrics.overlap import Counts, label_counts
from ctseg.metrics.report import CaseResult, LabelResult, Report, State
from ctseg.specs import DataSet, ImageRef, Task
from ctseg.task import check_values, classes_task
from ctseg.volume.geometry import check_same
from ctseg.volume.io import read_ref
from ctseg.volume.values import distinct_values
from ctseg.volume.volume import Volume

Slices = tuple[int | None, int | None]


def evaluate(
    prediction: Volume | Path | str,
    reference: Volume | DataSet | Path | str,
    *,
    task: Task | None = None,
    cases: Sequence[str] | None = None,
    slices: Slices | None = None,
    prediction_options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Compare predicted label maps with reference ones.

    Args:
        prediction: a volume, a file, or a folder of files named after their cases.
        reference: a volume, a file, a folder of files, a data set's path, or a data set.
        task: what the label values mean; taken from `predictions.json` or the data set where it is not given,
            and otherwise every value but 0 is a label of its own.
        cases: the only case ids to evaluate; without it every case must be on both sides.
        slices: start and stop along z of the part that counts.
        prediction_options, reference_options: for the formats' `open`, e.g. `{"dataset": "/label"}`.
        progress: called with the number done, the total and the case's id.

    Raises:
        FileProblem: a file that is missing or cannot be read.
        GeometryMismatch: a prediction on another grid than its reference.
        BadInput: a case without its fellow, or a value that the task does not know.

    Example:
        >>> evaluate(mask, reference).dice
        {'1': 0.91}
    """
    if isinstance(prediction, Volume) or isinstance(reference, Volume):
        if isinstance(reference, DataSet):
            raise BadInput(
                "A data set is compared with a folder of predictions, not with one volume."
            )
        made = _volume(prediction, prediction_options)
        expected = _volume(reference, reference_options)
        return Report((evaluate_case(task, made, expected, "case", slices=slices),))
    found = find_pairs(
        Path(prediction),
        reference if isinstance(reference, DataSet) else Path(reference),
        cases=cases,
        prediction_options=prediction_options,
        reference_options=reference_options,
    )
    return _evaluate_pairs(found, task or found.task, slices, progress)


def _evaluate_pairs(
    found: Pairs,
    task: Task | None,
    slices: Slices | None,
    progress: Callable[[int, int, str], None] | None,
) -> Report:
    results = []
    for done, pair in enumerate(found.pairs, start=1):
        names = (str(pair.prediction.path), str(pair.reference.path))
        made, expected = read_map(pair.prediction), read_map(pair.reference)
        result = evaluate_case(task, made, expected, pair.case, names=names, slices=slices)
        if found.labels is not None:  # what nobody asked the prediction for was not missed
            kept = tuple(item for item in result.labels if item.label in found.labels)
            result = replace(result, labels=kept)
        results.append(result)
        if progress is not None:
            progress(done, len(found.pairs), pair.case)
    return Report(tuple(results))


def evaluate_case(
    task: Task | None,
    prediction: Volume,
    reference: Volume,
    case_id: str,
    *,
    names: tuple[str, str] | None = None,
    slices: Slices | None = None,
) -> CaseResult:
    """Score one predicted map, in the geometry that both maps share.

    Args:
        task: what the values mean; None makes every value but 0 a label of its own.
        prediction, reference: label values [Z, Y, X], or one map a label [C, Z, Y, X].
        names: what to call the two in messages.
        slices: start and stop along z of the part that counts.

    Raises:
        GeometryMismatch: the maps lie on different grids.
        BadInput: a value that the task does not know, or a task without labels.
    """
    names = names or (f"The prediction of '{case_id}'", "its reference")
    check_same(prediction.geometry, reference.geometry, names=names)
    part = slice(*slices) if slices else slice(None)
    made, expected = (_squeezed(v.array)[..., part, :, :] for v in (prediction, reference))
    if not expected.size:
        raise BadInput(
            f"No slices of {names[1]} lie in {slices}: it has {reference.geometry.shape_zyx[0]}."
        )
    values = [distinct_values(array) if array.ndim == 3 else [] for array in (made, expected)]
    if task is None:
        if expected.ndim == 4 or made.ndim == 4:
            raise BadInput(
                f"{names[1]} has one channel a label, and nothing says what the labels are.",
                hint="Evaluate against a data set whose dataset.json names them.",
            )
        task = classes_task({str(v): v for v in sorted({*values[0], *values[1]} - {0})})
    if task.kind == "regression":
        raise BadInput("A regression task has no labels to compare.")
    for found, name in zip(values, names, strict=True):
        check_values(replace(task, stacked=False), found, where=name)
    counts = label_counts(task, made, expected)
    ml = reference.geometry.voxel_volume_mm3 / 1000
    return CaseResult(case_id, tuple(_result(name, c, ml) for name, c in counts.items()))


def _result(label: str, counts: Counts, ml: float) -> LabelResult:
    state: State = "both"
    if not counts.reference:
        state = "invented" if counts.predicted else "absent"
    elif not counts.predicted:
        state = "missed"
    return LabelResult(
        label=label,
        dice=counts.dice,
        iou=counts.iou,
        predicted_ml=counts.predicted * ml,
        reference_ml=counts.reference * ml,
        state=state,
    )


def _squeezed(array: NDArray[Any]) -> NDArray[Any]:
    return array[0] if array.ndim == 4 and array.shape[0] == 1 else array


def _volume(item: Volume | Path | str, options: Mapping[str, Any] | None) -> Volume:
    return item if isinstance(item, Volume) else read_map(ImageRef(Path(item), options or {}))


def read_map(ref: ImageRef) -> Volume:
    """A label map [Z, Y, X], or [C, Z, Y, X] where it has several channels, of the slices that belong to it."""
    volume = read_ref(ref)
    return replace(volume, array=_squeezed(volume.array))
