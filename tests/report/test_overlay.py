"""Overlays: colours where the labels are, the right shape on paper, refusals before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctseg.errors import BadInput, GeometryMismatch
from ctseg.report.overlay import Look, Panel, draw_montage, draw_overlay
from ctseg.specs import Label, Task
from ctseg.task import classes_task
from ctseg.volume.volume import Volume

GREEN = (0, 255, 0)
TASK = Task("classes", (Label("background", (0,), 0), Label("organ", (1,), 1, GREEN)))


@pytest.fixture
def scan() -> Volume:
    array = np.random.default_rng(0).normal(0, 20, (10, 24, 20)).astype(np.int16)
    array[0] = -1000
    return Volume.from_array(array, spacing_xyz=(1.0, 1.0, 3.0))


@pytest.fixture
def label(scan: Volume) -> Volume:
    array = np.zeros(scan.array.shape, np.uint8)
    array[3:7, 4:12, 2:10] = 1  # to the patient's right of the middle
    return Volume(array, scan.geometry)


def pixels(png: Path) -> np.ndarray:
    with Image.open(png) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def green(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 1] - picture[..., [0, 2]].max(-1)) > 30


def test_labels_are_coloured_where_they_lie(tmp_path: Path, scan: Volume, label: Volume) -> None:
    empty = np.zeros(scan.array.shape, np.uint8)
    draw_overlay(scan, {"reference": label, "prediction": empty}, TASK, tmp_path / "out.png")
    picture = pixels(tmp_path / "out.png")
    rows, columns = np.nonzero(green(picture)[:-50])  # the legend lies below
    height, width = picture.shape[:2]
    assert rows.max() < 0.55 * height  # nothing was drawn over the empty prediction
    first = columns[columns < width * 0.3]  # the axial plane: the patient's right is on its left
    assert first.size > 200
    assert np.median(first) < 0.17 * width


def test_the_aspect_is_that_of_the_spacing(tmp_path: Path, scan: Volume, label: Volume) -> None:
    draw_overlay(scan, {"reference": label}, TASK, tmp_path / "out.png", look=Look(fill=1.0))
    axial = green(pixels(tmp_path / "out.png"))[:-50, 40:330]
    rows, columns = np.nonzero(axial)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=4)  # 8 x 8 mm
    whole = green(pixels(tmp_path / "out.png"))[:-50]
    right = np.nonzero(whole[:, 400:700])
    assert np.ptp(right[0]) / np.ptp(right[1]) == pytest.approx(12 / 8, abs=0.1)  # 4 x 3 mm high


def test_an_anatomical_montage_of_unlike_scans(tmp_path: Path, scan: Volume, label: Volume) -> None:
    small = Volume.from_array(scan.array[:, :12, :12], unit="um")
    panels = [
        Panel("first", scan, {"reference": label, "prediction": label}),
        Panel(
            "second", small, {"prediction": label.array[:, :12, :12], "reference": small.array * 0}
        ),
    ]
    draw_montage(panels, TASK, tmp_path / "out.png", title="two", plane="coronal")
    assert green(pixels(tmp_path / "out.png")).sum() > 200


@pytest.mark.parametrize("layers", [{}, {"prediction": np.zeros((10, 24, 20), np.uint8)}])
def test_nothing_to_lay_over_shows_the_scan(tmp_path: Path, scan: Volume, layers: dict) -> None:
    draw_overlay(scan, layers, TASK, tmp_path / "out.png", title="bare")
    assert pixels(tmp_path / "out.png")[..., 0].std() > 5


def test_many_labels_and_channels(tmp_path: Path, scan: Volume) -> None:
    names = {f"a rather long label {i}": i for i in range(1, 60)}
    labels = np.random.default_rng(0).integers(0, 60, scan.array.shape, np.uint8)
    two = Volume(np.stack([scan.array, scan.array]), scan.geometry)
    draw_overlay(
        two, {"reference": labels}, classes_task(names), tmp_path / "out.png", look=Look(channel=1)
    )
    regions = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    draw_overlay(two, {"reference": labels % 3}, regions, tmp_path / "regions.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "regions.png"]


def test_refusals_leave_no_file(tmp_path: Path, scan: Volume, label: Volume) -> None:
    png = tmp_path / "out.png"
    moved = Volume.from_array(label.array, spacing_xyz=(1.0, 1.0, 2.0))
    with pytest.raises(GeometryMismatch):
        draw_overlay(scan, {"reference": moved}, TASK, png)
    with pytest.raises(BadInput, match="no channel 1"):
        draw_overlay(scan, {}, TASK, png, look=Look(channel=1))
    with pytest.raises(BadInput, match="at least one"):
        draw_montage([], TASK, png)
    panels = [Panel("a", scan, {"prediction": label}), Panel("b", scan, {"reference": label})]
    with pytest.raises(BadInput, match="no prediction"):
        draw_montage(panels, TASK, png)
    assert not png.exists()
