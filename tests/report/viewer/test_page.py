"""The page's content: what is embedded reads back, names are escaped, missing packages are named."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctseg.errors import BadInput
from ctseg.report.display import Display, DisplayLabels
from ctseg.report.viewer import page
from ctseg.report.viewer.data import difference, page_data
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

for needed in ("ipyniivue", "skimage", "trimesh"):
    pytest.importorskip(needed)
TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))
GRID = Geometry((9, 10, 12), (0.7, 0.8, 3.0), (-10.0, 20.0, 5.0), TURN)


def labels(name: str, first: int = 2) -> DisplayLabels:
    array = np.zeros(GRID.shape_zyx, np.uint16)
    array[first:7, 2:8, 2:9] = 1000
    array[3:5, 3:5, 3:5] = 7
    known = (Label("core", (7,), 7, (1, 2, 3)), Label("rim </script>", (1000,), 1000, (4, 5, 6)))
    return DisplayLabels(name, array, known, {7: 13.44, 1000: 100.0})


def display(unit: str = "mm") -> Display:
    hu = np.arange(np.prod(GRID.shape_zyx)).reshape(GRID.shape_zyx).astype(np.int16) - 1000
    geometry = Geometry(GRID.shape_zyx, GRID.spacing_xyz, GRID.origin_xyz, TURN, unit)
    return Display(Volume(hu, geometry), (labels("a"), labels("b", first=4)), "Reduced.")


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("um", 1000)])
def test_the_scan_and_its_labels_read_back(unit: str, factor: int) -> None:
    shown = display(unit)
    data = page_data(shown, extra="view")
    scan = nibabel.Nifti1Image.from_bytes(unpacked(data["scan"]))
    np.testing.assert_array_equal(np.asarray(scan.dataobj).T, shown.volume.array)
    to_ras = np.diag([-factor, -factor, factor, 1.0])
    np.testing.assert_allclose(scan.affine, to_ras @ GRID.affine, rtol=1e-5)
    layer = data["layers"][0]
    mask = np.asarray(nibabel.Nifti1Image.from_bytes(unpacked(layer["file"])).dataobj).T
    np.testing.assert_array_equal(mask == 1, shown.layers[0].array == 7)  # numbered from 1
    np.testing.assert_array_equal(mask == 2, shown.layers[0].array == 1000)
    assert [one["name"] for one in layer["labels"]] == ["core", "rim </script>"]
    place = np.linalg.inv(scan.affine) @ [*layer["labels"][0]["at"], 1]
    x, y, z = np.rint(place[:3]).astype(int)
    assert shown.layers[0].array[z, y, x] == 7


def test_surfaces_enclose_their_labels_in_the_space_of_the_files() -> None:
    import trimesh

    shown = display()
    label = page_data(shown, extra="view")["layers"][0]["labels"][1]
    raw = unpacked(label["surface"])
    magic, kinds, triangles, points, skip = struct.unpack("<HHIII", raw[:16])
    assert (magic, kinds, skip) == (23117, 3, 0)
    faces = np.frombuffer(raw, "<i4", 3 * triangles, 16).reshape(-1, 3)
    ras = np.frombuffer(raw, "<f4", 3 * points, 16 + 12 * triangles).reshape(-1, 3)
    mesh = trimesh.Trimesh(ras, faces, process=False)
    inside = shown.layers[0].array == 1000
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(inside.sum() * GRID.voxel_volume_mm3, rel=1e-3)
    middle = np.asarray(GRID.position(np.argwhere(inside)[:, ::-1].mean(axis=0)))
    np.testing.assert_allclose(mesh.center_mass, middle * [-1, -1, 1], atol=0.1)


def test_the_difference_of_two_maps() -> None:
    a, b = labels("a"), labels("b", first=4)
    b.array[6, 7, 8] = 7
    found = difference(a, b, GRID)
    names = [label.name for label in found.labels]
    assert names == ["same label in both", "only in a", "another label"]  # none is only in b
    both = (a.array > 0) & (b.array > 0)
    assert found.array[6, 7, 8] == 4
    np.testing.assert_array_equal(found.array == 2, (a.array > 0) & ~(b.array > 0))
    np.testing.assert_array_equal(found.array == 1, both & (a.array == b.array))
    assert sum(found.volumes_mm3.values()) == pytest.approx(
        ((a.array > 0) | (b.array > 0)).sum() * GRID.voxel_volume_mm3
    )
    data = page_data(display(), extra="view", compare=True)
    assert [(one["name"], one["shown"]) for one in data["layers"]] == [
        ("difference", True), ("a", False), ("b", False),
    ]  # fmt: skip


def test_windows_suit_the_scan() -> None:
    def windows(array: np.ndarray) -> list[Any]:
        shown = Display(Volume(array, GRID), (), "")
        return page_data(shown, extra="view")["windows"]

    ct = windows(display().volume.array)
    assert [w[0] for w in ct] == ["soft tissue", "lung", "bone", "brain", "full range"]
    assert ct[0] == ["soft tissue", -160.0, 240.0] and ct[-1] == ["full range", -1000.0, 79.0]
    grey = windows(np.random.default_rng(0).integers(0, 99, GRID.shape_zyx).astype(np.uint8))
    assert grey[0][0] == "auto" and 0 <= grey[0][1] < grey[0][2] <= 98


@pytest.mark.parametrize("kept", [[-5.0, 70.0], []])
def test_values_that_are_not_finite_leave_the_range_to_the_others(
    kept: list[float], tmp_path: Path
) -> None:
    values = np.full(GRID.shape_zyx, np.nan, np.float32)
    if kept:
        values.flat[:4] = [*kept, -np.inf, np.inf]
    shown = Display(Volume(values, GRID), (), "")
    page.write_page(shown, tmp_path / "page.html", title="")
    data = page_data(shown, extra="view")
    assert data["windows"][-1] == ["full range", *(kept or [0.0, 1.0])]
    scan = np.asarray(nibabel.Nifti1Image.from_bytes(unpacked(data["scan"])).dataobj).T
    assert scan.flat[:5].tolist() == ([-5, 70, -5, 70, 0] if kept else [0] * 5)


def test_labels_of_negative_values_are_shown() -> None:
    array = np.zeros(GRID.shape_zyx, np.int16)
    array[2:4, 2:4, 2:4], array[5:8, 5:8, 5:8] = -3, 4
    known = (Label("low", (-3,), -3, (1, 2, 3)), Label("high", (4,), 4, (4, 5, 6)))
    shown = Display(display().volume, (DisplayLabels("a", array, known, {-3: 1.0, 4: 2.0}),), "")
    (layer,) = page_data(shown, extra="view")["layers"]
    mask = np.asarray(nibabel.Nifti1Image.from_bytes(unpacked(layer["file"])).dataobj).T
    np.testing.assert_array_equal(mask == 1, array == -3)
    np.testing.assert_array_equal(mask == 2, array == 4)
    assert all("at" in label for label in layer["labels"])


def test_one_file_that_loads_nothing_and_escapes_names(tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    page.write_page(display(), html, title="<b> & </title>")
    text = html.read_text("utf-8")
    assert "<title>&lt;b&gt; &amp; &lt;/title&gt;</title>" in text
    assert "default-src &#x27;none" not in text and "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"'](?!data:)", text)
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert block is not None
    data = json.loads(block[1])
    assert data["layers"][0]["labels"][1]["name"] == "rim </script>"
    assert text.lower().count("</script>") == 3
    assert "@@" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_a_missing_or_strange_niivue_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="ipyniivue is not installed") as caught:
        page.niivue_script()
    assert caught.value.hint == "Install it: pip install 'ctseg[view]'"
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "widget.js").write_text("export{a as default};")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(page, "find_spec", lambda name: spec)
    with pytest.raises(BadInput, match="a form that ctseg does not know"):
        page.niivue_script()
