"""Maps with one channel a label whose file names the channels, such as the overlapping segments of 3D Slicer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Label, Task
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.labels import channel_names, labels_in

Map = tuple[NDArray[Any], Mapping[str, Any], str]
"""Values [Z, Y, X] or channels [C, Z, Y, X], what the file says besides, and what to call it in messages."""


def by_name(task: Task | None, maps: Sequence[Map]) -> tuple[Task | None, list[NDArray[Any]]]:
    """Maps with the channels that the task names, in its order; without a task, one of the names that channels have.

    A map of values beside one with named channels is cut into channels: by the names of its own values where the file
    has some, else value 1 is the first channel. Maps whose channels have no names stay as they are.

    Raises:
        BadInput: values beyond the number of named channels.
    """
    arrays = [array for array, _, _ in maps]
    named = [channel_names(metadata) if array.ndim == 4 else () for array, metadata, _ in maps]
    if not any(named) or (task is not None and task.kind == "regression"):
        return task, arrays
    if task is not None:
        wanted = [label.name for label in task.foreground]
        return task, [
            _picked(array, names, wanted) if set(names) & set(wanted) else array
            for array, names in zip(arrays, named, strict=True)
        ]
    for array, names in zip(arrays, named, strict=True):
        if array.ndim == 4 and not names:
            return None, arrays
    found = list(dict.fromkeys(name for names in reversed(named) for name in names))
    stacks = [
        _picked(array, names, found) if names else _cut(one, found)
        for array, names, one in zip(arrays, named, maps, strict=True)
    ]
    labels = tuple(Label(name, (i,), i) for i, name in enumerate(found, start=1))
    return Task("channels", labels, stacked=True), stacks


def _picked(array: NDArray[Any], names: Sequence[str], wanted: Sequence[str]) -> NDArray[Any]:
    out = np.zeros((len(wanted), *array.shape[1:]), array.dtype)
    for index, name in enumerate(wanted):
        for channel, own in zip(array, names, strict=True):
            if own == name:
                np.maximum(out[index], channel, out=out[index])
    return out


def _cut(one: Map, names: Sequence[str]) -> NDArray[Any]:
    array, metadata, where = one
    own = {label.name: label.value for label in labels_in(metadata)}
    values = own if set(own) & set(names) else {n: i for i, n in enumerate(names, start=1)}
    strange = sorted(set(distinct_values(array)) - {0, *values.values()})
    if strange:
        raise BadInput(
            f"{where} holds the value {strange[0]}, and the other map has the channels {', '.join(names)}.",
            hint="Without names of its own, value 1 is the first channel, 2 the second, and so on.",
        )
    return np.stack([array == values.get(name, -1) for name in names]).view(np.uint8)
