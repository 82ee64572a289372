"""Suggests for which labels to keep only the largest component, by the Dice of validation cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.evaluate import as_stored
from ctseg.engine.evaluation.matching import Pairs, in_both
from ctseg.engine.evaluation.read_maps import read_maps
from ctseg.engine.postprocess.apply import postprocess
from ctseg.engine.postprocess.rules import rounds_of, targets_of
from ctseg.errors import BadInput
from ctseg.metrics.overlap import label_counts
from ctseg.specs import Task
from ctseg.task import in_one_map
from ctseg.volume.geometry import Geometry

Means = dict[str, float]


@dataclass(frozen=True)
class Suggestion:
    """Suggested post-processing rules, and their effect on validation cases.

    Attributes:
        rules: rules for `[predict] postprocess`; empty if none helps.
        before: mean Dice of each label without the rules, over the cases in which it was drawn and whose reference or
            prediction has it; voxels outside a case's mask do not count.
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


def suggest_rules(task: Task, cases: Iterable[CaseMaps], *, connectivity: int = 26) -> Suggestion:
    """Suggest whether to keep only the largest component: of the whole foreground, then of each label.

    As in nnU-Net (Isensee et al., Nature Methods 18, 2021): the largest component of the foreground is kept if the mean
    Dice rises and no label's Dice falls; then that of each label whose own Dice rises. The first rule must help over
    all cases and over those in which every label was drawn, since it changes the others, too.

    Args:
        task: a task with labels.
        cases: predicted and reference maps [Z, Y, X], one case at a time, from cases outside the training set. A rule
            is applied to the whole prediction, and judged within the case's `mask` by the labels that were `drawn`.
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
    plain, joined = _Scores(), _Scores()  # as predicted, with the foreground's largest component
    each, both = _Scores(), _Scores()  # with each label's largest component, alone and after that
    complete, complete_joined = _Scores(), _Scores()  # the first two, where every label was drawn
    count = 0
    for case in cases:
        count += 1
        predicted = case.prediction.array
        drawn = names if case.drawn is None else case.drawn
        cleaned = _postprocessed(task, predicted, [whole])
        dice, dice_joined = _dice(task, predicted, case), _dice(task, cleaned, case)
        present = [name for name in names if name in drawn and dice[name] is not None]
        plain.add(dice, present)
        joined.add(dice_joined, present)
        if set(names) <= set(drawn):
            complete.add(dice, present)
            complete_joined.add(dice_joined, present)
        for some in together:
            rules = [_rule(name, connectivity) for name in some]
            shown = [name for name in some if name in present]
            each.add(_dice(task, _postprocessed(task, predicted, rules), case), shown)
            both.add(_dice(task, _postprocessed(task, cleaned, rules), case), shown)
    if not count:
        raise BadInput("There is no validation case to decide by.")
    before, with_whole = plain.means(), joined.means()
    rules, base, trial = [], before, each.means()
    helps = _helps(before, with_whole) and _helps(complete.means(), complete_joined.means())
    if len(names) > 1 and helps:
        rules, base, trial = [whole], with_whole, both.means()
    better = [name for name in names if name in base and trial[name] > base[name]]
    rules += [_rule(name, connectivity) for name in better]
    after = {name: trial[name] if name in better else value for name, value in base.items()}
    return Suggestion(tuple(rules), before, after, count)


def suggest_for(pairs: Pairs, on_case: Callable[[int, int, str], None] | None = None) -> Suggestion:
    """Suggest rules from files of predictions and references; see `suggest_rules`.

    They are judged by what `evaluate` scores: labels that were drawn and predicted, within the mask of each case.

    Args:
        on_case: called with (cases done, total, id of the case).

    Raises:
        BadInput: the meaning of the label values is unknown, or a map has one channel for each label.
        GeometryMismatch: the grids of a prediction, its reference and its mask differ.
    """
    if pairs.task is None:
        raise BadInput(
            "The meaning of the label values is unknown.",
            hint="Give the data set as reference, or keep predictions.json in the folder of the predictions.",
        )
    task = in_one_map(pairs.task)

    def cases() -> Iterator[CaseMaps]:
        for done, pair in enumerate(pairs.pairs, start=1):
            maps, _ = read_maps(pair, task, pairs.grid_tolerance)
            for volume, ref in (
                (maps.prediction, pair.prediction),
                (maps.reference, pair.reference),
            ):
                if volume.array.ndim != 3:
                    raise BadInput(
                        f"{ref.path} has one channel for each label; a single label map is needed."
                    )
            yield replace(maps, drawn=in_both(maps.drawn, pairs.labels))
            if on_case:
                on_case(done, len(pairs.pairs), pair.case)

    return suggest_rules(task, cases())


def _dice(task: Task, predicted: NDArray[Any], case: CaseMaps) -> dict[str, float | None]:
    """The Dice of each label of a prediction [Z, Y, X]; None if neither map has it."""
    counts = label_counts(task, as_stored(task, predicted), case.reference.array, case.valid)
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
