"""`ctseg data convert` as it is typed, where something goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.volume import convert as room

_spec = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).parents[2] / "volume" / "formats" / "dicom" / "dicom_files.py"
)
assert _spec is not None and _spec.loader is not None
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)


def test_whatever_one_scan_has_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        scan = ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8))
        ctseg.write(scan, tmp_path / "scans" / f"{name}.nii.gz")
    convert = room.convert

    def broken(job: room.Conversion, **options: Any) -> room.Converted:
        if job.source.name == "a.nii.gz":
            raise ZeroDivisionError("what nobody foresaw")
        return convert(job, **options)

    monkeypatch.setattr(room, "convert", broken)
    words = ["data", "convert", str(tmp_path / "scans"), str(tmp_path / "out"), "--to", ".nrrd"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert list(told["failed"].values()) == ["ZeroDivisionError: what nobody foresaw"]
    assert len(told["converted"]) == 1
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["b.nrrd"]


def test_each_series_that_fails_has_a_line_and_a_key(tmp_path: Path) -> None:
    """Two of three series of a study lack a slice."""
    planes = np.zeros((6, 9, 10), np.uint16)
    for number, left_out in enumerate((2, 3, None), start=1):
        for index, plane in enumerate(planes):
            if index != left_out:
                uid = f"{files.ROOT}.{number}"
                out = files.dataset(plane, position=(0, 0, 3.0 * index), instance=index, uid=uid)
                files.save(out, tmp_path / "study" / str(number) / f"{index}.dcm", plane)
    words = ["data", "convert", str(tmp_path / "study"), str(tmp_path / "out"), "--to", ".nii.gz"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert len(told["failed"]) == 2 and len(told["converted"]) == 1
    assert all("1 slices are missing" in reason for reason in told["failed"].values())
    result = CliRunner().invoke(app, [*words, "--skip-existing"])
    assert "2 failed:" in result.output
    assert all(f"{name}: " in result.stdout for name in told["failed"])


def test_a_label_is_a_plain_number(tmp_path: Path) -> None:
    ctseg.write(ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8)), tmp_path / "a.nii.gz")
    words = ["data", "convert", str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nrrd")]
    for label in ("liver=x", "liver=\u00b2", "liver=-1", "liver"):
        result = CliRunner().invoke(app, [*words, "--label", label])
        assert result.exit_code == 2, result.output
    assert not (tmp_path / "b.nrrd").exists()


def test_what_a_killed_process_left_goes_although_all_scans_are_converted(tmp_path: Path) -> None:
    scan = ctseg.Volume.from_array(np.zeros((2, 3, 4), np.uint8))
    ctseg.write(scan, tmp_path / "scans" / "a.nii.gz")
    words = ["data", "convert", str(tmp_path / "scans"), str(tmp_path / "out"), "--to", ".tif"]
    assert CliRunner().invoke(app, words).exit_code == 0
    left = tmp_path / "out" / ".a.123-0123abcd.tmp.tif"
    left.touch()
    long_ago = time.time() - 7 * 3600
    os.utime(left, (long_ago, long_ago))
    assert CliRunner().invoke(app, [*words, "--skip-existing"]).exit_code == 0
    assert not left.exists()
    assert (tmp_path / "out" / "a.tif").is_file()
