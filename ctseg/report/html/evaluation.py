"""The report of an evaluation, or of a comparison of two predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg.files import write_text
from ctseg.markup import Markup, element, markup
from ctseg.metrics.bootstrap import BootstrapSample
from ctseg.metrics.catalogue import metric
from ctseg.metrics.compare import Difference
from ctseg.metrics.report import Report
from ctseg.metrics.summary import cases_text, heads_of, ranked, score_name, summary_table
from ctseg.report.html import scores
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.charts import legend
from ctseg.report.html.page import Section, page, wide
from ctseg.volume.preview.paint import data_uri, png_of

WORST = 12
"""Number of cases with a picture."""


@dataclass(frozen=True)
class Comparison:
    """What a prediction is compared with.

    Attributes:
        other: report of the other prediction.
        name: of the other prediction.
        differences: first prediction less the other.
    """

    other: Report
    name: str
    differences: Sequence[Difference]


def write_evaluation(
    report: Report,
    html: Path,
    title: str,
    slices: CaseSlices,
    *,
    resampling: BootstrapSample | None = None,
    comparison: Comparison | None = None,
) -> None:
    """Write the page of an evaluation.

    Args:
        title: name of the prediction.
        slices: what the evaluation showed; cases without a slice have no picture.
        resampling: adds intervals to the means.

    Raises:
        FileProblem: the page cannot be written.
    """
    confidence = resampling.confidence if resampling is not None else 0.95
    compared: tuple[object, ...] = ()
    if comparison is not None:
        compared = (
            element("p", f"{title} less {comparison.name}; Wilcoxon signed-rank test over cases or patients."),
            scores.difference_table(comparison.differences, confidence),
            scores.unpaired_notes(comparison.differences),
            scores.difference_plots(report, comparison.other),
        )  # fmt: skip
    means: tuple[object, ...] = (summary_of(report, resampling), scores.note_list(report))
    if comparison is not None:
        means = (
            element("h3", title), means[0], means[1], element("h3", comparison.name),
            summary_of(comparison.other, resampling), scores.note_list(comparison.other),
        )  # fmt: skip
    name = None if comparison is None else comparison.name
    sections = [
        Section("Means", means),
        Section("Comparison", compared),
        Section("Worst cases first", (worst_cases(report, slices, name),)),
        Section("Distribution", (scores.box_plots(report),)),
        Section("Volumes", (scores.volume_agreement(report),)),
        Section("Confusion", (scores.confusion(report),)),
        Section("All cases", (scores.case_table(report),)),
    ]
    heading = title if comparison is None else f"{title} against {comparison.name}"
    told = f"{cases_text(len(report.cases))}, {len(report.labels)} label{'s' * (len(report.labels) != 1)}"
    write_text(html, page(f"Evaluation: {heading}", told, sections))


def summary_of(report: Report, resampling: BootstrapSample | None = None) -> Markup:
    """The means, as a sortable table that may be wide."""
    return wide(summary_table(report, resampling, sortable=True), "Means")


def worst_cases(report: Report, slices: CaseSlices, other: str | None = None) -> Markup:
    """The cases with the lowest scores, each with the slice where it differs most."""
    cases = ranked(report)
    name = score_name(report)
    if not cases or name is None:
        return markup()
    shown, head = cases[:WORST], heads_of(report)[name]
    parts = [
        scores.case_figure(case, (name, head), pictures_of(slices, case.case, other))
        for case, _ in shown
    ]
    which = f"{len(shown)} of " if len(shown) < len(cases) else ""
    told = f"{which}{cases_text(len(cases))} by mean {metric(name).title}"
    if any("img" in part for part in parts):
        told += "; the axial slice where prediction and reference differ most"
    colours = legend((label, f"rgb{rgb}") for label, rgb in slices.colours.items())
    return markup(
        element("p", f"{told}.", class_="soft"), colours, element("div", *parts, class_="scans")
    )


def pictures_of(slices: CaseSlices, case: str, other: str | None) -> list[tuple[str, str]]:
    """Title and address of each picture of a case."""
    names: Mapping[str, str] = {"other": other or "other"}
    return [
        (names.get(name, name), data_uri(png_of(picture)))
        for name, picture in slices.tiles(case).items()
    ]
