"""Checks post-processing rules against a task, and resolves them to targets: values of a map and their treatment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.errors import BadInput, UnknownName
from ctseg.specs import Label, Task
from ctseg.volume.geometry import Geometry
from ctseg.volume.run_lengths import Connectivity

Labels = Task | Mapping[str, int]
"""A task, or the value of each foreground label by name."""


@dataclass(frozen=True)
class RuleTarget:
    """A label, or several labels as one mask, and the post-processing to apply.

    Attributes:
        name: name of the label; several names are joined by `+`.
        values: its values in a map.
        written: value of filled holes.
        beneath: value of removed components: 0, or that of the region around the label.
        keep: number of largest components to keep; None for all.
        least: minimum size of a component in voxels.
        connectivity: connectivity of its components.
        fill: which holes to fill; None for none.
    """

    name: str
    values: frozenset[int]
    written: int
    beneath: int = 0
    keep: int | None = None
    least: int = 1
    connectivity: Connectivity = 26
    fill: Literal["3d", "slices"] | None = None

    @property
    def filters(self) -> bool:
        """Whether components may be removed."""
        return self.keep is not None or self.least > 1


def check_rules(labels: Labels, rules: Sequence[PostprocessRule]) -> None:
    """Reject rules that do not fit a task.

    Raises:
        UnknownName: a rule names a label that the task does not have.
        BadInput: a rule names the background, or the task is a regression.
    """
    targets_of(labels, rules)


def targets_of(
    labels: Labels, rules: Sequence[PostprocessRule], geometry: Geometry | None = None
) -> list[RuleTarget]:
    """Resolve rules to targets, in order; `*` stands for each label in the task's order.

    For nested regions, `*` removes components from the outermost region inwards, so that inner regions use what is left
    of outer ones, and fills holes from the innermost outwards, so that a hole gets the label directly around it.

    Args:
        geometry: geometry of the map, to convert millilitres to voxels; without it sizes in millilitres are 1 voxel.
    """
    if isinstance(labels, Task) and labels.kind == "regression" and rules:
        raise BadInput(
            "A regression predicts values, not labels: it has no components or holes to post-process.",
            hint="Leave out the post-processing rules.",
        )
    known = _foreground(labels)
    every = tuple(known)
    out = []
    for rule in rules:
        each_label = rule.names == (EVERY_LABEL,)
        some: list[RuleTarget] = []
        for names in [(name,) for name in every] if each_label else [rule.names]:
            _check_names(labels, names, known)
            chosen = [known[name] for name in names]
            some.append(
                RuleTarget(
                    "+".join(names),
                    frozenset().union(*(written_values(known.values(), one) for one in chosen)),
                    chosen[0].value,
                    _beneath(known.values(), chosen[0]) if len(chosen) == 1 else 0,
                    rule.keep_largest,
                    least_voxels(rule, geometry),
                    rule.connectivity,
                    rule.fill_holes,
                )
            )
        out += _nested_order(some) if each_label else some
    return out


def _nested_order(targets: Sequence[RuleTarget]) -> list[RuleTarget]:
    """Targets that remove components first, then those that fill holes, the smallest region first."""
    removing = [replace(target, fill=None) for target in targets if target.filters]
    filling = [replace(target, keep=None, least=1) for target in targets if target.fill]
    return removing + sorted(filling, key=lambda target: len(target.values))


def rounds_of(targets: Iterable[RuleTarget]) -> list[list[RuleTarget]]:
    """Group targets into rounds that are applied together; a target that shares a value starts a new round."""
    rounds: list[list[RuleTarget]] = []
    taken: set[int] = set()
    for target in targets:
        if not rounds or taken & target.values:
            rounds.append([])
            taken = set()
        rounds[-1].append(target)
        taken |= target.values
    return rounds


def least_voxels(rule: PostprocessRule, geometry: Geometry | None) -> int:
    """The minimum size of a component in voxels."""
    if rule.min_size_voxels is not None:
        return rule.min_size_voxels
    if rule.min_size_ml is None or geometry is None:
        return 1
    voxels = rule.min_size_ml * 1000 / geometry.voxel_volume_mm3
    return max(1, math.ceil(voxels * (1 - 1e-9)))  # 0.5 ml are 500 voxels of 1 mm despite rounding


def written_values(foreground: Iterable[Label], label: Label) -> frozenset[int]:
    """The values of a written map that belong to a label: its own, and those of its subregions."""
    inside = set(label.values)
    return frozenset(
        {label.value}
        | {one.value for one in foreground if one.values and inside >= set(one.values)}
    )


def _beneath(foreground: Iterable[Label], label: Label) -> int:
    """The value left where a label is removed: the last region that contains it, as written by `decode`, or 0."""
    inside = set(label.values)
    around = [one.value for one in foreground if inside and inside < set(one.values)]
    return around[-1] if around else 0


def _foreground(labels: Labels) -> dict[str, Label]:
    if isinstance(labels, Task):
        return {label.name: label for label in labels.foreground}
    return {name: Label(name, (value,), value) for name, value in labels.items() if value != 0}


def _check_names(labels: Labels, names: Iterable[str], known: Mapping[str, Label]) -> None:
    background = (
        {label.name for label in labels.labels} - set(known)
        if isinstance(labels, Task)
        else set(labels) - set(known)
    )
    for name in names:
        if name in background:
            raise BadInput(
                f"'{name}' is the background: only labels can be post-processed.",
                hint=f"Labels: {', '.join(known)}",
            )
        if name not in known:
            raise UnknownName("label", name, known)
