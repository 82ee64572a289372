"""The page in Chromium: all of it works from disk, without a request and without an error in the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctseg
from ctseg.report.display import read_display
from ctseg.report.viewer.page import write_page
from ctseg.volume.volume import Volume
from tests.report.viewer.browser import Opened, chromium, find_chromium, opened

for needed in ("playwright", "ipyniivue", "skimage"):
    pytest.importorskip(needed)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium (apt-get install chromium)"),
]
TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))
GRID = {"spacing_xyz": (0.7, 0.8, 3.0), "origin_xyz": (-10.0, 20.0, 5.0), "direction": TURN}
REAL = {
    "hippocampus": (
        "Dataset004_Hippocampus/imagesTr/hippocampus_003_0000.nii.gz",
        "Dataset004_Hippocampus/labelsTr/hippocampus_003.nii.gz",
    ),
    "sts_ct": ("sts_ct/imagesTr/sts_001.nii.gz", "sts_ct/labelsTr/sts_001.nii.gz"),
    "weave": ("weave_microct/raw.tif", "weave_microct/label.tif"),
    "dicom": ("dicom_jpeg2000/series", "dicom_jpeg2000/organs_predicted.nii.gz"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def volumes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An oblique scan in Hounsfield units, a label map, and the same one moved."""
    rng = np.random.default_rng(0)
    label = np.zeros((14, 40, 50), np.uint8)
    label[3:11, 8:30, 6:24] = 1
    label[4:10, 10:32, 28:44] = 2
    hu = np.array([-900, 40, 60])[label] + rng.normal(0, 20, label.shape)
    return hu.astype(np.int16), label, np.roll(label, 3, axis=2)


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, volumes: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Path:
    folder = tmp_path_factory.mktemp("view")
    for name, array in zip(("scan", "mask", "other"), volumes, strict=True):
        ctseg.write(Volume.from_array(array, **GRID), folder / f"{name}.nii.gz")
    return folder


def view(folder: Path, *masks: str, compare: bool = False) -> Path:
    shown = read_display(folder / "scan.nii.gz", [folder / f"{name}.nii.gz" for name in masks])
    html = folder / f"{len(masks)}{compare}.html"
    write_page(shown, html, title="phantom", compare=compare)
    return html


def check_all(view: Opened) -> None:
    """What every page with a label map does."""
    assert view.changed(lambda: view.press("PageUp")) > 500, "planes scroll"
    first = view.page.locator("#legend input").first
    assert view.changed(first.click) > 100, "a label off changes pixels"
    assert view.changed(first.click) > 100, "and on again"
    windows = view.page.locator("#windows button")
    lung = windows.filter(has_text="lung")
    assert view.changed(lung.click) > 1000, "a window changes pixels"
    view.press("d")
    surface = view.changed(lambda: view.press("o"))
    assert surface > 1000, "the surface appears and goes with its labels"
    assert not view.said and len(view.asked) == 1, (view.said, view.asked)


def test_everything_works_on_a_phantom(browser: Any, page: Path) -> None:
    with opened(browser, view(page, "mask")) as shown:
        assert shown.page.locator("#legend h2").all_inner_texts() == ["mask.nii.gz"]
        assert "5.32 ml" in shown.text("#legend")  # 8 x 22 x 18 voxels of 1.68 mm3
        check_all(shown)
        assert shown.changed(lambda: shown.press("b")) > 1000, "the scan in 3D"
        shown.press("a")
        shown.press("o")
        assert shown.changed(lambda: shown.press("-")) > 300, "opacity"
        assert shown.changed(lambda: shown.page.locator("#high").fill("2000")) == 0
        assert shown.changed(lambda: shown.page.keyboard.press("Enter")) > 300, "typed window"


def test_the_crosshair_tells_place_value_and_label(
    browser: Any, page: Path, volumes: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    hu, label, _ = volumes
    geometry = ctseg.read(page / "scan.nii.gz").geometry
    with opened(browser, view(page, "mask")) as shown:
        for z, y, x in ((5, 12, 8), (5, 15, 35), (1, 2, 3)):
            lps = np.asarray(geometry.position((x, y, z)))
            ras = (lps * [-1, -1, 1]).tolist()
            shown.page.evaluate(
                "(mm) => { nv.scene.crosshairPos = nv.mm2frac(mm); nv.createOnLocationChange(); }",
                ras,
            )
            place, value, *names = shown.text().split("·")
            told = [float(n) for n in place.replace(" mm (LPS)", "").split(",")]
            np.testing.assert_allclose(told, lps, atol=0.06)
            assert value.strip() == f"value {hu[z, y, x]}"
            wanted = [f"label {label[z, y, x]}"] if label[z, y, x] else []
            assert [name.strip() for name in names] == wanted
        shown.page.locator("#legend button").first.click()
        assert shown.text().endswith("label 1")
        shown.page.locator("#legend input").first.click()
        assert "label" not in shown.text(), "a label that is off is not named"


def test_the_slider_and_the_keys_move_in_the_plane_shown(browser: Any, page: Path) -> None:
    with opened(browser, view(page, "mask")) as shown:
        for key, plane in (("a", "Axial"), ("c", "Coronal"), ("s", "Sagittal")):
            shown.press(key)
            assert shown.text("#plane").startswith(plane)
            assert shown.changed(lambda: shown.press("PageDown")) > 300
            before = shown.text("#plane")
            shown.page.locator("#slice").fill("5")
            assert shown.text("#plane").startswith(f"{plane} 6 of") and before != ""


def test_the_difference_of_two_maps_is_shown_first(browser: Any, page: Path) -> None:
    with opened(browser, view(page, "mask", "other", compare=True)) as shown:
        titles = shown.page.locator("#legend h2").all_inner_texts()
        assert titles == ["difference", "mask.nii.gz", "other.nii.gz"]
        boxes = shown.page.locator("#legend input")
        assert [boxes.nth(i).is_checked() for i in range(boxes.count())] == [True] * 3 + [False] * 4
        check_all(shown)


def test_a_phone_and_dark_colours(browser: Any, page: Path) -> None:
    options = {"has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    with opened(browser, view(page, "mask"), (390, 844), **options) as shown:
        wide, high = shown.page.evaluate(
            "() => ['Width', 'Height'].map((one) => document.documentElement[`scroll${one}`])"
        )
        assert wide <= 390 and high <= 844, "nothing to scroll"
        assert shown.page.locator("canvas").bounding_box()["height"] > 300
        assert shown.picture()[0, 0].max() < 40, "dark"
        box = shown.page.locator("canvas").bounding_box()
        shown.press("a")
        where = shown.text()
        finger = shown.page.context.new_cdp_session(shown.page)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, step in (("touchStart", 0), ("touchMove", 9), ("touchMove", 18)):
            touch = {"type": kind, "touchPoints": [{"x": x + step, "y": y}]}
            finger.send("Input.dispatchTouchEvent", touch)
            shown.page.wait_for_timeout(50)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert shown.until(lambda: shown.text() != where), "a finger moves the crosshair"
        assert shown.changed(lambda: shown.page.locator("#theme").tap()) > 1000
        assert not shown.said and len(shown.asked) == 1, (shown.said, shown.asked)


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_scans(browser: Any, real_data: Path, tmp_path: Path, name: str) -> None:
    scan, mask = (real_data / part for part in REAL[name])
    if not scan.exists():
        pytest.skip(f"no {scan}")
    write_page(read_display(scan, [mask], most=2**20), tmp_path / "page.html", title=name)
    with opened(browser, tmp_path / "page.html") as shown:
        check_all(shown)
