"""The parts of a report that show scores: tables, box plots, agreement of volumes, confusion, single cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ctseg.markup import Cell, Markup, element, markup, table
from ctseg.metrics.catalogue import metric
from ctseg.metrics.compare import Difference
from ctseg.metrics.report import CaseResult, Report
from ctseg.metrics.summary import cases_text, heads_of, notes_of
from ctseg.metrics.units import Unit, unit_for, volume_unit
from ctseg.report.html.charts import Named, bland_altman, box_plot
from ctseg.report.html.page import folded, wide

FEWEST_CASES = 3
"""Fewer cases have no distribution that a chart could show."""
SHOWN_LABELS = 12
"""Charts of more labels than this are folded."""
MATRIX_LABELS = 20
"""Confusion of more labels is a list of the largest mistakes."""
SHOWN_MISTAKES = 30


def note_list(report: Report) -> Markup:
    """Remarks on tolerances, missed labels and files."""
    notes = notes_of(report)
    return element("ul", *(element("li", note) for note in notes)) if notes else markup()


def case_table(report: Report) -> Markup:
    """Every label of every case, sortable."""
    heads = heads_of(report)
    rows = report.rows()
    sizes = volume_unit(row[name] for row in rows for name in ("predicted_ml", "reference_ml"))
    volumes = any(row["predicted_ml"] is not None for row in rows)
    names = ["predicted", "reference"] if volumes else []
    lines = []
    for row in rows:
        scores = [unit.of(row.get(name)) for name, (_, unit) in heads.items()]
        lines.append([
            row["case"], row["label"], *scores, *(sizes.of(row[f"{name}_ml"]) for name in names), row["state"],
        ])  # fmt: skip
    titles = [title for title, _ in heads.values()]
    columns = ["case", "label", *titles, *(f"{name} {sizes.name}" for name in names), "state"]
    return wide(table(columns, lines, sortable=True, keys=2), "Scores of all cases")


def box_plots(report: Report) -> Markup:
    """A box plot of each metric, with a box for each label."""
    charts: list[Markup] = []
    if len(report.cases) < FEWEST_CASES:
        return markup()
    for name, (title, unit) in heads_of(report).items():
        groups: dict[str, list[Named]] = {label: [] for label in report.labels}
        for case in report.cases:
            for item in case.labels:
                value = item.values.get(name)
                if value is not None:
                    groups[item.label].append(Named(case.case, value * unit.factor))
        x_range = None
        if metric(name).worst == 0.0:  # a share, shown up to 1
            lowest = min((v.value for values in groups.values() for v in values), default=0.0)
            x_range = (math.floor(10 * min(lowest, 0.9)) / 10, 1.0)
        charts.append(box_plot(title, groups, across=title, x_range=x_range))
    return _grid(charts, len(report.labels))


def volume_agreement(report: Report) -> Markup:
    """A Bland-Altman plot of the volumes of each label, over the cases where either map has it."""
    charts: list[Markup] = []
    by_label: dict[str, list[tuple[str, float, float]]] = {label: [] for label in report.labels}
    for case in report.cases:
        for item in case.labels:
            one, two = item.predicted_ml, item.reference_ml
            if item.state != "absent" and one is not None and two is not None:
                by_label[item.label].append((case.case, one, two))
    for label, pairs in by_label.items():
        unit = volume_unit(v for _, *both in pairs for v in both)
        scaled = [(name, one * unit.factor, two * unit.factor) for name, one, two in pairs]
        if len(scaled) >= FEWEST_CASES:
            charts.append(bland_altman(label, scaled, unit=unit.name))
    if not charts:
        return markup()
    return markup(
        element("p", "Predicted less reference volume over the mean of the two.", class_="soft"),
        _grid(charts, len(charts)),
    )


def confusion(report: Report) -> Markup:
    """What each label of the reference was predicted as: a matrix, or the largest mistakes of many labels."""
    found = report.confusion_ml()
    if not found:
        return markup()
    totals = {name: sum(parts.values()) for name, parts in found.items()}
    known = dict.fromkeys([*report.labels, *found, *(k for parts in found.values() for k in parts)])
    names = [*(n for n in known if n not in report.labels), *report.labels]  # the background first
    unit = volume_unit(totals[name] for name in report.labels if name in totals)
    if len(names) > MATRIX_LABELS:
        return _mistakes(found, totals)
    heads = [element("th", name, scope="col") for name in ("reference", *names, unit.name)]
    lines = []
    for name in names:
        total = totals.get(name, 0.0)
        cells = []
        for other in names:
            part = found.get(name, {}).get(other, 0.0)
            share = part / total if total else 0.0
            cells.append(
                element(
                    "td", _percent(share) if part else "",
                    style=f"background: rgb(var(--heat) / {0.6 * share:.3f})" if share >= 0.0005 else None,
                    title=f"{part * unit.factor:.4g} {unit.name} of {name} predicted as {other}",
                )
            )  # fmt: skip
        amount = total * unit.factor
        cells.append(element("td", f"{amount:.0f}" if amount >= 1000 else f"{amount:.4g}"))
        lines.append(element("tr", element("th", name, scope="row"), *cells))
    matrix = element(
        "table", element("thead", element("tr", *heads)), element("tbody", *lines), class_="heat"
    )
    told = "Share of each label of the reference (rows) that was predicted as each label (columns), over all cases."
    return markup(element("p", told, class_="soft"), wide(matrix, "Confusion"))


def _mistakes(found: Mapping[str, Mapping[str, float]], totals: Mapping[str, float]) -> Markup:
    pairs = [
        (name, other, part, part / totals[name])
        for name, parts in found.items()
        for other, part in parts.items()
        if name != other and totals[name]
    ]
    unit = volume_unit(part for _, _, part, _ in pairs)
    pairs = sorted(pairs, key=lambda pair: -pair[3])[:SHOWN_MISTAKES]
    rows = [
        (name, other, part * unit.factor, Cell(_percent(share), share))
        for name, other, part, share in pairs
    ]
    heads = ("reference", "predicted as", unit.name, "share of the reference")
    return wide(table(heads, rows, sortable=True, keys=2), "Largest confusions")


def case_figure(
    case: CaseResult,
    score: tuple[str, tuple[str, Unit]],
    pictures: Sequence[tuple[str, str]],
    note: str = "",
) -> Markup:
    """One case with its pictures and the scores of its labels.

    Args:
        score: name of the metric, with its title and unit.
        pictures: title and address of each.
        note: after the case's name.
    """
    name, (title, unit) = score
    sign = 1 if metric(name).better == "higher" else -1
    scored = [(value, item) for item in case.labels if (value := item.values.get(name)) is not None]
    more = len(scored) - SHOWN_LABELS
    if more > 0:  # the worst ones
        scored = sorted(scored, key=lambda pair: sign * pair[0])[:SHOWN_LABELS]
    shown = [
        f"{item.label} {item.state if item.state in ('missed', 'invented') else f'{value * unit.factor:.3f}'}"
        for value, item in scored
    ]
    if more > 0:
        shown.append(f"and {more} better")
    tiles = element("div", *(
        element("figure", element("img", src=address, alt=f"{caption} of {case.case}"), element("figcaption", caption))
        for caption, address in pictures
    ), class_="tiles")  # fmt: skip
    below = element("p", f"{title}: ", ", ".join(shown), class_="soft")
    return element(
        "div", element("h3", case.case, note), tiles if pictures else None, below, class_="scan"
    )


def difference_table(differences: Sequence[Difference], confidence: float) -> Markup:
    """The comparison of two predictions, sortable."""
    rows = []
    for d in differences:
        title, unit = unit_for(metric(d.metric).title, [max(d.prediction, d.other, key=abs)])
        interval = None
        if d.interval is not None:
            low, high = (end * unit.factor for end in d.interval)
            interval = Cell(f"{low:.4f} to {high:.4f}", low)
        rows.append([
            title, d.label, Cell(f"{d.prediction * unit.factor:.4f}", d.prediction),
            Cell(f"{d.other * unit.factor:.4f}", d.other), Cell(f"{d.difference * unit.factor:+.4f}", d.difference),
            interval, d.better, d.worse, d.equal, _p(d.p_value), _p(d.p_holm),
        ])  # fmt: skip
    heads = [
        "metric", "label", "prediction", "other", "difference", f"{100 * confidence:g} % interval",
        "better", "worse", "equal", "p", "p (Holm)",
    ]  # fmt: skip
    return wide(table(heads, rows, sortable=True, keys=2), "Comparison")


def difference_plots(report: Report, other: Report) -> Markup:
    """A box plot of each metric's differences, case by case."""
    theirs = {(c.case, i.label): i.values for c in other.cases for i in c.labels}
    charts: list[Markup] = []
    if len(report.cases) < FEWEST_CASES:
        return markup()
    for name, (title, unit) in heads_of(report).items():
        groups: dict[str, list[Named]] = {label: [] for label in report.labels}
        for case in report.cases:
            for item in case.labels:
                one = item.values.get(name)
                two = theirs.get((case.case, item.label), {}).get(name)
                if one is not None and two is not None:
                    groups[item.label].append(Named(case.case, (one - two) * unit.factor))
        charts.append(box_plot(title, groups, across=f"difference of {title}", zero=True))
    return _grid(charts, len(report.labels))


def unpaired_notes(differences: Sequence[Difference]) -> Markup:
    """Which cases a comparison leaves out."""
    left_out = {(d.overall, d.label): d.unpaired for d in differences if d.unpaired}
    return markup(*(
        element("p", f"{label}: {cases_text(count)} left out, since only one of the two has a score there.")
        for (_, label), count in left_out.items()
    ))  # fmt: skip


def _grid(charts: Sequence[Markup], labels: int) -> Markup:
    filled = [chart for chart in charts if chart]
    if not filled:
        return markup()
    grid = element("div", *filled, class_="grid")
    return grid if labels <= SHOWN_LABELS else folded(f"Charts of {labels} labels", grid)


def _p(value: float | None) -> Cell:
    if value is None:
        return Cell(None, None)
    return Cell("<0.0001" if value < 1e-4 else f"{value:.4f}", value)


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"
