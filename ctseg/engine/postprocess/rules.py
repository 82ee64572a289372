"""Rules of post-processing: checked against a task, and turned into what is to be done to which values."""

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
    """What is to be done to one label, or to several as one.

    Attributes:
        name: the label's, several joined by `+`.
        values: that belong to it in a map.
        written: over filled holes.
        beneath: over removed parts: 0, or the next larger region that the label lies in.
        keep: number of parts that stay; none keeps all.
        least: voxels of the smallest part that stays.
        connectivity: of its parts.
        fill: which holes are filled.
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
        return self.keep is not None or self.least > 1


def check_rules(labels: Labels, rules: Sequence[PostprocessRule]) -> None:
    """Refuse rules that a task cannot follow.

    Raises:
        UnknownName: a label that the task does not have.
        BadInput: the background, or a regression, which has no labels.
    """
    targets_of(labels, rules)


def targets_of(
    labels: Labels, rules: Sequence[PostprocessRule], geometry: Geometry | None = None
) -> list[RuleTarget]:
    """What the rules ask for, label by label, in their order; `*` stands for each label in the task's order.

    Where labels are regions that lie in one another, `*` removes parts from the outermost region inwards, so that what
    is left of a region counts, and fills holes from the innermost outwards, so that a hole becomes what is around it.

    Args:
        geometry: of the map, which gives the voxels in a millilitre; without it sizes in millilitres are 1 voxel.
    """
    if isinstance(labels, Task) and labels.kind == "regression" and rules:
        raise BadInput(
            "A regression predicts values, not labels: there are no parts or holes to clean up.",
            hint="Leave out the rules of post-processing.",
        )
    known = _foreground(labels)
    every = tuple(known)
    out = []
    for rule in rules:
        all_of_them = rule.names == (EVERY_LABEL,)
        some: list[RuleTarget] = []
        for names in [(name,) for name in every] if all_of_them else [rule.names]:
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
        out += _inwards(some) if all_of_them else some
    return out


def _inwards(targets: Sequence[RuleTarget]) -> list[RuleTarget]:
    """First what removes parts, then what fills holes, the smallest region first."""
    removing = [replace(target, fill=None) for target in targets if target.filters]
    filling = [replace(target, keep=None, least=1) for target in targets if target.fill]
    return removing + sorted(filling, key=lambda target: len(target.values))


def rounds_of(targets: Iterable[RuleTarget]) -> list[list[RuleTarget]]:
    """Targets that share no value are handled together; one that does starts a new round."""
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
    """Voxels of the smallest part that stays."""
    if rule.min_size_voxels is not None:
        return rule.min_size_voxels
    if rule.min_size_ml is None or geometry is None:
        return 1
    voxels = rule.min_size_ml * 1000 / geometry.voxel_volume_mm3
    return max(1, math.ceil(voxels * (1 - 1e-9)))  # 0.5 ml are 500 voxels of 1 mm, rounded or not


def written_values(foreground: Iterable[Label], label: Label) -> frozenset[int]:
    """The values of a written map where a label is: its own, and those of the regions that lie in it."""
    inside = set(label.values)
    return frozenset(
        {label.value}
        | {one.value for one in foreground if one.values and inside >= set(one.values)}
    )


def _beneath(foreground: Iterable[Label], label: Label) -> int:
    """What is left where a label is taken away: the last of the regions that it lies in, as `decode` writes it."""
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
                f"'{name}' is the background: it is no label that could be cleaned up.",
                hint=f"Labels: {', '.join(known)}",
            )
        if name not in known:
            raise UnknownName("label", name, known)
