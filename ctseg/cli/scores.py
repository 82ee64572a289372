"""Prints the tables of an evaluation, and of a comparison of two evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ctseg.cli import ui

if TYPE_CHECKING:
    from ctseg.metrics.bootstrap import BootstrapSample
    from ctseg.metrics.compare import Difference
    from ctseg.metrics.report import Report
    from ctseg.metrics.units import Unit


def print_report(
    report: Report, *, cases: bool = True, resampling: BootstrapSample | None = None
) -> None:
    """Print the tables of a report on stdout: every case, the means, and their confidence intervals."""
    from ctseg.metrics.summary import heads_of, notes_of
    from ctseg.metrics.units import volume_unit

    entries = report.rows()
    volumes = any(row["predicted_ml"] is not None for row in entries)
    size = volume_unit(row[name] for row in entries for name in ("predicted_ml", "reference_ml"))
    heads = heads_of(report)
    titles = [title for title, _ in heads.values()]
    more = [f"predicted {size.name}", f"reference {size.name}"] if volumes else []
    if cases:
        rows = []
        for row in entries:
            values = [unit.of(row.get(name)) for name, (_, unit) in heads.items()]
            sizes = [size.of(row[f"{which}_ml"]) for which in ("predicted", "reference")]
            rows.append(
                (row["case"], row["label"], *values, *(sizes if volumes else []), row["state"])
            )
        ui.table(("case", "label", *titles, *more, ""), rows, keys=2)
        ui.show()
    summary = report.summary()
    states = [n for n in ("missed", "invented", "absent") if any(getattr(s, n) for s in summary)]
    means: list[tuple[object, ...]] = [
        (
            s.label, *(_four(unit.of(s.means[name])) for name, (_, unit) in heads.items()),
            s.cases, *(getattr(s, name) for name in states),
        )
        for s in summary
    ]  # fmt: skip
    overall = [_four(unit.of(report.mean(name))) for name, (_, unit) in heads.items()]
    means.append(("mean", *overall, len(report.cases), *(None for _ in states)))
    ui.table(("label", *titles, "cases", *states), means)
    if resampling is not None:
        _print_intervals(report, resampling, heads)
    if notes := notes_of(report):
        ui.show()
    for note in notes:
        ui.show(note, prose=True)


def _print_intervals(
    report: Report, resampling: BootstrapSample, heads: Mapping[str, tuple[str, Unit]]
) -> None:
    intervals = [(*report.intervals(name, resampling), unit) for name, (_, unit) in heads.items()]
    titles = [title for title, _ in heads.values()]
    rows = [
        (label, *(_range(by_label.get(label), unit) for by_label, _, unit in intervals))
        for label in report.labels
    ]
    rows.append(("mean", *(_range(mean, unit) for _, mean, unit in intervals)))
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


def print_comparison(
    differences: Sequence[Difference], names: tuple[str, str], resampling: BootstrapSample | None
) -> None:
    """Print the table of the differences on stdout."""
    from ctseg.metrics.catalogue import metric
    from ctseg.metrics.summary import cases_text
    from ctseg.metrics.units import unit_for

    rows = []
    for d in differences:
        title, unit = unit_for(metric(d.metric).title, [max(d.prediction, d.other, key=abs)])
        rows.append((
            title, d.label, _four(unit.of(d.prediction)), _four(unit.of(d.other)),
            f"{d.difference * unit.factor:+.4f}", _range(d.interval, unit), _dash(d.better), _dash(d.worse),
            d.equal, _p(d.p_value), _p(d.p_holm),
        ))  # fmt: skip
    level = resampling.confidence if resampling else 0.95
    ui.show()
    ui.table(
        (
            "metric", "label", "prediction", "other", "difference", f"{100 * level:g} % interval",
            "better", "worse", "equal", "p", "p (Holm)",
        ),
        rows,
        title=f"{names[0]} against {names[1]}",
        keys=2,
    )  # fmt: skip
    unpaired = {(d.overall, d.label): d.unpaired for d in differences if d.unpaired}
    for (_, label), count in unpaired.items():
        ui.show(
            f"{label}: {cases_text(count)} left out, since only one of the two has a score there."
        )


def _dash(value: int | None) -> object:
    return "-" if value is None else value


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _range(interval: tuple[float, float] | None, unit: Unit) -> str:
    if interval is None:
        return "-"
    return f"{interval[0] * unit.factor:.4f} to {interval[1] * unit.factor:.4f}"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
