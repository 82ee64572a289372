"""Functions of a task: targets from label maps, activation of logits, labels from logits.

`ctseg.specs.Task` holds the data; these functions implement its behaviour. NumPy and torch are imported lazily.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctseg.errors import BadInput, UnknownName
from ctseg.specs import Label, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 155, 127), (132, 145, 180),
    (145, 209, 194), (220, 200, 70), (126, 97, 72), (176, 156, 133), (60, 84, 136),
)  # fmt: skip


def classes_task(names: Mapping[str, int], *, ignore: int | None = None) -> Task:
    """A task of exclusive classes from `{name: value}`; the value 0 is the background and comes first."""
    ordered = sorted(names.items(), key=lambda item: item[1])
    if not ordered or ordered[0][1] != 0:
        ordered.insert(0, ("background", 0))
    return Task("classes", tuple(Label(n, (v,), v) for n, v in ordered), ignore=ignore)


def colour_of(task: Task, index: int) -> tuple[int, int, int]:
    """The colour of the label at a foreground index: its own, or one from the palette."""
    label = task.foreground[index]
    return label.colour or PALETTE[index % len(PALETTE)]


def label_dtype(task: Task) -> str:
    """The smallest unsigned integer type that holds every written value."""
    highest = max([label.value for label in task.labels], default=0)
    return "uint8" if highest < 256 else "uint16" if highest < 65536 else "uint32"


def check_values(task: Task, values: Iterable[int], *, where: str) -> None:
    """Reject label values that the task does not have.

    Args:
        values: the distinct values of a label map.
        where: name of the file, for the message.
    """
    if task.kind == "regression":
        return
    known = {v for label in task.labels for v in label.values} | {0}
    if task.stacked:
        known = {0, 1}
    if task.ignore is not None:
        known.add(task.ignore)
    strange = sorted(set(values) - known)
    if strange:
        raise BadInput(
            f"{where} holds the label value{'s' if len(strange) > 1 else ''} "
            f"{', '.join(map(str, strange[:8]))}{'...' if len(strange) > 8 else ''}, "
            f"but the task knows {', '.join(map(str, sorted(known)))}.",
            hint="Add the value to the labels of dataset.json (or [task] in the run file), or name it as "
            "the ignore value: --set task.ignore=VALUE",
        )


def labelled_channels(task: Task, label_czyx: NDArray[Any]) -> NDArray[Any]:
    """Select the channels of a stacked label that the task names, in its order.

    If the task has fewer labels than the file has channels, `values` of a label is its channel number, from 1 on.
    """
    numbers = [label.values[0] for label in task.labels if len(label.values) == 1]
    fewer = len(task.labels) < len(label_czyx)
    if not task.stacked or not fewer or len(numbers) != len(task.labels):
        return label_czyx
    valid = min(numbers) >= 1 and max(numbers) <= len(label_czyx)
    return label_czyx[[n - 1 for n in numbers]] if valid else label_czyx


def may_overlap(task: Task) -> bool:
    """Whether labels have a channel each, so that a map of one value a voxel cannot show all of them."""
    return task.kind == "channels" and task.stacked and len(task.labels) > 1


def encode(task: Task, label: NDArray[Any]) -> NDArray[Any]:
    """Convert a label map to the network's target.

    Args:
        label: stored values, [Z, Y, X] or, for stacked channels and regression, [C, Z, Y, X].

    Returns:
        `classes`: int16 [Z, Y, X] of class indices, -1 where ignored.
        `channels`: int8 [C, Z, Y, X] of 0 and 1, -1 where ignored.
        `regression`: float32 [C, Z, Y, X], NaN where ignored.
    """
    import numpy as np

    if task.kind == "regression":
        target: NDArray[Any] = label.astype(np.float32)
        target = target[None] if target.ndim == 3 else target
        if task.ignore is not None:
            target = np.where(target == task.ignore, np.float32(np.nan), target)
        return target
    ignored = None if task.ignore is None else label == task.ignore
    if task.kind == "classes":
        out = np.zeros(label.shape, np.int16)
        for index, item in enumerate(task.labels[1:], start=1):
            out[np.isin(label, item.values)] = index
        if ignored is not None:
            out[ignored] = -1
        return out
    if task.stacked:
        stacked: NDArray[Any] = (label != 0).astype(np.int8)
        if ignored is not None:
            stacked[ignored] = -1
        return stacked
    parts = [np.isin(label, item.values) for item in task.labels]
    regions: NDArray[Any] = np.stack(parts).astype(np.int8)
    if ignored is not None:
        regions[:, ignored] = -1
    return regions


def activate(task: Task, logits_bczyx: torch.Tensor) -> torch.Tensor:
    """Apply the task's activation to logits [B, C, ...]: softmax, sigmoid or, for regression, none."""
    if task.kind == "classes":
        return logits_bczyx.float().softmax(1)
    return logits_bczyx.float().sigmoid() if task.kind == "channels" else logits_bczyx.float()


