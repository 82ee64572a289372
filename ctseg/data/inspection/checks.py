"""What an experienced person sees in a data set beyond single files: CT that is none, missing voxel sizes, folds."""

from __future__ import annotations

from collections.abc import Iterable

from ctseg.config import DataConfig
from ctseg.data.inspection.hounsfield import (
    impossible_ct,
    is_ct,
    shifted_ct,
    unnamed_ct,
    unshifted_ct,
)
from ctseg.data.inspection.report import CaseReport, DataReport, Intensity
from ctseg.data.readers.layout import some
from ctseg.data.splits import fold_cases
from ctseg.errors import BadInput
from ctseg.specs import DataSet

_UNSIZED = (
    "voxel size is unknown",
    "no voxel size",
    "no ElementSpacing",
    "no spacing for all axes",
)
_UNPLACED = "neither sform nor qform"


def check_dataset(report: DataReport, dataset: DataSet) -> None:
    """Add what concerns several cases, or a case beside the others, to a report."""
    report.problems += unsized(report.cases)
    for index, name in enumerate(report.channels):
        if is_ct(name):
            check_ct(report.cases, index)
    report.problems += untrained_labels(dataset, report.cases)
    ranges = [[(i.low, i.high) for i in case.intensity] for case in report.cases if case.intensity]
    note = unnamed_ct(dataset, ranges)
    if note is not None:
        report.notes.append(note)


def check_ct(cases: Iterable[CaseReport], index: int) -> None:
    """Add problems of the values of a CT channel to their cases."""
    known: list[tuple[CaseReport, Intensity]] = [
        (case, case.intensity[index]) for case in cases if len(case.intensity) > index
    ]
    for case, values in known:
        others = [(other.low, other.p005) for one, other in known if one is not case]
        problem = (
            impossible_ct(values.low, values.high)
            or shifted_ct((values.low, values.p005), others)
            or unshifted_ct(values.low, values.p005, values.p995)
        )
        if problem is not None and values.low < values.high:
            case.problems.append(f"{problem}.")


def is_unsized(case: CaseReport) -> bool:
    """Whether the header of the first image has no voxel size."""
    lost = case.spacing_xyz == (1.0, 1.0, 1.0) and any(_UNPLACED in note for note in case.notes)
    return lost or any(phrase in note for note in case.notes for phrase in _UNSIZED)


def unsized(cases: Iterable[CaseReport]) -> list[str]:
    """A sentence on cases whose voxel size nobody knows."""
    read = [case for case in cases if case.spacing_xyz is not None]
    without = [case.id for case in read if is_unsized(case)]
    if not without:
        return []
    return [
        f"The headers of {len(without)} of {len(read)} scans have no voxel size, and 1 mm is taken: {some(without)}."
    ]


def untrained_labels(dataset: DataSet, cases: Iterable[CaseReport]) -> list[str]:
    """Labels of the data set that no training case of a fold holds."""
    held = {
        case.id: {size.name for size in case.labels if size.voxels} for case in cases if case.labels
    }
    seen = dict.fromkeys(name for names in held.values() for name in sorted(names))
    found = []
    for fold, train in enumerate(_training_cases(dataset)):
        if not all(name in held for name in train):
            continue  # one could not be read
        lacking = [name for name in seen if not any(name in held[case] for case in train)]
        if lacking:
            found.append(
                f"In fold {fold} no training case holds {', '.join(f'{name!r}' for name in lacking)}."
            )
    return found


def _training_cases(dataset: DataSet) -> list[tuple[str, ...]]:
    """The training cases of each fold; none where there are no folds."""
    if dataset.splits:
        return [train for train, _ in dataset.splits]
    found = []
    for fold in range(DataConfig().folds):
        try:
            found.append(fold_cases(dataset, fold)[0])
        except BadInput:  # fewer groups than folds
            break
    return found
