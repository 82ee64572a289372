"""What is said about a report: notes, the order of its cases, the table of its means."""

from __future__ import annotations

import pytest

from ctseg.metrics.bootstrap import BootstrapSample
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.metrics.summary import notes_of, ranked, summary_table
from tests.test_markup import HOSTILE, Seen


def case(name: str, metric: str, *values: float | None) -> CaseResult:
    labels = tuple(LabelResult(f"l{i}", {metric: v}) for i, v in enumerate(values))
    return CaseResult(name, labels)


@pytest.mark.parametrize(("metric", "worst"), [("dice", "low"), ("hd95", "high")])
def test_cases_are_ranked_by_their_mean_worst_first(metric: str, worst: str) -> None:
    cases = (
        case("high", metric, 0.9, 0.8),
        case("low", metric, 0.1, None),
        case("none", metric, None),
    )
    found = ranked(Report(cases))
    assert found[0][0].case == worst and len(found) == 2
    assert {one.case: score for one, score in found} == pytest.approx({"high": 0.85, "low": 0.1})


def test_what_has_no_better_side_ranks_nothing() -> None:
    assert ranked(Report((case("a", "volume_difference", 0.1),))) == []
    assert ranked(Report(())) == []


def test_the_means_are_a_table_with_names_as_text() -> None:
    cases = tuple(CaseResult(f"c{i}", (LabelResult(HOSTILE, {"dice": i / 4}),)) for i in range(4))
    report = Report(cases)
    seen = Seen(summary_table(report, BootstrapSample(resamples=200)))
    assert "script" not in seen.tags and "<script>alert" in seen.text
    assert "0.3750" in seen.text and " to " in seen.text and "small" in seen.tags
    assert "small" not in Seen(report._repr_html_()).tags
    assert "mean" in Report(())._repr_html_()


def test_notes_tell_what_the_means_hide() -> None:
    missed = CaseResult(
        "c", (LabelResult("liver", {"dice": 0.0}, 0.0, 1.0, "missed"),), notes=("cropped",)
    )
    assert notes_of(Report((missed,), {"tolerance_mm": 2.0})) == [
        "Surface Dice within 2 mm.",
        "liver: missed in 1 and invented in 0 of 1 cases; these score the worst value.",
        "c: cropped.",
    ]
