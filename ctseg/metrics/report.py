"""Results of an evaluation per case and label, and their means.

A label that is in neither map has no score and counts in no mean; a missed or invented label has the worst score
(Dice 0, a distance of the scan's diagonal) and is also counted separately, which explains low means.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ctseg.config.checking import parse_json
from ctseg.errors import BadInput, FileProblem
from ctseg.metrics.bootstrap import BootstrapSample, Interval, intervals
from ctseg.metrics.catalogue import names

State = Literal["both", "missed", "invented", "absent"]
REPORT_VERSION = 1
_REPORT_HINT = "Copy the run again, or train it anew."
_FIXED = ("predicted_ml", "reference_ml", "state")


@dataclass(frozen=True)
class LabelResult:
    """One label of one case.

    Attributes:
        values: score by metric; None where the label has no such score; absent labels have none.
        predicted_ml, reference_ml: volumes in millilitres; None for the channels of a regression.
        state: in both maps, missed (not predicted), invented (not in the reference) or absent from both.
    """

    label: str
    values: Mapping[str, float | None]
    predicted_ml: float | None = None
    reference_ml: float | None = None
    state: State = "both"

    def __post_init__(self) -> None:
        clean = {
            k: None if v is None or not math.isfinite(v) else v for k, v in self.values.items()
        }
        object.__setattr__(self, "values", clean)

    @property
    def dice(self) -> float | None:
        return self.values.get("dice")

    @property
    def iou(self) -> float | None:
        return self.values.get("iou")

    def row(self) -> dict[str, Any]:
        """A flat row without the label's name."""
        return {**self.values, **{name: getattr(self, name) for name in _FIXED}}


