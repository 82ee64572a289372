"""The task of a run: from the run file, else from the data set, else from the values in its label files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ctseg.config import TaskConfig
from ctseg.data.large_scans import label_values
from ctseg.data.load import as_label
from ctseg.errors import BadInput, ConfigError, UnknownName
from ctseg.specs import Case, DataSet, Label, Task
from ctseg.task import classes_task, undrawn
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.io import open_ref


def task_of(config: TaskConfig | None, dataset: DataSet) -> Task:
    """The task of a run: as the run file declares it, else as the data set does, else every label value is a class.

    A run file may leave the labels to the data set and set only an ignore value or mirror pairs.

    Raises:
        ConfigError: the labels cannot be learnt as they are declared.
        UnknownName: a name in mirror pairs is no label; a label that was drawn in a case has another name in the run
            file.
    """
    task = _declared(config, dataset)
    known = [label.name for label in task.labels]
    for name in (name for pair in task.mirror_pairs for name in pair):
        if name not in known:
            raise UnknownName("label", name, known)
    names = () if dataset.task is None else [label.name for label in dataset.task.foreground]
    if not {label.name for label in task.foreground}.issubset(names):
        for case in dataset.cases:
            undrawn(task, case.drawn)  # under another name it would not count as drawn
    return task


def _declared(config: TaskConfig | None, dataset: DataSet) -> Task:
    if config is not None and config.labels:
        return checked(config.task())
    declared = dataset.task is not None and dataset.task.kind == "regression"
    if declared or (config is not None and config.kind == "regression"):
        return values_task(config, dataset)
    task = dataset.task
    if config is not None and config.kind == "channels" and (not task or task.kind != "channels"):
        raise ConfigError(
            "task.kind is 'channels', and neither [task] nor the data set names the channels.",
            hint='Name them in the run file: labels = [{name = "pore", values = [1], value = 1}, ...]',
        )
    ignore = config.ignore if config is not None else None
    if ignore is None and task is not None:
        ignore = task.ignore
    if task is None or not task.labels:
        task = find_task(dataset, dataset.cases, ignore=ignore)
    pairs = config.mirror_pairs if config is not None else ()
    if not pairs:  # a reader may know a pair of which this data set has one label
        known = {label.name for label in task.labels}
        pairs = tuple(pair for pair in task.mirror_pairs if known.issuperset(pair))
    return dataclasses.replace(task, ignore=ignore, mirror_pairs=pairs)


def checked(task: Task) -> Task:
    """Check the task of a run file and return it.

    Raises:
        ConfigError: two labels of one name, or classes of which none is the background or that share a value.
    """
    names = [label.name for label in task.labels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"[task] has two labels of the name '{twice}'.", hint="Rename one.")
    if task.kind != "classes":
        return task
    values = [value for label in task.labels for value in label.values]
    shared = next((value for value in values if values.count(value) > 1), None)
    if shared is not None:
        raise ConfigError(
            f"The value {shared} belongs to two labels of [task], but a voxel has one class.",
            hint='Labels that share values are channels: kind = "channels"',
        )
    if task.ignore != 0 and 0 not in values:
        raise ConfigError(
            f"No label of [task] has the value 0; '{task.labels[0].name}', the first of them, would be taken for "
            "the background.",
            hint='Begin with {name = "background", values = [0], value = 0}',
        )
    return task


def find_task(dataset: DataSet, cases: Sequence[Case], *, ignore: int | None = None) -> Task:
    """The task of a data set that does not declare one: every value in the labels is a class.

    Args:
        ignore: value of unlabelled voxels, which is not a class.
    """
    values: set[int] = set()
    for case in cases:
        if case.label is None:
            continue
        found_values = label_values(case)
        if found_values is not None:
            values.update(found_values)
            continue
        source = open_ref(case.label)
        try:
            if source.channels != 1:
                raise BadInput(
                    f"The labels of {dataset.name} have {source.channels} channels and nothing names them.",
                    hint="Name them in [task] of a run file with kind = 'channels' and stacked = true.",
                )
            label = as_label(source.read(), classes_task({}), where=str(case.label.path))
        finally:
            source.close()
        values.update(distinct_values(label))
    values -= set() if ignore is None else {ignore}
    if not values - {0}:
        raise BadInput(
            f"No label value other than 0 was found in {dataset.path}.",
            hint="Look at what the reader sees: ctseg data inspect " + str(dataset.path),
        )
    if len(values) > 256 or min(values) < 0:
        raise BadInput(
            f"The labels of {dataset.name} hold {len(values)} values from {min(values)} to {max(values)}; "
            "are they label maps?",
            hint=f"Where {min(values)} marks what nobody labelled: --set task.ignore={min(values)}"
            if min(values) < 0
            else None,
        )
    names = {f"class_{v}" if v else "background": v for v in sorted(values)}
    return classes_task(names, ignore=ignore)


def values_task(config: TaskConfig | None, dataset: DataSet) -> Task:
    """The task of a regression without named labels: one output channel for each channel of the targets.

    The channels are named as in the data set, else `value`, or `value_0`, `value_1`, ...
    """
    ignore = None if config is None else config.ignore
    if dataset.task is not None and dataset.task.labels and dataset.task.kind != "classes":
        named = [label.name for label in dataset.task.labels]
    else:
        case = next((c for c in dataset.cases if c.label is not None), None)
        if case is None or case.label is None:
            raise BadInput(f"No case of {dataset.name} has a target.")
        source = open_ref(case.label)
        try:
            count = source.channels
        finally:
            source.close()
        named = ["value"] if count == 1 else [f"value_{index}" for index in range(count)]
    labels = tuple(Label(name, (), number) for number, name in enumerate(named, start=1))
    return Task("regression", labels, ignore=ignore)
