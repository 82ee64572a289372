"""Requests over a real connection, against `ctseg predict` on the same files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.engine.prediction.scan_job import ScanJob
from ctseg_serve.limits import Limits
from ctseg_serve.predict import Wanted, predict

NAME = "unet3d.tiny_v1"
SPACING = (0.8, 0.9, 2.0)
Start = Callable[..., Any]


def predicted(weights: Path, scan: Path, out: Path) -> Path:
    """What the command line makes of a scan."""
    words = ["predict", scan, "-m", weights, "-o", out, "--device", "cpu", "--precision", "fp32"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return out


def zipped(folder: Path, path: Path, inside: str = "study/ct/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inside + file.name)
    return path


def same(got: bytes, path: Path, expected: Path) -> None:
    """Equal voxels and geometry, read by nibabel."""
    path.write_bytes(got)
    mine, theirs = nibabel.load(path), nibabel.load(expected)
    assert mine.get_data_dtype() == theirs.get_data_dtype()
    np.testing.assert_array_equal(np.asarray(mine.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(mine.affine, theirs.affine)


@pytest.mark.parametrize(("sent", "asked"), [(".nii.gz", "nii.gz"), (".nii", "nii")])
def test_a_mask_equals_that_of_the_command_line(
    tmp_path: Path, weights: Path, make: Any, serve: Start, sent: str, asked: str
) -> None:
    server = serve()
    scan = make.scan(tmp_path / f"scan{sent}", make.array())
    expected = predicted(weights, scan, tmp_path / f"expected.{asked}")
    found = httpx.post(f"{server.url}/predict?format={asked}", content=scan.read_bytes())
    assert found.status_code == 200, found.text
    assert int(found.headers["content-length"]) == len(found.content)
    assert found.headers["content-disposition"] == f'attachment; filename="mask.{asked}"'
    assert found.headers["ctseg-model"] == NAME
    assert json.loads(found.headers["ctseg-notes"]) == []
    same(found.content, tmp_path / f"mask.{asked}", expected)
    assert len(np.unique(ctseg.read(expected).array)) > 1  # the tiny network finds something
    assert server.left() == []
    assert server.said[-1].startswith(f"job {found.headers['ctseg-job']}  200")


def test_a_model_may_have_a_name_in_any_script(tmp_path: Path, make: Any, serve: Start) -> None:
    server = serve(name="模型 100%")
    scan = make.scan(tmp_path / "scan.nii.gz", make.array())
    found = httpx.post(f"{server.url}/predict", content=scan.read_bytes())
    assert found.status_code == 200, found.text
    assert unquote(found.headers["ctseg-model"]) == "模型 100%"
    assert httpx.get(f"{server.url}/health/ready").json()["model"] == "模型 100%"


def test_a_zipped_series_becomes_a_mask_and_a_seg(
    tmp_path: Path, weights: Path, make: Any, serve: Start
) -> None:
    pytest.importorskip("ctseg_dicom")
    server = serve()
    series = make.series(tmp_path / "ct", make.array(1))
    (series / "README.txt").write_text("not DICOM")
    (series / ".hidden.dcm").write_text("not DICOM")
    expected = predicted(weights, series, tmp_path / "expected.nii.gz")
    body = zipped(series, tmp_path / "ct.zip").read_bytes()
    found = httpx.post(f"{server.url}/predict", content=body)
    assert found.status_code == 200, found.text
    same(found.content, tmp_path / "mask.nii.gz", expected)
    found = httpx.post(f"{server.url}/predict?format=seg.dcm&labels=shell", content=body)
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "application/dicom"
    (tmp_path / "mask.dcm").write_bytes(found.content)
    made = pydicom.dcmread(tmp_path / "mask.dcm")
    assert [s.SegmentLabel for s in made.SegmentSequence] == ["shell"]
    assert made.PatientName == "Roe^Jane"
    frames = int((ctseg.read(expected).array == 2).sum())
    assert int(made.pixel_array.sum()) == frames > 0
    found = httpx.post(f"{server.url}/predict?format=rt.dcm", content=body)
    assert found.status_code == 200, found.text
    (tmp_path / "contours.dcm").write_bytes(found.content)
    assert pydicom.dcmread(tmp_path / "contours.dcm").Modality == "RTSTRUCT"
    assert server.left() == []
    assert "Roe" not in "".join(server.said)


def test_the_time_is_checked_between_reading_and_the_network(
    tmp_path: Path, weights: Path, make: Any, monkeypatch
) -> None:
    told: list[str] = []

    def telling(name: str) -> Any:
        step = getattr(ScanJob, name)

        def run(self: ScanJob, *args: Any, **more: Any) -> Any:
            told.append(f"{name} begins")
            found = step(self, *args, **more)
            told.append(f"{name} ends")
            return found

        return run

    for name in ("open", "run", "finish"):
        monkeypatch.setattr(ScanJob, name, telling(name))
    model = ctseg.load(weights, device="cpu", precision="fp32").model
    scan = make.scan(tmp_path / "scan.nii.gz", make.array())
    predict(model, scan, Wanted(), limits=Limits(), check=lambda: told.append("check"))
    for before, after in (("open ends", "run begins"), ("run begins", "run ends")):
        assert "check" in told[told.index(before) : told.index(after)]
    assert told[told.index("open begins") - 1] == "check" == told[-1]


def test_one_of_several_series_is_chosen(tmp_path: Path, make: Any, serve: Start) -> None:
    server = serve()
    folder = make.series(tmp_path / "ct", make.array(1), uid="1.2.3")
    make.series(folder, make.array(2, (5, 8, 8)), uid="1.2.4")
    body = zipped(folder, tmp_path / "ct.zip").read_bytes()
    found = httpx.post(f"{server.url}/predict", content=body)
    assert found.status_code == 422
    assert "1.2.3" in found.text
    assert "1.2.4" in found.text
    found = httpx.post(f"{server.url}/predict?series=1.2.4", content=body)
    assert found.status_code == 200, found.text
    (tmp_path / "mask.nii.gz").write_bytes(found.content)
    assert ctseg.read(tmp_path / "mask.nii.gz").array.shape == (5, 8, 8)


def test_a_doubtful_scan_has_a_note_and_a_hopeless_one_no_mask(
    tmp_path: Path, make: Any, serve: Start
) -> None:
    server = serve()
    scan = make.scan(tmp_path / "a.nii.gz", make.array(), (0.8, 0.9, 8.0))
    found = httpx.post(f"{server.url}/predict", content=scan.read_bytes())
    assert found.status_code == 200
    notes = json.loads(found.headers["ctseg-notes"])
    assert ["The result may be wrong" in note for note in notes] == [True]
    assert server.said[-1].endswith("1 notes")
    scan = make.scan(tmp_path / "b.nii.gz", make.array(), (0.8, 0.9, 80.0))
    found = httpx.post(f"{server.url}/predict", content=scan.read_bytes())
    assert found.status_code == 422
    problem = found.json()
    assert "up to 40 times apart" in problem["detail"]
    assert "spacing=X,Y,Z" in problem["hint"]
    assert "--" not in problem["hint"]
    text = ",".join(map(str, SPACING))
    found = httpx.post(f"{server.url}/predict?spacing={text}", content=scan.read_bytes())
    assert (found.status_code, found.headers["ctseg-notes"]) == (200, "[]")


def test_labels_are_chosen(tmp_path: Path, make: Any, serve: Start) -> None:
    server = serve()
    scan = make.scan(tmp_path / "scan.nii.gz", make.array()).read_bytes()
    values = []
    for labels in ("ball", "shell", "ball, shell"):
        found = httpx.post(f"{server.url}/predict", params={"labels": labels}, content=scan)
        (tmp_path / "mask.nii.gz").write_bytes(found.content)
        values.append(set(np.unique(ctseg.read(tmp_path / "mask.nii.gz").array)) - {0})
    assert values[0] <= {1} and values[1] <= {2} and values[2] == values[0] | values[1]


def test_the_service_describes_itself(serve: Start) -> None:
    server = serve(limits=Limits(waiting=3))
    with httpx.Client(base_url=server.url) as client:
        document = client.get("/openapi.json").json()
        page = client.get("/docs")
        assert client.get("/health/live").json() == {"live": True}
        assert client.get("/health/ready").json() == {"ready": True, "model": NAME}
    post = document["paths"]["/predict"]["post"]
    assert {p["name"] for p in post["parameters"]} == {"format", "labels", "series", "spacing"}
    body = post["requestBody"]["content"]["application/octet-stream"]["schema"]
    assert body == {"type": "string", "format": "binary"}
    assert set(post["responses"]["200"]["content"]) == {
        "application/gzip", "application/octet-stream", "application/dicom"
    }  # fmt: skip
    assert {"401", "413", "422", "503"} < set(post["responses"])
    assert page.headers["content-type"].startswith("text/html")
    for word in ("/predict", "labels", "Ctseg-Notes", "503"):
        assert word in page.text
    assert "<script" not in page.text  # nothing is fetched from elsewhere
