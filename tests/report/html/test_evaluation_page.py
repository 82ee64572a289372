"""The page of an evaluation: its numbers, its order, and names that are no markup."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from ctseg.metrics.bootstrap import BootstrapSample
from ctseg.metrics.compare import compare
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.report.html import scores
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.evaluation import WORST, Comparison, write_evaluation
from ctseg.specs import Label, Task
from ctseg.volume.volume import Volume
from tests.report.html.reports import HOSTILE, label_result, report
from tests.report.html.test_case_slices import aligned, maps
from tests.test_markup import Seen

QUICK = BootstrapSample(resamples=200)


def written(found: Report, tmp_path: Path, **options: object) -> str:
    html = tmp_path / "report.html"
    write_evaluation(found, html, HOSTILE, options.pop("slices", CaseSlices()), **options)  # type: ignore[arg-type]
    return html.read_text(encoding="utf-8")


def test_nothing_in_a_page_comes_from_a_name_or_from_elsewhere(tmp_path: Path) -> None:
    text = written(report(), tmp_path, resampling=QUICK)
    seen = Seen(text)
    assert seen.tags.count("script") == 1 and "img" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert HOSTILE in seen.text
    addresses = [v for name, v in seen.attributes if name in ("src", "href") and v]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    policy = next(v for k, v in seen.attributes if k == "content" and v and "default-src" in v)
    script = re.search("<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    checksum = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{checksum}'" in policy
    assert "default-src 'none'" in policy and "http" not in policy


def test_the_worst_cases_come_first_with_their_pictures(tmp_path: Path) -> None:
    task = Task("classes", (Label("background", (0,), 0), Label(HOSTILE, (1,), 1)))
    reference, prediction = (Volume.from_array(one) for one in maps())
    slices = CaseSlices()
    slices.add(aligned(task, prediction, reference))
    found = report(20)
    named = Report((*found.cases[1:], CaseResult("c", (label_result("liver", 0.01),))))
    text = written(named, tmp_path, slices=slices)
    order = re.findall(
        "<h3>(.*?)</h3>", text.partition("Worst cases first</h2>")[2].partition("</section>")[0]
    )
    assert len(order) == WORST and order[0] == "c"
    assert text.count("<img") == 2 and text.count("data:image/png;base64,") == 2
    assert "12 of 20 cases by mean Dice; the axial slice" in text


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    empty = Report(())
    assert "Worst cases" not in written(empty, tmp_path)
    regression = Report((CaseResult("a", (LabelResult("value", {"mse": 0.5, "psnr": 30.0}),)),))
    text = written(regression, tmp_path)
    assert "Volumes" not in text and "Confusion" not in text and "PSNR" in text


def test_a_comparison_shows_both_and_the_difference(tmp_path: Path) -> None:
    one, two = report(), report(worse=0.1)
    compared = Comparison(two, "other <b>", compare(one, two, QUICK))
    text = written(one, tmp_path, resampling=QUICK, comparison=compared)
    seen = Seen(text)
    assert f"{HOSTILE} against other <b>" in seen.text
    assert "+0.1000" in text and "difference of Dice" in text
    assert "difference" in seen.text and "p (Holm)" in seen.text


def test_confusion_is_a_matrix_of_shares_with_the_background_first() -> None:
    made = scores.confusion(report(4))
    heads = re.findall('<th scope="col">(.*?)</th>', made)
    assert heads[:3] == ["reference", "background", "liver"] and len(heads) == 5
    rows = re.findall("<tr>(.*?)</tr>", made.partition("<tbody>")[2])
    liver = re.findall("<td.*?>(.*?)</td>", rows[1])
    assert liver == ["5.0 %", "90.0 %", "5.0 %", "40"]  # ml of four cases
    many = {f"l{i}": {f"l{i}": 1.0, f"l{(i + 1) % 40}": 0.01 * i} for i in range(40)}
    told = scores.confusion(Report((CaseResult("a", (), confusion_ml=many),)))
    assert (
        told.index(">l39<") < told.index(">l38<") and "l5<" not in told
    )  # the largest mistakes only
    assert scores.confusion(Report(())) == ""


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.00001, "<0.1 %"), (0.99999, ">99.9 %"), (1.0, "100.0 %"), (0.0, "0.0 %")],
)
def test_shares_are_not_rounded_to_none_or_all(share: float, shown: str) -> None:
    assert scores._percent(share) == shown


def test_many_labels_are_folded(tmp_path: Path) -> None:
    labels = [label_result(f"label {i}", 0.5 + i / 100) for i in range(scores.SHOWN_LABELS + 1)]
    text = written(Report(tuple(CaseResult(name, tuple(labels)) for name in "abc")), tmp_path)
    assert text.count("<details>") == 2 and "Charts of 13 labels" in text
    assert (
        "label 0 0.500, label 1 0.510" in text
        and "and 1 better" in text
        and "label 12 0.620" not in text
    )
