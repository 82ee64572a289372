"""What is said about a report, whether on a terminal, on a page or in a notebook. Imports no NumPy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctseg.markup import Cell, Markup, element, markup, table
from ctseg.metrics.catalogue import metric
from ctseg.metrics.units import Unit, length_text, unit_for

if TYPE_CHECKING:
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.report import CaseResult, LabelSummary, Report

STATES = ("missed", "invented", "absent")


def heads_of(report: Report) -> dict[str, tuple[str, Unit]]:
    """The column head and unit of each metric, in a unit that suits the labels present in both maps."""
    rows = [row for row in report.rows() if row["state"] == "both"]
    return {
        name: unit_for(metric(name).title, [row.get(name) for row in rows])
        for name in report.metrics
    }


def notes_of(report: Report) -> list[str]:
    """What the reader of a report must know: tolerances, missed and invented labels, remarks on files."""
    notes = []
    if report.settings.get("tolerance_mm") is not None:
        notes.append(f"Surface Dice within {_tolerance(report.settings)}.")
    thresholds = report.settings.get("iou_thresholds")
    if thresholds is not None:
        notes.append(f"AP of instances with an IoU of {', '.join(f'{t:g}' for t in thresholds)}.")
    for s in report.summary():
        notes += _states(s, report)
    notes += [f"{case.case}: {note}." for case in report.cases for note in case.notes]
    return notes


def _tolerance(settings: Mapping[str, Any]) -> str:
    given, others = settings["tolerance_mm"], settings.get("default_tolerance_mm")
    if isinstance(given, dict):
        each = ", ".join(f"{name} {length_text(mm)}" for name, mm in given.items())
        return f"{each}, others {length_text(1.0 if others is None else others)}"
    if "tolerance_by_case_mm" in settings:
        lengths = sorted(settings["tolerance_by_case_mm"].values())
        return (
            f"{length_text(lengths[0])} to {length_text(lengths[-1])}, by the voxel size of each case "
            "(--tolerance MM sets one for all)"
        )
    by_voxel = others is not None and others < 1
    more = ", two voxels (--tolerance MM sets another)" if by_voxel else ""
    return length_text(float(given)) + more


def _states(s: LabelSummary, report: Report) -> list[str]:
    out = []
    if s.missed or s.invented:
        scored = [metric(n).title for n in report.metrics if metric(n).worst == "diagonal"]
        distance = " and, as a distance, the scan's diagonal" if scored else ""
        seen = f"missed in {s.missed} and invented in {s.invented} of {s.cases} cases"
        out.append(f"{s.label}: {seen}; these score the worst value{distance}.")
    if s.absent:
        out.append(
            f"{s.label}: absent from both maps of {cases_text(s.absent)}, left out of the means."
        )
    for name, count in s.left_out.items():
        out.append(
            f"{s.label}: {cases_text(count)} without {metric(name).title}, left out of its mean."
        )
    return out


def cases_text(count: int) -> str:
    """A number of cases in words."""
    return f"{count} case{'' if count == 1 else 's'}"


def score_name(report: Report) -> str | None:
    """The metric by which cases are ranked: the first one that has a better and a worse; None without such a metric."""
    return next((name for name in report.metrics if metric(name).better is not None), None)


def ranked(report: Report) -> list[tuple[CaseResult, float]]:
    """The cases with a score, worst first, each with its mean over the labels that have one."""
    name = score_name(report)
    if name is None:
        return []
    scored = []
    for case in report.cases:
        values = [v for item in case.labels if (v := item.values.get(name)) is not None]
        if values:
            scored.append((case, statistics.fmean(values)))
    sign = 1 if metric(name).better == "higher" else -1
    return sorted(scored, key=lambda pair: sign * pair[1])


def summary_table(
    report: Report, resampling: BootstrapSample | None = None, *, sortable: bool = False
) -> Markup:
    """The means of each label and of all labels, with their intervals below them."""
    heads = heads_of(report)
    around = {
        name: report.intervals(name, resampling) if resampling else ({}, None) for name in heads
    }
    summary = report.summary()
    states = [name for name in STATES if any(getattr(s, name) for s in summary)]

    def cell(name: str, value: float | None, interval: tuple[float, float] | None) -> Any:
        if value is None:
            return None
        factor = heads[name][1].factor
        shown = f"{value * factor:.4f}"
        if interval is None:
            return Cell(shown, value)
        low, high = (f"{end * factor:.4f}" for end in interval)
        return Cell(markup(shown, element("small", f"{low} to {high}")), value)

    rows: list[list[Any]] = [
        [
            s.label,
            *(cell(name, s.means[name], around[name][0].get(s.label)) for name in heads),
            s.cases,
            *(getattr(s, name) for name in states),
        ]
        for s in summary
    ]
    known = {n: [value for s in summary if (value := s.means[n]) is not None] for n in heads}
    overall = [
        cell(n, statistics.fmean(known[n]) if known[n] else None, around[n][1]) for n in heads
    ]
    mean = ["mean", *overall, len(report.cases), *(None for _ in states)]
    titles = [title for title, _ in heads.values()]
    return table(["label", *titles, "cases", *states], rows, foot=mean, sortable=sortable)
