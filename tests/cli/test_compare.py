"""`ctseg compare`: the ranking, against numbers computed here, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.metrics.compare import holm
from ctseg.metrics.report import CaseResult, LabelResult, Report

DICE = {
    "good": (0.91, 0.88, 0.93, 0.90, 0.86, 0.92, 0.89),
    "equal": (0.90, 0.89, 0.92, 0.91, 0.85, 0.92, 0.88),
    "bad": (0.71, 0.78, 0.63, 0.80, 0.66, 0.72, 0.69),
}


def write(folder: Path, name: str, values: tuple[float, ...]) -> Path:
    cases = tuple(
        CaseResult(f"case{n}", (LabelResult("organ", {"dice": v, "iou": v / (2 - v)}, 1.0, 1.0),))
        for n, v in enumerate(values)
    )
    run = folder / name
    (run / "validation").mkdir(parents=True)
    (run / "config.toml").touch()
    (run / "validation" / "report.json").write_text(Report(cases).to_json())
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write(tmp_path, name, values) for name, values in sorted(DICE.items())]


def ctseg(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_best_run_and_the_tests_against_it(runs):
    result = ctseg(*runs, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [Path(one["name"]).name for one in found["ranking"]] == ["good", "equal", "bad"]
    assert [Path(name).name for name in found["best"]] == ["good"]
    means = [one["mean"] for one in found["ranking"]]
    assert means == pytest.approx([np.mean(DICE[name]) for name in ("good", "equal", "bad")])
    gaps = {Path(one["name"]).name: one["against_best"] for one in found["ranking"][1:]}
    p = {
        name: wilcoxon(np.array(DICE["good"]) - DICE[name], method="exact").pvalue
        for name in ("bad",)
    }
    assert gaps["bad"]["p_value"] == pytest.approx(p["bad"])
    corrected = holm([gaps["equal"]["p_value"], gaps["bad"]["p_value"]])
    assert [gaps["equal"]["p_holm"], gaps["bad"]["p_holm"]] == corrected
    low, high = gaps["bad"]["interval"]
    assert low < gaps["bad"]["difference"] < high
    assert gaps["bad"]["better"] == 7


def test_the_table_says_what_may_be_chance(runs):
    text = " ".join(ctseg(*runs).output.split())
    assert "good is best: +0.0029 to" in text and "which may be chance" in text
    text = " ".join(ctseg(*[run for run in runs if run.name != "equal"]).output.split())
    assert "which is unlikely to be chance" in text


def test_it_is_told_where_the_best_mean_is_worse_in_most_cases(tmp_path):
    """A label of one case decides the mean over the labels."""
    for name, organ, lesion in (("one", 0.80, 1.0), ("two", 0.85, 0.7)):
        run = write(tmp_path, name, (organ,) * 20)
        report = Report.read(run / "validation" / "report.json")
        first, *others = report.cases
        rare = LabelResult("lesion", {"dice": lesion}, 1.0, 1.0)
        first = CaseResult(first.case, (*first.labels, rare))
        (run / "validation" / "report.json").write_text(Report((first, *others)).to_json())
    text = " ".join(ctseg(tmp_path / "one", tmp_path / "two").output.split())
    assert "one has the best mean over the labels: +0.1250 to" in text
    assert "two, which however is better in 19 of 20 cases" in text


def test_the_last_line_predicts_with_all_folds_of_the_winner(tmp_path):
    for name, first in (("plain", 0.9), ("poor", 0.6)):
        for fold in (0, 1):
            write(tmp_path / name, f"fold{fold}", (first, first - 0.01, first + 0.02))
            report = tmp_path / name / f"fold{fold}" / "validation" / "report.json"
            report.write_text(report.read_text().replace('"case": "', f'"case": "{fold}_'))
    text = " ".join(ctseg(tmp_path / "poor", tmp_path / "plain").output.split())
    assert text.endswith(f"Next: ctseg predict SCANS -m {tmp_path / 'plain'} -o predictions")


def test_holm_multiplies_the_smallest_by_their_number():
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])


def test_other_cases_and_a_single_run_are_refused(runs, tmp_path):
    other = write(tmp_path / "more", "other", (0.5, 0.6))
    result = ctseg(runs[0], other)
    assert result.exit_code == 2
    assert "not of the same cases" in result.output
    result = ctseg(runs[0], runs[0])
    assert result.exit_code == 2
    assert "needs two different runs" in result.output
