"""What an evaluation found, per case and label, and the means of it.

A label that is in neither map has no Dice and counts nowhere; one that was missed, or invented, has Dice 0 and is
counted apart, so that a mean can be read for what it is.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctseg.errors import BadInput

State = Literal["both", "missed", "invented", "absent"]
REPORT_VERSION = 1


@dataclass(frozen=True)
class LabelResult:
    """One label of one case.

    Attributes:
        dice, iou: 0..1; None where the label is in neither map.
        predicted_ml, reference_ml: volumes in millilitres.
        state: in both maps, missed (0 predicted), invented (none in the reference) or absent from both.
    """

    label: str
    dice: float | None
    iou: float | None
    predicted_ml: float
    reference_ml: float
    state: State


@dataclass(frozen=True)
class CaseResult:
    """One case, label by label."""

    case: str
    labels: tuple[LabelResult, ...]

    @property
    def mean_dice(self) -> float | None:
        """The mean over the labels that have a Dice."""
        return _mean(item.dice for item in self.labels)


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases.

    Attributes:
        dice, iou: means over the cases that have the label in either map; None where none has.
        cases: how many those are.
        missed, invented, absent: how many cases are in each of these states.
    """

    label: str
    dice: float | None
    iou: float | None
    cases: int
    missed: int
    invented: int
    absent: int


@dataclass(frozen=True)
class Report:
    """Every case, and the means over them."""

    cases: tuple[CaseResult, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that some case was scored on, in the order of the task."""
        return tuple(dict.fromkeys(item.label for case in self.cases for item in case.labels))

    @property
    def dice(self) -> dict[str, float]:
        """The mean Dice of each label over the cases that have it; labels that no case has are left out."""
        return {s.label: s.dice for s in self.summary() if s.dice is not None}

    @property
    def iou(self) -> dict[str, float]:
        """The mean intersection over union, as `dice`."""
        return {s.label: s.iou for s in self.summary() if s.iou is not None}

    @property
    def mean_dice(self) -> float | None:
        """The mean over the labels of their mean over the cases; None where nothing could be scored."""
        return _mean(self.dice.values())

    @property
    def mean_iou(self) -> float | None:
        return _mean(self.iou.values())

    def summary(self) -> tuple[LabelSummary, ...]:
        """One row a label."""
        return tuple(self._summary(label) for label in self.labels)

    def _summary(self, label: str) -> LabelSummary:
        found = [item for case in self.cases for item in case.labels if item.label == label]
        states = [item.state for item in found]
        scored = sum(item.dice is not None for item in found)
        return LabelSummary(
            label=label,
            dice=_mean(item.dice for item in found),
            iou=_mean(item.iou for item in found),
            cases=scored,
            missed=states.count("missed"),
            invented=states.count("invented"),
            absent=len(self.cases) - scored,
        )

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each case and label."""
        return [{"case": c.case, **asdict(item)} for c in self.cases for item in c.labels]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without NaN: what could not be scored is None."""
        return {
            "version": REPORT_VERSION,
            "mean_dice": self.mean_dice,
            "mean_iou": self.mean_iou,
            "labels": {s.label: _without(asdict(s), "label") for s in self.summary()},
            "cases": [
                {
                    "case": c.case,
                    "mean_dice": c.mean_dice,
                    "labels": {i.label: _without(asdict(i), "label") for i in c.labels},
                }
                for c in self.cases
            ],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_csv(self) -> str:
        """One line for each case and label, comma separated, with a header."""
        text = io.StringIO()
        names = ["case", *LabelResult.__dataclass_fields__]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()

    @classmethod
    def from_json(cls, text: str, *, where: str = "the report") -> Report:
        """A report that `to_json` wrote.

        Raises:
            BadInput: it is none.
        """
        try:
            data = json.loads(text)
            return cls(
                tuple(
                    CaseResult(
                        case["case"],
                        tuple(LabelResult(label=k, **v) for k, v in case["labels"].items()),
                    )
                    for case in data["cases"]
                )
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{where} is no report that this ctseg wrote: {error}.") from error


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _without(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}
