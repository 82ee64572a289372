"""The rules by which cases become means, and what the report looks like on disk."""

from __future__ import annotations

import csv
import json

import pytest

from ctseg.errors import BadInput
from ctseg.metrics.report import CaseResult, LabelResult, Report


def _result(label: str, dice: float | None, state: str = "both") -> LabelResult:
    return LabelResult(label, {"dice": dice, "iou": dice}, 1.5, 2.0, state)  # type: ignore[arg-type]


@pytest.fixture
def report() -> Report:
    return Report(
        (
            CaseResult("a", (_result("liver", 0.8), _result("lesion", None, "absent"))),
            CaseResult("b", (_result("liver", 0.6), _result("lesion", 0.0, "missed"))),
            CaseResult("c", (_result("liver", 1.0), _result("lesion", 0.5))),
        )
    )


def test_the_mean_is_over_labels_of_means_over_the_cases_that_have_them(report: Report) -> None:
    assert report.dice == pytest.approx({"liver": 0.8, "lesion": 0.25})
    assert report.mean_dice == pytest.approx(0.525)
    lesion = report.summary()[1]
    assert (lesion.cases, lesion.missed, lesion.invented, lesion.absent) == (2, 1, 0, 1)


def test_json_holds_everything_and_no_nan(report: Report) -> None:
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["mean_dice"] == pytest.approx(0.525)
    assert data["cases"][0]["labels"]["lesion"]["dice"] is None
    assert Report.from_json(report.to_json()) == report


def test_csv_has_a_line_for_each_case_and_label(report: Report) -> None:
    lines = list(csv.DictReader(report.to_csv().splitlines()))
    assert len(lines) == 6
    assert lines[1] == {
        "case": "a", "label": "lesion", "dice": "", "iou": "",
        "predicted_ml": "1.5", "reference_ml": "2.0", "state": "absent",
    }  # fmt: skip


def test_an_empty_report_has_no_mean() -> None:
    assert Report(()).mean_dice is None
    assert json.loads(Report(()).to_json())["cases"] == []


def one_label(**changes: object) -> str:
    label = {"dice": 0.5, "predicted_ml": 1, "reference_ml": 1, "state": "both", **changes}
    return json.dumps({"cases": [{"case": "a", "labels": {"b": label}}]})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"cases": [1]}', '{"cases": [{"case": "a"}]}', "[" * 100_000,
        '{"cases": [], "settings": 5}', '{"cases": [{"case": 7, "labels": {}}]}',
        '{"cases": [{"case": "a", "labels": {}, "diagonal_mm": []}]}',
        one_label(dice="x"), one_label(dice=float("nan")), one_label(state=3), one_label(predicted_ml=True),
    ],
)  # fmt: skip
def test_a_file_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no report"):
        Report.from_json(text)


def test_confusion_is_added_up_and_kept_in_files() -> None:
    one = CaseResult("a", (), confusion_ml={"liver": {"liver": 1.0, "spleen": 0.5}})
    two = CaseResult("b", (), confusion_ml={"liver": {"liver": 2.0}, "background": {"liver": 0.25}})
    report = Report((one, two))
    assert report.confusion_ml() == {
        "liver": {"liver": 3.0, "spleen": 0.5},
        "background": {"liver": 0.25},
    }
    assert Report.from_json(report.to_json()) == report
    with pytest.raises(BadInput, match="confusion_ml"):
        Report.from_json(report.to_json().replace("0.25", '"much"'))
