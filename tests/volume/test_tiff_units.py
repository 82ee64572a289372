"""Voxel sizes of TIFFs: every unit of OME-XML, the resolution tags, and what no program meant as a voxel size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from ctseg.data.inspection.scans import inspect_volume
from ctseg.errors import FileProblem
from ctseg.volume.convert import Conversion, convert
from ctseg.volume.formats.calibration import UNKNOWN
from ctseg.volume.io import open_volume, read

STACK = np.zeros((6, 9, 11), np.uint16)


def _ome(path: Path, **sizes: object) -> Path:
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX", **sizes})
    return path


def _size(value: float, unit: str) -> dict[str, object]:
    return {
        f"PhysicalSize{axis}{key}": given
        for axis in "XYZ"
        for key, given in (("", value), ("Unit", unit))
    }


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("Ym", 5e-30), ("Zm", 5e-27), ("Em", 5e-24), ("Pm", 5e-21), ("Tm", 5e-18), ("Gm", 5e-15), ("Mm", 5e-12),
        ("km", 5e-9), ("hm", 5e-8), ("dam", 5e-7), ("m", 5e-6), ("dm", 5e-5), ("cm", 5e-4), ("mm", 5e-3),
        ("µm", 5), ("nm", 5e3), ("pm", 5e6), ("fm", 5e9), ("am", 5e12), ("zm", 5e15), ("ym", 5e18), ("Å", 5e4),
        ("thou", 5e-3 / 0.0254), ("li", 5e-3 / 25.4 * 12), ("in", 5e-3 / 25.4), ("ft", 5e-3 / 304.8),
        ("yd", 5e-3 / 914.4), ("mi", 5e-3 / 1_609_344), ("ua", 5e-6 / 1.495978707e11),
        ("ly", 5e-6 / 9.4607304725808e15), ("pc", 5e-6 / 3.0856775814913673e16), ("pt", 5e-3 / 25.4 * 72),
    ],
)  # fmt: skip
def test_every_length_of_the_ome_schema(tmp_path: Path, unit: str, value: float) -> None:
    """Each of these is 5 micrometres."""
    spacing = read(_ome(tmp_path / "a.ome.tif", **_size(value, unit))).spacing_xyz
    np.testing.assert_allclose(spacing, (0.005, 0.005, 0.005), rtol=1e-6)


@pytest.mark.parametrize("unit", ["reference frame", "furlong", "MM", "pixel"])
def test_what_is_no_length_is_refused(tmp_path: Path, unit: str) -> None:
    path = _ome(tmp_path / "a.ome.tif", **_size(3, unit))
    with pytest.raises(FileProblem, match=f"'{unit}', which is no known length(.|\n)*spacing"):
        read(path)
    assert read(path, spacing="5um").spacing_xyz == (0.005, 0.005, 0.005)


@pytest.mark.parametrize("value", ["nan", "0", "-1", "big"])
def test_what_is_no_size_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(FileProblem, match="voxel size along x"):
        read(_ome(tmp_path / "a.ome.tif", PhysicalSizeX=value, PhysicalSizeY=1.0))


def test_pixels_of_size_one_are_no_calibration(tmp_path: Path) -> None:
    with open_volume(_ome(tmp_path / "a.ome.tif", **_size(1, "pixel"))) as source:
        assert source.geometry.spacing_xyz == (1, 1, 1)
        assert source.metadata[UNKNOWN]


@pytest.mark.parametrize(
    ("unit", "dots", "size"),
    [
        ("CENTIMETER", 2000.0, 0.005),
        ("CENTIMETER", 12.5, 0.8),
        ("INCH", 50.8, 0.5),
        ("INCH", 254.0, 0.1),
    ],
)
def test_resolution_tags(tmp_path: Path, unit: str, dots: float, size: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, resolution=(dots, dots / 2), resolutionunit=unit)
    x, y, _ = sitk.ReadImage(str(tmp_path / "a.tif")).GetSpacing()
    assert (x, y) == pytest.approx((size, 2 * size))
    with open_volume(tmp_path / "a.tif") as source:
        assert source.geometry.spacing_xyz == pytest.approx((x, y, x))
        assert "distance of slices is unknown" in source.metadata["notes"][0]
    tifffile.imwrite(
        tmp_path / "b.tif", STACK, imagej=True, resolution=(dots, dots), resolutionunit=unit,
        metadata={"unit": {"CENTIMETER": "cm", "INCH": "inch"}[unit], "spacing": 3 / dots},
    )  # fmt: skip
    spacing = read(tmp_path / "b.tif").spacing_xyz
    assert spacing == pytest.approx((size, size, 3 * size), rel=1e-6)


def test_what_simpleitk_writes(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(STACK)
    image.SetSpacing((0.37, 0.37, 2.0))  # of which TIFF keeps x and y
    sitk.WriteImage(image, str(tmp_path / "a.tif"))
    x, y, _ = sitk.ReadImage(str(tmp_path / "a.tif")).GetSpacing()
    assert read(tmp_path / "a.tif").spacing_xyz[:2] == pytest.approx((x, y), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "does not say"),
        ({"resolution": (1, 1), "resolutionunit": "INCH"}, "1 dot per inch"),
        ({"resolution": (1, 1), "resolutionunit": "CENTIMETER"}, "1 dot per centimetre"),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, "300 dots per inch"),
        ({"resolution": (28.3465, 28.3465), "resolutionunit": "CENTIMETER"}, "72 dots per inch"),
        ({"resolution": (2000, 2000), "resolutionunit": "NONE"}, "does not say"),
        ({"imagej": True, "metadata": {"unit": "pixel"}}, "pixels"),
        ({"imagej": True, "metadata": {"unit": "furlong"}}, "furlong"),
    ],
)
def test_inspect_says_that_the_spacing_is_unknown(
    tmp_path: Path, options: dict[str, object], why: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, **options)
    report = inspect_volume(tmp_path / "a.tif")
    assert report.spacing_xyz == (1, 1, 1)
    (note,) = report.notes
    assert why in note and "unknown" in note and "--option spacing" in note
    assert inspect_volume(tmp_path / "a.tif", spacing="5um").notes == []
    done = convert(Conversion(tmp_path / "a.tif", tmp_path / "a.nrrd"))
    assert done.notes == (note,)
