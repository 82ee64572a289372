"""`ctseg statistics`: a table, files, names, and masks that it cannot measure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.specs import Label
from ctseg.volume.volume import Volume

GRID = {"spacing_xyz": (0.5, 0.5, 2.0), "origin_xyz": (1.0, 2.0, 3.0)}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((9, 12, 10), np.uint8)
    mask[2:5, 3:9, 2:8], mask[7:, :2, :3] = 1, 2
    hu = np.random.default_rng(0).integers(-1000, 1000, mask.shape).astype(np.int16)
    ctseg.write(Volume.from_array(hu, **GRID), tmp_path / "scan.nii.gz")
    ctseg.write(Volume.from_array(hu / 7, **GRID), tmp_path / "other.nrrd")
    ctseg.write(
        Volume.from_array(mask, **GRID), tmp_path / "mask.nii.gz",
        labels=[Label("liver", (1,), 1), Label("spleen", (5,), 5)],
    )  # fmt: skip
    ctseg.write(Volume.from_array(mask[:-1], **GRID), tmp_path / "short.nii.gz")
    ctseg.write(Volume.from_array(np.stack([mask, mask]), **GRID), tmp_path / "two.mha")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["statistics", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_table_and_files(files: Path) -> None:
    hu = ctseg.read("scan.nii.gz").array
    mask = ctseg.read("mask.nii.gz").array
    shown = run("scan.nii.gz", "mask.nii.gz", "--label", "cyst=2", "-o", "a.csv").splitlines()
    assert shown[0].split() == [
        "label",
        "voxels",
        "mm3",
        "parts",
        "at",
        "edge",
        "mean",
        "std",
        "p5",
        "median",
        "p95",
    ]
    assert [line.split()[0] for line in shown[1:]] == ["liver", "cyst", "spleen"]
    assert shown[1].split()[1:4] == ["108", "54.000", "1"]
    rows = {row["label"]: row for row in csv.DictReader((files / "a.csv").read_text().splitlines())}
    assert rows["cyst"]["at_edge"] == "true" and rows["liver"]["at_edge"] == "false"
    assert float(rows["cyst"]["median"]) == np.median(hu[mask == 2])
    told = json.loads(run("scan.nii.gz", "mask.nii.gz", "--json", "-o", "a.json"))
    assert told == json.loads((files / "a.json").read_text())
    assert [one["name"] for one in told["labels"]] == ["liver", "label 2", "spleen"]
    two = run("scan.nii.gz,other.nrrd", "mask.nii.gz").splitlines()
    assert [line.split()[:2] for line in two[1:3]] == [["liver", "0"], ["liver", "1"]]


def test_what_cannot_be_measured(files: Path) -> None:
    assert "is no table" in run("scan.nii.gz", "mask.nii.gz", "-o", "a.xlsx", code=2)
    assert "ctseg data convert" in run("scan.nii.gz", "short.nii.gz", code=2)
    assert "has 2 channels" in run("scan.nii.gz", "two.mha", code=2)
    assert "whole numbers" in run("scan.nii.gz", "other.nrrd", code=2)
    assert "has an option 'level'" in run(
        "scan.nii.gz", "mask.nii.gz", "--option", "level=1", code=2
    )
    assert "does not exist" in run("gone.nii.gz", "mask.nii.gz", code=2)
