"""The tables of an evaluation, and of a comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctseg.cli import ui

if TYPE_CHECKING:
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.compare import Difference
    from ctseg.metrics.report import LabelSummary, Report


def print_report(
    report: Report, *, cases: bool = True, resampling: BootstrapSample | None = None
) -> None:
    """The tables of a report, on stdout: every case, the means, and how sure these are."""
    from ctseg.metrics.catalogue import METRICS

    titles = [METRICS[name].title for name in report.metrics]
    volumes = any(item.predicted_ml is not None for case in report.cases for item in case.labels)
    more = ["predicted ml", "reference ml"] if volumes else []
    if cases:
        rows = []
        for row in report.rows():
            values = [row.get(name) for name in report.metrics]
            sizes = [row["predicted_ml"], row["reference_ml"]] if volumes else []
            rows.append((row["case"], row["label"], *values, *sizes, row["state"]))
        ui.table(("case", "label", *titles, *more, ""), rows)
        ui.show()
    means: list[tuple[object, ...]] = [
        (
            s.label, *(_four(s.means[name]) for name in report.metrics),
            s.cases, s.missed, s.invented, s.absent,
        )
        for s in report.summary()
    ]  # fmt: skip
    overall = [_four(report.mean(name)) for name in report.metrics]
    means.append(("mean", *overall, len(report.cases), "", "", ""))
    ui.table(("label", *titles, "cases", "missed", "invented", "absent"), means)
    if resampling is not None:
        _print_intervals(report, resampling, titles)
    _print_notes(report)


def _print_intervals(report: Report, resampling: BootstrapSample, titles: Sequence[str]) -> None:
    found = [report.intervals(name, resampling) for name in report.metrics]
    rows = [(label, *(_range(each.get(label)) for each, _ in found)) for label in report.labels]
    rows.append(("mean", *(_range(mean) for _, mean in found)))
    if all(cell == "-" for row in rows for cell in row[1:]):
        return
    groups = len({case.group or case.case for case in report.cases})
    what = "patients or specimens" if groups < len(report.cases) else "cases"
    ui.show()
    ui.table(
        ("label", *titles),
        rows,
        title=f"{100 * resampling.confidence:g} % intervals of the means, over {groups} {what}",
    )


def _print_notes(report: Report) -> None:
    notes = []
    tolerance = report.settings.get("tolerance_mm")
    if tolerance is not None:
        named = isinstance(tolerance, dict)
        each = ", ".join(f"{k} {v:g} mm" for k, v in tolerance.items()) if named else ""
        notes.append(
            f"Surface Dice within {each}, others 1 mm."
            if named
            else f"Surface Dice within {tolerance:g} mm."
        )
    thresholds = report.settings.get("iou_thresholds")
    if thresholds is not None:
        notes.append(f"AP of instances with an IoU of {', '.join(f'{t:g}' for t in thresholds)}.")
    for s in report.summary():
        notes += _states(s, report)
    notes += [f"{case.case}: {note}." for case in report.cases for note in case.notes]
    if notes:
        ui.show()
    for note in notes:
        ui.show(note)


def _states(s: LabelSummary, report: Report) -> list[str]:
    from ctseg.metrics.catalogue import METRICS

    out = []
    if s.missed or s.invented:
        scored = [METRICS[n].title for n in report.metrics if METRICS[n].worst == "diagonal"]
        distance = " and, as a distance, the scan's diagonal" if scored else ""
        seen = f"missed in {s.missed} and invented in {s.invented} of {s.cases} cases"
        out.append(f"{s.label}: {seen}; these score the worst value{distance}.")
    if s.absent:
        out.append(
            f"{s.label}: absent from both maps of {_cases(s.absent)}, left out of the means."
        )
    for name, count in s.left_out.items():
        out.append(
            f"{s.label}: {_cases(count)} without {METRICS[name].title}, left out of its mean."
        )
    return out


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"


def print_comparison(
    found: Sequence[Difference], names: tuple[str, str], resampling: BootstrapSample | None
) -> None:
    """The table of the differences, on stdout."""
    from ctseg.metrics.catalogue import METRICS

    rows = [
        (
            METRICS[d.metric].title, d.label, _four(d.prediction), _four(d.other), f"{d.difference:+.4f}",
            _range(d.interval), _dash(d.better), _dash(d.worse), d.equal, _p(d.p_value), _p(d.p_holm),
        )
        for d in found
    ]  # fmt: skip
    sure = resampling.confidence if resampling else 0.95
    ui.show()
    ui.table(
        (
            "metric", "label", "prediction", "other", "difference", f"{100 * sure:g} % interval",
            "better", "worse", "equal", "p", "p (Holm)",
        ),
        rows,
        title=f"{names[0]} against {names[1]}",
    )  # fmt: skip
    unpaired = {(d.overall, d.label): d.unpaired for d in found if d.unpaired}
    for (_, label), alone in unpaired.items():
        ui.show(f"{label}: {_cases(alone)} left out, which only one of the two could be scored on.")


def _dash(value: int | None) -> object:
    return "-" if value is None else value


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _range(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
