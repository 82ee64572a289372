"""Names of labels from the compared files: of channels, such as overlapping segments of 3D Slicer, and of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Label, Task
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.labels import channel_names, labels_in

Map = tuple[NDArray[Any], Mapping[str, Any], str]
"""Values [Z, Y, X] or channels [C, Z, Y, X], the metadata of the file, and its name in messages."""


def by_name(task: Task | None, maps: Sequence[Map]) -> tuple[Task | None, list[NDArray[Any]]]:
    """Reorder named channels to the labels of the task; without a task, make one from the names of the channels.

    A map of values that is compared with named channels is split into channels: by the names of its own values if the
    file has any, else value 1 is the first channel. Maps with unnamed channels stay unchanged.

    Raises:
        BadInput: a map of values has more values than there are named channels.
    """
    arrays = [array for array, _, _ in maps]
    named = [channel_names(metadata) if array.ndim == 4 else () for array, metadata, _ in maps]
    if not any(named) or (task is not None and task.kind == "regression"):
        return task, arrays
    if task is not None:
        labels = [label.name for label in task.foreground]
        return task, [
            _select(array, names, labels) if set(names) & set(labels) else array
            for array, names in zip(arrays, named, strict=True)
        ]
    for array, names in zip(arrays, named, strict=True):
        if array.ndim == 4 and not names:
            return None, arrays
    every = list(dict.fromkeys(name for names in reversed(named) for name in names))
    stacks = [
        _select(array, names, every) if names else _split(one, every)
        for array, names, one in zip(arrays, named, maps, strict=True)
    ]
    task_labels = tuple(Label(name, (i,), i) for i, name in enumerate(every, start=1))
    return Task("channels", task_labels, stacked=True), stacks


def names_of_values(maps: Sequence[Map]) -> dict[int, str]:
    """The names of values in the files of label maps, by value, as far as the files do not contradict each other."""
    names: dict[int, set[str]] = {}
    for _, metadata, _ in maps:
        for label in labels_in(metadata):
            names.setdefault(label.value, set()).add(label.name)
    alone = {value: found.pop() for value, found in names.items() if len(found) == 1}
    used = Counter(alone.values())
    return {value: name for value, name in alone.items() if used[name] == 1}


def _select(array: NDArray[Any], names: Sequence[str], selected: Sequence[str]) -> NDArray[Any]:
    """The channels with these names, in this order; channels of the same name are merged, missing ones are empty."""
    out = np.zeros((len(selected), *array.shape[1:]), array.dtype)
    for index, name in enumerate(selected):
        for channel, own in zip(array, names, strict=True):
            if own == name:
                np.maximum(out[index], channel, out=out[index])
    return out


def _split(one: Map, names: Sequence[str]) -> NDArray[Any]:
    """Split a map of values into one channel for each name."""
    array, metadata, where = one
    own = {label.name: label.value for label in labels_in(metadata)}
    values = own if set(own) & set(names) else {n: i for i, n in enumerate(names, start=1)}
    strange = sorted(set(distinct_values(array)) - {0, *values.values()})
    if strange:
        raise BadInput(
            f"{where} holds the value {strange[0]}, but the other map has the channels {', '.join(names)}.",
            hint="In a map without names, value 1 is the first channel, 2 the second, and so on.",
        )
    return np.stack([array == values.get(name, -1) for name in names]).view(np.uint8)
