"""Reports, previews and viewer pages of short runs on real scans, made by the commands of the docs, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ctseg.cli.app import app
from tests.report.html.test_report_browser import check_page
from tests.report.viewer.browser import chromium, find_chromium, opened
from tests.report.viewer.test_browser import check_all

for needed in ("playwright", "ipyniivue", "skimage"):
    pytest.importorskip(needed)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_data,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium (apt-get install chromium)"),
]
SMALL = ["--set", "model.options.features=[4, 8]", "--batch-size", "2", "--steps", "3"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def ctseg(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def check_preview(png: Path) -> None:
    """Three planes of a grey scan, of which a part is in the colours of labels."""
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    coloured = (np.ptp(pixels, axis=2) > 40).mean()
    grey = (np.ptp(pixels, axis=2) <= 8) & (pixels.max(axis=2) > 40) & (pixels.min(axis=2) < 200)
    assert pixels.shape[1] > 200 and 0.001 < coloured < 0.9 and grey.mean() > 0.02, png


def check_report(browser: Any, html: Path, *words: str, pictures: int) -> None:
    with opened(browser, html, ready="footer") as shown:
        check_page(shown)
        assert shown.page.locator("img").count() >= pictures
        text = shown.text("body")
        assert all(word in text for word in words), (words, text[:2000])


def check_view(browser: Any, html: Path) -> None:
    with opened(browser, html) as shown:
        check_all(shown)


def test_five_folds_of_hippocampus(browser: Any, real_data: Path, tmp_path: Path) -> None:
    data = real_data / "Dataset004_Hippocampus"
    folds = json.loads((data / "splits.json").read_text())
    runs = [tmp_path / "runs" / f"fold{number}" for number in range(len(folds))]
    for number, run in enumerate(runs):
        ctseg("train", data, "-o", run, "--fold", str(number), "--patch", "24,32,24", *SMALL)
        worst = json.loads((run / "validation" / "report.json").read_text())["cases"]
        assert len(worst) == len(folds[number]["val"])
        check_report(browser, run / "report.html", "anterior", "posterior", pictures=3)
    made, html = tmp_path / "made", tmp_path / "scores.html"
    models = [word for run in runs for word in ("-m", run)]
    scans = tmp_path / "scans"
    scans.mkdir()
    for case in folds[0]["val"][:3]:
        (scans / f"{case}_0000.nii.gz").symlink_to(data / "imagesTr" / f"{case}_0000.nii.gz")
    ctseg("predict", scans, *models, "-o", made, "--preview")
    previews = sorted((made / "preview").glob("*.png"))
    assert len(previews) == 3
    for png in previews:
        check_preview(png)
    ctseg("evaluate", made, data, "--cases", ",".join(folds[0]["val"][:3]), "-o", html)
    check_report(browser, html, "anterior", "posterior", *folds[0]["val"][:3], pictures=9)
    ctseg("evaluate", runs[0], "--against", runs[0], "-o", html.with_name("same.html"))
    check_report(browser, html.with_name("same.html"), "anterior", pictures=0)


def test_tumours(browser: Any, real_data: Path, tmp_path: Path) -> None:
    full, data = real_data / "sts_ct", tmp_path / "data"
    document = json.loads((full / "dataset.json").read_text())
    document["training"] = document["training"][:4]
    for kind in ("imagesTr", "labelsTr"):
        (data / kind).mkdir(parents=True)
        for number in range(1, 5):
            name = f"sts_{number:03}.nii.gz"
            (data / kind / name).symlink_to(full / kind / name)
    (data / "dataset.json").write_text(json.dumps(document))
    ctseg("train", data, "-o", tmp_path / "run", "--patch", "16,48,48", *SMALL)
    check_report(browser, tmp_path / "run" / "report.html", "tumour", pictures=1)


def test_a_weave(browser: Any, real_data: Path, tmp_path: Path) -> None:
    scan = real_data / "weave_microct" / "weave.h5"
    run, made = tmp_path / "run", tmp_path / "made.h5"
    ctseg("train", scan, "-o", run, "--set", "data.val_slices=110:", "--patch", "32,32,32", *SMALL)
    check_report(browser, run / "report.html", "Best validation", pictures=1)
    region = ["--set", "region=100:150,0:150,0:150"]
    ctseg("predict", scan, "-m", run, "-o", made, "--preview", *region)
    check_preview(made.with_name("made_preview.png"))
    raw, label = (real_data / "weave_microct" / name for name in ("raw.tif", "label.tif"))
    ctseg("view", raw, label, "-o", tmp_path / "view.html")
    check_view(browser, tmp_path / "view.html")


def test_a_dicom_study(browser: Any, real_data: Path, tmp_path: Path) -> None:
    study, mask = real_data / "dicom_rtstruct" / "image", tmp_path / "sts_001.nii.gz"
    ctseg("predict", study, "-m", "residual_unet3d.sts_tumour_v0", "-o", mask, "--preview")
    check_preview(tmp_path / "sts_001_preview.png")
    drawn = real_data / "sts_ct" / "labelsTr" / "sts_001.nii.gz"
    html = tmp_path / "scores.html"
    ctseg("evaluate", mask, drawn, "-o", html)
    check_report(browser, html, "tumour", pictures=1)
    ctseg("view", study, mask, "-o", tmp_path / "view.html")
    check_view(browser, tmp_path / "view.html")
