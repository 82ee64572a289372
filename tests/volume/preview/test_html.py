"""What notebooks show of volumes: facts and slices, with little read of a scan on disk."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ctseg
from ctseg.errors import FileProblem
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.geometry import Geometry
from ctseg.volume.preview.html import WIDEST, source_html
from ctseg.volume.preview.paint import paint_labels
from ctseg.volume.volume import Volume
from tests.test_markup import HOSTILE, Seen


def pictures(html: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found
    ]


def test_a_volume_shows_facts_and_its_three_middle_planes() -> None:
    hu = np.full((4, 20, 40), -1000, np.int16)
    hu[2, 8:13] = 240
    volume = Volume.from_array(hu, spacing_xyz=(0.5, 1.0, 5.0))
    html = volume._repr_html_()
    assert "4 × 20 × 40" in html and "0.5 × 1 × 5 mm" in html and "int16" in html and "LPS" in html
    axial, coronal, sagittal = pictures(html)
    assert axial.shape == coronal.shape == sagittal.shape == (220, 220, 3)
    assert axial[110].max() == 255 and axial[20].max() == 0
    assert "µm" in Volume.from_array(hu, spacing_xyz=(0.005,) * 3, unit="um")._repr_html_()


def test_a_label_map_is_shown_in_colours() -> None:
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[:, 2:6, 2:6] = 7
    coloured = pictures(Volume.from_array(labels)._repr_html_())[0]
    assert (np.ptp(coloured[100:120, 100:120].astype(int), axis=2) > 50).all()
    assert not coloured[:20].any()
    grey = pictures(Volume.from_array(labels.astype(np.float32))._repr_html_())[0]
    assert not np.ptp(grey.astype(int), axis=2).any()


def test_channels_and_empty_values_are_shown() -> None:
    array = np.full((2, 3, 4, 5), np.nan, np.float32)
    assert "float32, 2 channels" in Volume.from_array(array)._repr_html_()


@pytest.mark.parametrize("by_region", [True, False])
def test_of_a_giant_on_disk_one_slice_is_read_at_most(by_region: bool) -> None:
    read: list[tuple[Any, ...]] = []

    def load_box(start: Any, stop: Any) -> np.ndarray:
        read.append((start, stop))
        return np.ones((1, *(b - a for a, b in zip(start, stop, strict=True))), np.uint16)

    header = ScanHeader(Geometry((5000, 9000, 7000)), np.uint16, by_region=by_region)
    giant = Source(
        Path("giant.zarr"), header, lambda *_: pytest.fail("all of it"), load_box=load_box
    )
    html = giant._repr_html_()
    assert "5000 × 9000 × 7000" in html
    assert len(pictures(html)) == len(read) == int(by_region)
    for start, stop in read:
        assert [b - a for a, b in zip(start, stop, strict=True)] == [1, WIDEST, WIDEST]
        assert start[0] == 2500


def test_a_file_opens_in_a_notebook_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    ctseg.write(Volume.from_array(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), path)
    with ctseg.open(path) as source:
        assert len(pictures(source._repr_html_())) == 1

    def broken(start: Any, stop: Any) -> np.ndarray:
        raise FileProblem(HOSTILE)

    header = ScanHeader(Geometry((2, 2, 2)), np.uint8)
    shown = source_html(Source(path, header, lambda *_: np.zeros(1), load_box=broken))
    assert Seen(shown).tags.count("script") == 0 and "<script>alert" in Seen(shown).text


def test_contours_lie_inside_labels_and_the_border_has_none() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[:, :20] = 1
    painted = paint_labels(np.zeros((40, 40), np.uint8), labels, [(200, 0, 0)], fill=0.5)
    assert set(np.unique(painted[..., 0])) == {0, 100, 200}
    assert (painted[:, 18:20, 0] == 200).all() and (painted[:, :17, 0] == 100).all()
    assert not painted[:, 20:].any()