def decode(task: Task, logits_czyx: torch.Tensor) -> torch.Tensor:
    """Convert logits [C, Z, Y, X] to a map of label values [Z, Y, X] (int32).

    For `channels`, a label is present where its logit is above 0 (a probability above 0.5); if several are present,
    the last one in the task's order is written, as in nnU-Net's ordered regions.
    """
    import torch

    if task.kind == "regression":
        raise BadInput(
            "A regression has no label map.",
            hint="It predicts values: use `values_of`.",
        )
    values = torch.tensor([label.value for label in task.labels], dtype=torch.int32)
    values = values.to(logits_czyx.device)
    if task.kind == "classes":
        return values[logits_czyx.argmax(0)]
    out = torch.zeros(logits_czyx.shape[1:], dtype=torch.int32, device=logits_czyx.device)
    for index in range(len(task.labels)):
        out[logits_czyx[index] > 0] = values[index]
    return out


def values_of(
    logits_czyx: torch.Tensor, scale: tuple[Sequence[float], Sequence[float]] | None
) -> torch.Tensor:
    """The values of a regression [C, Z, Y, X], in the unit of its target.

    Args:
        logits_czyx: the network's output.
        scale: mean and standard deviation of each channel in training; None if targets were not scaled.
    """
    if scale is None:
        return logits_czyx.float()
    mean, std = (logits_czyx.new_tensor(numbers).float() for numbers in scale)
    return logits_czyx.float() * std[:, None, None, None] + mean[:, None, None, None]


def in_one_map(task: Task) -> Task:
    """The same task for a single map of written values [Z, Y, X], instead of stacked channels."""
    if not task.stacked:
        return task
    labels = tuple(replace(label, values=(label.value,)) for label in task.labels)
    return replace(task, stacked=False, labels=labels)


def masks(task: Task, label: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """One boolean map [Z, Y, X] for each foreground label, from a map of stored or written values."""
    import numpy as np

    if task.stacked and label.ndim == 4:
        label = labelled_channels(task, label)
        ignored = -1 if task.ignore is None else task.ignore  # may be above 0
        return {
            item.name: (label[i] > 0) & (label[i] != ignored) for i, item in enumerate(task.labels)
        }
    return {item.name: np.isin(label, item.values) for item in in_one_map(task).foreground}


def select(task: Task, names: Iterable[str]) -> tuple[Label, ...]:
    """The foreground labels of the given names, in the task's order."""
    by_name = {label.name: label for label in task.foreground}
    for name in (selected := list(names)):
        if name not in by_name:
            raise UnknownName("label", name, by_name)
    return tuple(label for label in task.foreground if label.name in selected)


def with_values_of(task: Task, own: Task) -> Task:
    """A task whose labels have the values that labels of the same name have in the files of another; else none."""
    values = {label.name: label.values for label in own.labels}
    if own.kind == task.kind == "classes":  # the background is one, whatever it is called
        values[task.labels[0].name] = own.labels[0].values
    labels = tuple(replace(label, values=values.get(label.name, ())) for label in task.labels)
    return replace(task, labels=labels, ignore=own.ignore)


def undrawn(task: Task, drawn: Iterable[str] | None) -> tuple[int, ...]:
    """The outputs of a task that nobody drew in a case, where the labels with these names were drawn (None: all).

    If one of two labels that change places in a mirror was not drawn, neither counts.

    Raises:
        UnknownName: a name that the task does not have.
    """
    if drawn is None:
        return ()
    known = {label.name for label in select(task, drawn)}
    for pair in task.mirror_pairs:
        if not known.issuperset(pair):
            known -= set(pair)
    foreground = {label.name for label in task.foreground}
    return tuple(
        number
        for number, label in enumerate(task.labels)
        if label.name in foreground and label.name not in known
    )


def to_dict(task: Task) -> dict[str, Any]:
    """The task as plain data for TOML and JSON."""
    out: dict[str, Any] = {"kind": task.kind}
    out["labels"] = [
        {"name": item.name, "values": list(item.values), "value": item.value}
        | ({"colour": list(item.colour)} if item.colour else {})
        for item in task.labels
    ]
    if task.ignore is not None:
        out["ignore"] = task.ignore
    if task.mirror_pairs:
        out["mirror_pairs"] = [list(pair) for pair in task.mirror_pairs]
    if task.stacked:
        out["stacked"] = True
    return out
