"""`ctseg view` from the command line: the page, its messages, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.report.viewer import page
from ctseg.volume.volume import Volume

for needed in ("ipyniivue", "skimage"):
    pytest.importorskip(needed)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    label = np.zeros((8, 16, 18), np.uint8)
    label[2:6, 4:10, 4:12] = 1
    hu = np.where(label, 60, -900).astype(np.int16)
    for name, array in (("scan", hu), ("mask", label), ("other", np.roll(label, 1, axis=1))):
        ctseg.write(Volume.from_array(array), tmp_path / f"{name}.nii.gz")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["view", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_a_page_next_to_where_one_is(files: Path) -> None:
    said = run("scan.nii.gz", "mask.nii.gz", "--label", "liver=1")
    assert said.startswith("scan.html (") and said.endswith("MiB)")
    text = (files / "scan.html").read_text("utf-8")
    assert "<title>scan.nii.gz: mask.nii.gz</title>" in text
    assert '"name": "liver"' in text


def test_a_region_and_a_comparison(files: Path) -> None:
    said = run(
        "scan.nii.gz", "mask.nii.gz", "--compare", "other.nii.gz",
        "--region", "x=0:18,y=2:16,z=1:7", "-o", "page.html",
    )  # fmt: skip
    assert said.startswith("Region 1:7,2:16,0:18 (z, y, x). page.html")
    assert '"name": "difference"' in (files / "page.html").read_text("utf-8")


def test_files_of_one_name_are_told_apart_by_their_folders(files: Path) -> None:
    for folder, name in (("pred", "mask"), ("ref", "other")):
        (files / folder).mkdir()
        (files / f"{name}.nii.gz").rename(files / folder / "case1.nii.gz")
    run("scan.nii.gz", "pred/case1.nii.gz", "--compare", "ref/case1.nii.gz", "-o", "page.html")
    text = (files / "page.html").read_text("utf-8")
    assert "<title>scan.nii.gz: pred/case1.nii.gz, ref/case1.nii.gz</title>" in text
    for name in ("pred/case1.nii.gz", "ref/case1.nii.gz", "only in pred/case1.nii.gz"):
        assert f'"name": "{name}"' in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scan.nii.gz", "--compare", "mask.nii.gz"], "--compare needs one mask to compare with, not 0"),
        (["scan.nii.gz", "mask.nii.gz", "scan.nii.gz", "--compare", "mask.nii.gz"], "not 2"),
        (["nowhere.nii.gz"], "does not exist"),
        (["scan.nii.gz", "--region", "0:4"], "is no region"),
        (["scan.nii.gz", "mask.nii.gz", "--label", "liver=x"], "is no label"),
        (["scan.nii.gz", "-o", "."], "folder"),
    ],
)  # fmt: skip
def test_refusals(files: Path, arguments: list[str], says: str) -> None:
    said = run(*arguments, code=2)
    assert says in said and "Traceback" not in said
    assert not list(files.glob("*.html"))


def test_a_missing_package_is_told_before_the_scan_is_read(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    said = run("scan.nii.gz", "mask.nii.gz", code=2)
    assert "pip install 'ctseg[view]'" in said
