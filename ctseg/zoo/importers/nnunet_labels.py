"""What an nnU-Net `dataset.json` says about labels, and its post-processing, in our terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.config import LabelConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.errors import BadInput

KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"


def task_of(dataset: Mapping[str, Any]) -> TaskConfig:
    """The task: exclusive labels, or regions in the order in which nnU-Net writes them over each other.

    Raises:
        BadInput: labels that nnU-Net itself would refuse.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or labels.get("background") not in (0, "0"):
        raise BadInput(
            "dataset.json names no labels with 'background': 0, which nnU-Net v2 asks for.",
            hint="Models of nnU-Net v1 are not read.",
        )
    values = {name: _values(value) for name, value in labels.items() if name != "ignore"}
    ignore = labels.get("ignore")
    if any(len(found) > 1 for found in values.values()):
        return _regions(values, dataset.get("regions_class_order"), ignore)
    numbers = sorted(found[0] for found in values.values())
    if numbers != list(range(len(numbers))):
        raise BadInput(
            f"The labels of nnU-Net are consecutive numbers from 0; these are {numbers}."
        )
    ordered = sorted(values.items(), key=lambda item: item[1])
    return TaskConfig(
        kind="classes",
        labels=tuple(LabelConfig(name=n, values=v, value=v[0]) for n, v in ordered),
        ignore=None if ignore is None else int(ignore),
    )


def _values(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
    except (TypeError, ValueError):
        raise BadInput(f"dataset.json gives a label the value {value!r}.") from None


def _regions(values: Mapping[str, tuple[int, ...]], order: Any, ignore: Any) -> TaskConfig:
    regions = {name: found for name, found in values.items() if set(found) != {0}}
    if not isinstance(order, list) or len(order) != len(regions):
        raise BadInput(
            f"dataset.json has {len(regions)} regions and the regions_class_order {order}; "
            "each region must have one number."
        )
    return TaskConfig(
        kind="channels",
        labels=tuple(
            LabelConfig(name=name, values=found, value=int(number))
            for (name, found), number in zip(regions.items(), order, strict=True)
        ),
        ignore=None if ignore is None else int(ignore),
    )


def postprocessing(content: Any, task: TaskConfig) -> tuple[PostprocessRule, ...]:
    """The rules of a `postprocessing.json`.

    Raises:
        BadInput: a function that has no counterpart here.
    """
    table = content if isinstance(content, dict) else {}
    names, arguments = table.get("postprocessing_fns"), table.get("postprocessing_kwargs")
    if (
        not isinstance(names, list)
        or not isinstance(arguments, list)
        or len(names) != len(arguments)
    ):
        raise BadInput("postprocessing.json lists no functions with their arguments.")
    rules = []
    for name, given in zip(names, arguments, strict=True):
        if name != KEEP_LARGEST or not isinstance(given, dict):
            raise BadInput(f"postprocessing.json asks for '{name}'; known is {KEEP_LARGEST}.")
        wanted = _flat(given.get("labels_or_regions"))
        chosen = tuple(i.name for i in task.labels if i.value in wanted and i.value)
        if not chosen or given.get("background_label", 0) != 0:
            raise BadInput(f"postprocessing.json names labels that there are not: {given}.")
        _check_alone(chosen, task)
        rules.append(PostprocessRule(label=chosen, keep_largest=1))
    return tuple(rules)


def _check_alone(chosen: Sequence[str], task: TaskConfig) -> None:
    """Refuse a rule of one region within another: nnU-Net leaves background where ctseg leaves the region around."""
    if len(chosen) > 1:
        return
    inside = {value for label in task.labels if label.name in chosen for value in label.values}
    around = [label.name for label in task.labels if inside and inside < set(label.values)]
    if around:
        raise BadInput(
            f"postprocessing.json turns parts of '{chosen[0]}' into background, also within '{around[-1]}'."
        )


def _flat(value: Any) -> set[int]:
    """Label values of a label, a region or a list of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {number for part in value for number in _flat(part)}
    try:
        return {int(value)}
    except (TypeError, ValueError):
        raise BadInput(f"postprocessing.json names the label {value!r}.") from None