@dataclass(frozen=True)
class CaseResult:
    """One case, label by label.

    Attributes:
        group: the patient or specimen that it belongs to; None if the case is a group of its own.
        diagonal_mm: diagonal of the part of the scan that counted: the distance score of a missed or invented label.
        notes: remarks on its files and on how they were made comparable.
        confusion_ml: for each label of the reference, the volume that was predicted as each label; empty where labels
            may overlap.
    """

    case: str
    labels: tuple[LabelResult, ...]
    group: str | None = None
    diagonal_mm: float | None = None
    notes: tuple[str, ...] = ()
    confusion_ml: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def mean_dice(self) -> float | None:
        """The mean over the labels that have a Dice."""
        return _mean(item.dice for item in self.labels)


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases.

    Attributes:
        means: mean by metric over the cases with the label in either map; None without such cases.
        cases: number of these cases.
        missed, invented, absent: number of cases in each of these states.
        left_out: by metric, how many of `cases` have no such score (e.g. an infinite PSNR).
    """

    label: str
    means: Mapping[str, float | None]
    cases: int
    missed: int
    invented: int
    absent: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def dice(self) -> float | None:
        return self.means.get("dice")

    @property
    def iou(self) -> float | None:
        return self.means.get("iou")

    def to_dict(self) -> dict[str, Any]:
        out = {**self.means, "cases": self.cases}
        out |= {"missed": self.missed, "invented": self.invented, "absent": self.absent}
        return out | ({"left_out": dict(self.left_out)} if self.left_out else {})


@dataclass(frozen=True)
class Report:
    """Every case, and the means over all cases.

    Attributes:
        settings: parameters of the metrics as plain data, such as the tolerance of the surface Dice.
    """

    cases: tuple[CaseResult, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Every label with a score in some case, in the order of the task."""
        return tuple(dict.fromkeys(item.label for case in self.cases for item in case.labels))

    @functools.cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that was computed, in the order of the catalogue."""
        measured = {name for case in self.cases for item in case.labels for name in item.values}
        return tuple(name for name in names() if name in measured)

    def by_label(self, metric: str) -> dict[str, float]:
        """The mean of each label over the cases that have it; labels that no case has are left out."""
        means = {s.label: s.means.get(metric) for s in self.summary()}
        return {label: value for label, value in means.items() if value is not None}

    def mean(self, metric: str) -> float | None:
        """The mean over the labels of their mean over the cases; None without any score."""
        return _mean(self.by_label(metric).values())

    @property
    def dice(self) -> dict[str, float]:
        """The mean Dice of each label over the cases that have it; labels that no case has are left out."""
        return self.by_label("dice")

    @property
    def iou(self) -> dict[str, float]:
        """The mean intersection over union, as `dice`."""
        return self.by_label("iou")

    @property
    def hd95(self) -> dict[str, float]:
        """The mean 95 % Hausdorff distance in mm, as `dice`; empty if it was not computed."""
        return self.by_label("hd95")

    @property
    def surface_distance(self) -> dict[str, float]:
        """The mean of the mean surface distance in mm, as `dice`; empty if it was not computed."""
        return self.by_label("surface_distance")

    @property
    def surface_dice(self) -> dict[str, float]:
        """The mean surface Dice at the tolerance, as `dice`; empty if it was not computed."""
        return self.by_label("surface_dice")

    @property
    def mean_dice(self) -> float | None:
        """The mean over the labels of their mean over the cases; None without any score."""
        return self.mean("dice")

    @property
    def mean_iou(self) -> float | None:
        return self.mean("iou")

    def summary(self) -> tuple[LabelSummary, ...]:
        """One row per label."""
        return tuple(self._summary(label) for label in self.labels)

    def _summary(self, label: str) -> LabelSummary:
        results = [item for case in self.cases for item in case.labels if item.label == label]
        states = [item.state for item in results]
        present = [item for item in results if item.state != "absent"]
        means = {name: _mean(item.values.get(name) for item in present) for name in self.metrics}
        lacking = {n: sum(item.values.get(n) is None for item in present) for n in self.metrics}
        return LabelSummary(
            label=label,
            means=means,
            cases=len(present),
            missed=states.count("missed"),
            invented=states.count("invented"),
            absent=len(self.cases) - len(present),
            left_out={name: count for name, count in lacking.items() if count},
        )

    def confusion_ml(self) -> dict[str, dict[str, float]]:
        """For each label of the reference, the volume in all cases that was predicted as each label."""
        out: dict[str, dict[str, float]] = {}
        for case in self.cases:
            for reference, parts in case.confusion_ml.items():
                line = out.setdefault(reference, {})
                for predicted, ml in parts.items():
                    line[predicted] = line.get(predicted, 0.0) + ml
        return out

    def intervals(
        self, metric: str, resampling: BootstrapSample | None = None
    ) -> tuple[dict[str, Interval], Interval | None]:
        """Bootstrap confidence intervals of `by_label` and `mean`, over groups of cases.

        Returns:
            the interval of each label, and that of the mean; labels with too few groups are left out.
        """
        table = self.table(metric)
        groups = [case.group or case.case for case in self.cases]
        *each, mean = intervals(table, groups, resampling or BootstrapSample())
        named = zip(self.labels, each, strict=True)
        return {label: interval for label, interval in named if interval is not None}, mean

    def table(self, metric: str) -> list[list[float | None]]:
        """The scores by case (rows) and label (columns)."""
        return [[self._value(case, label, metric) for label in self.labels] for case in self.cases]

    @staticmethod
    def _value(case: CaseResult, label: str, metric: str) -> float | None:
        return next((i.values.get(metric) for i in case.labels if i.label == label), None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per case and label."""
        return [
            {"case": c.case, "label": item.label, **item.row()}
            for c in self.cases
            for item in c.labels
        ]

    def to_dict(self, resampling: BootstrapSample | None = None) -> dict[str, Any]:
        """Plain data without NaN: missing scores are None.

        Args:
            resampling: adds a confidence interval to every mean, under `intervals`.
        """
        out: dict[str, Any] = {
            "version": REPORT_VERSION,
            "mean_dice": self.mean_dice,
            "mean_iou": self.mean_iou,
            "means": {name: self.mean(name) for name in self.metrics},
            "labels": {s.label: s.to_dict() for s in self.summary()},
            "cases": [
                {
                    "case": c.case,
                    **({} if c.group is None else {"group": c.group}),
                    **({} if c.diagonal_mm is None else {"diagonal_mm": c.diagonal_mm}),
                    **({"notes": list(c.notes)} if c.notes else {}),
                    "mean_dice": c.mean_dice,
                    "labels": {item.label: item.row() for item in c.labels},
                    **({"confusion_ml": c.confusion_ml} if c.confusion_ml else {}),
                }
                for c in self.cases
            ],
        }
        if self.settings:
            out["settings"] = dict(self.settings)
        if resampling is not None:
            out["intervals"] = self._intervals(resampling)
        return out

    def _intervals(self, resampling: BootstrapSample) -> dict[str, Any]:
        intervals = {name: self.intervals(name, resampling) for name in self.metrics}
        return {
            **resampling.to_dict(),
            "groups": len({case.group or case.case for case in self.cases}),
            "means": {n: list(mean) for n, (_, mean) in intervals.items() if mean is not None},
            "labels": {
                label: {n: list(each[label]) for n, (each, _) in intervals.items() if label in each}
                for label in self.labels
            },
        }

    def to_json(self, resampling: BootstrapSample | None = None) -> str:
        """As `to_dict`, as JSON without NaN and Infinity."""
        return json.dumps(self.to_dict(resampling), indent=2, ensure_ascii=False, allow_nan=False)

    def to_csv(self) -> str:
        """One line per case and label, comma separated, with a header."""
        return csv_text(("case", "label", *self.metrics, *_FIXED), self.rows())

    def _repr_html_(self) -> str:
        """What notebooks show: the means of each label."""
        from ctseg.metrics.summary import summary_table

        return summary_table(self)

    @classmethod
    def from_json(cls, text: str, *, where: str = "the report") -> Report:
        """Read a report that `to_json` wrote.

        Raises:
            BadInput: the text is not such a report.
        """
        try:
            data = parse_json(text)
            cases = tuple(_case(case) for case in data["cases"])
            settings = data.get("settings", {})
            if not isinstance(settings, dict):
                raise TypeError(f"settings cannot be {settings!r:.40}")
            return cls(cases, settings)
        except KeyError as error:
            raise BadInput(
                f"{where} is no report that this ctseg wrote: {error} is missing."
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{where} is no report that this ctseg wrote: {error}.") from error

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in a file.

        Raises:
            FileProblem: it cannot be read.
            BadInput: it is none.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise FileProblem(f"The report {path} does not exist.", hint=_REPORT_HINT) from error
        except (OSError, UnicodeDecodeError) as error:
            raise FileProblem(f"{path} cannot be read: {error}.", hint=_REPORT_HINT) from error
        return cls.from_json(text, where=str(path))


def csv_text(names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as comma-separated lines with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _case(data: Mapping[str, Any]) -> CaseResult:
    labels = tuple(_label(name, values) for name, values in data["labels"].items())
    group, diagonal = data.get("group"), _number("diagonal_mm", data.get("diagonal_mm"))
    for key, value in (("case", data["case"]), ("group", group or "")):
        if not isinstance(value, str):
            raise TypeError(f"the {key} cannot be {value!r:.40}")
    notes = tuple(map(str, data.get("notes", ())))
    confusion = {
        str(reference): {
            str(name): _number("confusion_ml", ml) or 0.0 for name, ml in parts.items()
        }
        for reference, parts in data.get("confusion_ml", {}).items()
    }
    return CaseResult(data["case"], labels, group, diagonal, notes, confusion)


def _label(name: str, data: Mapping[str, Any]) -> LabelResult:
    values = {key: _number(key, value) for key, value in data.items() if key not in _FIXED}
    unknown = [key for key in values if key not in names()]
    if unknown:
        raise ValueError(
            f"the metric '{unknown[0]}' is unknown here; if a plugin provides it, install that"
        )
    predicted, reference = (_number(key, data[key]) for key in ("predicted_ml", "reference_ml"))
    if data["state"] not in get_args(State):
        raise TypeError(f"the state cannot be {data['state']!r:.40}")
    return LabelResult(name, values, predicted, reference, data["state"])


def _number(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"'{key}' cannot be {value!r:.40}")
    return value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
