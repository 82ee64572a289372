"""Suggests for which labels to keep only the largest component, by the Dice of validation cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.engine.evaluation.evaluate import as_stored, read_map
from ctseg.engine.evaluation.matching import Pairs
from ctseg.engine.postprocess.apply import postprocess
from ctseg.engine.postprocess.rules import rounds_of, targets_of
from ctseg.errors import BadInput
from ctseg.metrics.overlap import label_counts
from ctseg.specs import Task
from ctseg.task import in_one_map
from ctseg.volume.geometry import Geometry
from ctseg.volume.lattice import on_common_grid

Means = dict[str, float]


@dataclass(frozen=True)
class Suggestion:
    """Suggested post-processing rules, and their effect on validation cases.

    Attributes:
        rules: rules for `[predict] postprocess`; empty if none helps.
        before: mean Dice of each label, over the cases whose reference or prediction has it, without the rules.
        after: the same with the rules; 1 where they remove all of a label that the reference does not have.
        cases: number of validation cases.
    """

    rules: tuple[PostprocessRule, ...]
    before: Means
    after: Means
    cases: int


class _Scores:
    """Collects the Dice of each label, case by case."""

    def __init__(self) -> None:
        self.dice: dict[str, list[float]] = {}

    def add(self, dice: Mapping[str, float | None], names: Iterable[str]) -> None:
        """Add the Dice of these labels; where neither map has one any more, the two agree."""
        for name in names:
            value = dice[name]
            self.dice.setdefault(name, []).append(1.0 if value is None else value)

    def means(self) -> Means:
        return {name: float(np.mean(values)) for name, values in self.dice.items()}


def suggest_rules(
    task: Task, pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], *, connectivity: int = 26
) -> Suggestion:
    """Suggest whether to keep only the largest component: of the whole foreground, then of each label.

    As in nnU-Net (Isensee et al., Nature Methods 18, 2021): the largest component of the foreground is kept if the mean
    Dice rises and no label's Dice falls; then that of each label whose own Dice rises.

    Args:
        task: a task with labels.
        pairs: predicted and reference maps [Z, Y, X], one case at a time, from cases outside the training set.
        connectivity: connectivity of components.

    Raises:
        BadInput: a regression, or no cases.
    """
    names = [label.name for label in task.foreground]
    if not names:
        raise BadInput("The task has no label, so there is nothing to post-process.")
    whole = _rule(names if len(names) > 1 else names[0], connectivity)
    targets = targets_of(task, [_rule(EVERY_LABEL, connectivity)])
    together = [[target.name for target in one] for one in rounds_of(targets)]
    plain, joined = (
        _Scores(),
        _Scores(),
    )  # as predicted, and with the foreground's largest component
    each, both = _Scores(), _Scores()  # with each label's largest component, alone and after that
    cases = 0
    for predicted, reference in pairs:
        cases += 1
        cleaned = _postprocessed(task, predicted, [whole])
        dice = _dice(task, predicted, reference)
        present = [name for name in names if dice[name] is not None]  # in either map
        plain.add(dice, present)
        joined.add(_dice(task, cleaned, reference), present)
        for some in together:
            rules = [_rule(name, connectivity) for name in some]
            shown = [name for name in some if name in present]
            each.add(_dice(task, _postprocessed(task, predicted, rules), reference), shown)
            both.add(_dice(task, _postprocessed(task, cleaned, rules), reference), shown)
    if not cases:
        raise BadInput("There is no validation case to decide by.")
    before, with_whole = plain.means(), joined.means()
    rules, base, trial = [], before, each.means()
    if len(names) > 1 and _helps(before, with_whole):
        rules, base, trial = [whole], with_whole, both.means()
    better = [name for name in names if name in base and trial[name] > base[name]]
    rules += [_rule(name, connectivity) for name in better]
    after = {name: trial[name] if name in better else value for name, value in base.items()}
    return Suggestion(tuple(rules), before, after, cases)


def suggest_for(pairs: Pairs, on_case: Callable[[int, int, str], None] | None = None) -> Suggestion:
    """Suggest rules from files of predictions and references; see `suggest_rules`.

    Args:
        on_case: called with (cases done, total, id of the case).

    Raises:
        BadInput: the meaning of the label values is unknown, or a map has one channel for each label.
        GeometryMismatch: the grids of a prediction and its reference differ.
    """
    if pairs.task is None:
        raise BadInput(
            "The meaning of the label values is unknown.",
            hint="Give the data set as reference, or keep predictions.json in the folder of the predictions.",
        )
    task = in_one_map(pairs.task)

    def maps() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for done, pair in enumerate(pairs.pairs, start=1):
            predicted, reference = read_map(pair.prediction), read_map(pair.reference)
            names = (str(pair.prediction.path), str(pair.reference.path))
            files = (pair.prediction.path, pair.reference.path)
            common = on_common_grid(predicted, reference, names=names, files=files)
            for name, volume in zip(names, (common.one, common.two), strict=True):
                if volume.array.ndim != 3:
                    raise BadInput(
                        f"{name} has one channel for each label; a single label map is needed."
                    )
            yield common.one.array, common.two.array
            if on_case:
                on_case(done, len(pairs.pairs), pair.case)

    return suggest_rules(task, maps())


def _dice(task: Task, predicted: NDArray[Any], reference: NDArray[Any]) -> dict[str, float | None]:
    """The Dice of each label; None if neither map has it."""
    counts = label_counts(task, as_stored(task, predicted), reference)
    return {name: count.dice for name, count in counts.items()}


def _helps(before: Means, after: Means) -> bool:
    if not before or any(after[name] < value for name, value in before.items()):
        return False
    return sum(after.values()) > sum(before.values())


def _rule(label: str | Sequence[str], connectivity: int) -> PostprocessRule:
    value = label if isinstance(label, str) else tuple(label)
    return PostprocessRule.model_validate(
        {"label": value, "keep_largest": 1, "connectivity": connectivity}
    )


def _postprocessed(
    task: Task, predicted: NDArray[Any], rules: Sequence[PostprocessRule]
) -> NDArray[Any]:
    depth, height, width = predicted.shape
    out: NDArray[Any] = np.array(predicted, order="C")
    postprocess(out, task, rules, geometry=Geometry((depth, height, width)))
    return out
