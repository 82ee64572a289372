"""Several data sets as one: cases side by side, labels joined by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ctseg.config import DataConfig
from ctseg.data.readers.find import open_dataset
from ctseg.data.readers.layout import Splits
from ctseg.data.splits import all_folds, groups_of
from ctseg.errors import BadInput
from ctseg.specs import Case, DataSet, Label, Task
from ctseg.task import with_values_of


def dataset_of(config: DataConfig, grid: str = "") -> DataSet:
    """The data set of a run: that of `path`, joined with those of `also`.

    Args:
        grid: the channel onto whose grid the others are brought; the first one by default.

    Raises:
        FileProblem, BadInput: as `open_dataset`; or data sets that cannot be joined.
    """
    found = [
        open_dataset(
            Path(path),
            reader=config.reader,
            grid_tolerance=config.grid_tolerance,
            grid=grid,
            **config.options,
        )
        for path in (config.path, *config.also)
    ]
    return found[0] if len(found) == 1 else joined(found, config.folds)


def joined(datasets: Sequence[DataSet], folds: int = 5) -> DataSet:
    """Data sets of the same channels as one. A label that a data set does not have was not drawn in its cases.

    Fold n holds fold n of each; the cases of a data set that has no such fold train in it, as those of a single patient
    do in every fold. A case whose id occurs twice is named after its data set, too.

    Raises:
        BadInput: other channels, or tasks whose labels cannot be joined.
    """
    first = datasets[0]
    tasks = [_task(dataset) for dataset in datasets]
    for dataset in datasets[1:]:
        ours, theirs = ([c.casefold() for c in d.channels] for d in (first, dataset))
        if ours != theirs:
            raise BadInput(
                f"{first.name} has the channels {', '.join(first.channels)}, {dataset.name} has "
                f"{', '.join(dataset.channels)}.",
                hint="Name them alike: --option channels=..., or in dataset.json.",
            )
        kinds = (_task(first).kind, _task(dataset).kind)
        shared = Counter(value for label in _task(dataset).labels for value in label.values)
        if max(shared.values(), default=1) > 1:
            raise BadInput(
                f"Labels of {dataset.name} share values, so that they cannot be joined with those of {first.name}.",
                hint=f"Name {dataset.name} first: regions that share values may be those of the first data set alone.",
            )
        if kinds[0] != kinds[1]:
            raise BadInput(
                f"{first.name} has the task {kinds[0]}, {dataset.name} has {kinds[1]}: they cannot be joined."
            )
    task = _union(tasks)
    ids = Counter(case.id for dataset in datasets for case in dataset.cases)
    names = _distinct([dataset.name for dataset in datasets])
    readings = [None, *(with_values_of(task, own) for own in tasks[1:])]
    parts = [
        _renamed(dataset, name, ids, reading)
        for dataset, name, reading in zip(datasets, names, readings, strict=True)
    ]
    every = {label.name for label in task.foreground}
    cases = [
        replace(case, drawn=None) if every.issubset(case.drawn or every) else case
        for part, _ in parts
        for case in part
    ]
    licences = [dataset.licence for dataset in datasets]
    return DataSet(
        name=" + ".join(names),
        path=first.path,
        reader=first.reader,
        cases=tuple(cases),
        channels=first.channels,
        task=task,
        licence=" and ".join(dict.fromkeys(licences)) if all(licences) else "",
        reference="; ".join(filter(None, (d.reference or d.description for d in datasets))),
        splits=_splits(datasets, [ids for _, ids in parts], folds),
    )


def _task(dataset: DataSet) -> Task:
    task = dataset.task
    if task is None or not task.labels or task.kind == "regression" or task.stacked:
        raise BadInput(
            f"The labels of {dataset.name} cannot be joined with those of another data set: "
            f"{'they have no names' if task is None or not task.labels else 'they are no map of values'}.",
            hint="Name them in its dataset.json.",
        )
    return task


def _union(tasks: Sequence[Task]) -> Task:
    """All labels by name, those of the first task first, each with a value of its own."""
    labels = list(tasks[0].labels)
    taken = {value for label in labels for value in (*label.values, label.value)}
    for task in tasks[1:]:
        known = {label.name for label in labels}
        for label in task.foreground:
            if label.name not in known:
                value = max(taken, default=0) + 1
                taken.add(value)
                labels.append(Label(label.name, (value,), value, label.colour))
    ignore = tasks[0].ignore
    if ignore is None and any(task.ignore is not None for task in tasks):
        ignore = max(taken) + 1
    pairs = dict.fromkeys(pair for task in tasks for pair in task.mirror_pairs)
    return replace(tasks[0], labels=tuple(labels), ignore=ignore, mirror_pairs=tuple(pairs))


def _renamed(
    dataset: DataSet, name: str, ids: Mapping[str, int], reading: Task | None
) -> tuple[list[Case], dict[str, str]]:
    """The cases of a data set among others, and their new ids."""
    names = {
        case.id: f"{name}_{case.id}" if ids[case.id] > 1 else case.id for case in dataset.cases
    }
    own = tuple(label.name for label in _task(dataset).foreground)
    cases = [
        replace(
            case,
            id=names[case.id],
            drawn=own if case.drawn is None else case.drawn,
            task=reading,
        )
        for case in dataset.cases
    ]
    return cases, names


def _splits(datasets: Sequence[DataSet], ids: Sequence[Mapping[str, str]], folds: int) -> Splits:
    parts: list[Splits] = [
        all_folds(dataset, folds)
        if dataset.splits or len(groups_of(dataset)) > 1
        else ((tuple(case.id for case in dataset.cases), ()),)
        for dataset in datasets
    ]
    if not any(val for part in parts for _, val in part):
        return ()  # one patient each: dealt out like those of one data set
    count = max(len(part) for part in parts)
    out = []
    for fold in range(count):
        sides: tuple[list[str], list[str]] = ([], [])
        for part, names in zip(parts, ids, strict=True):
            train, val = part[fold % len(part)]
            if fold >= len(part):  # they have validated
                train, val = (*train, *val), ()
            for side, cases in zip(sides, (train, val), strict=True):
                side += [names[case] for case in cases]
        out.append((tuple(sides[0]), tuple(sides[1])))
    return tuple(out)


def _distinct(names: Sequence[str]) -> list[str]:
    counts = Counter(names)
    if all(count == 1 for count in counts.values()):
        return list(names)
    return [f"{name}{number}" for number, name in enumerate(names, start=1)]
