"""Micrometres of foreign files, and colours, which are no scans."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import FileProblem
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import read, write
from ctseg.volume.volume import Volume

ARRAY = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.int16)
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 5 4 3
space directions: (5,0,0) (0,5,0) (0,0,10)
kinds: domain domain domain
endian: little
encoding: raw
space units: {units}
space origin: (100,0,0)

"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
Offset = 100 0 0
DistanceUnits = {unit}
ElementSpacing = 5 5 10
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


def micro(path: Path) -> Geometry:
    geometry = read(path).geometry
    np.testing.assert_array_equal(read(path).array, ARRAY)
    return geometry


@pytest.mark.parametrize(
    "units", ['"um" "um" "um"', '"µm" "µm" "µm"', '"micron" "micron" "micron"']
)
def test_space_units_of_nrrd(tmp_path: Path, units: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(NRRD.format(units=units).encode() + ARRAY.tobytes())
    geometry = micro(tmp_path / "a.nrrd")
    assert geometry.unit == "um"
    assert geometry.spacing_xyz == pytest.approx((0.005, 0.005, 0.01))
    assert geometry.origin_xyz == pytest.approx((0.1, 0, 0))


def test_units_that_differ_or_say_nothing_are_millimetres(tmp_path: Path) -> None:
    for units in ('"um" "um" "mm"', '"" "" ""', '"mm" "mm" "mm"'):
        (tmp_path / "a.nrrd").write_bytes(NRRD.format(units=units).encode() + ARRAY.tobytes())
        assert micro(tmp_path / "a.nrrd").spacing_xyz == (5, 5, 10)


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e-3), ("mm", 1.0), ("cm", 10.0), ("?", 1.0)])
def test_distance_units_of_metaimage(tmp_path: Path, unit: str, factor: float) -> None:
    (tmp_path / "a.mha").write_bytes(META.format(unit=unit).encode() + ARRAY.tobytes())
    geometry = micro(tmp_path / "a.mha")
    assert geometry.spacing_xyz == pytest.approx((5 * factor, 5 * factor, 10 * factor))
    assert geometry.origin_xyz == pytest.approx((100 * factor, 0, 0))
    assert geometry.unit == ("um" if unit == "um" else "mm")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".h5", ".tif"])
def test_read_write_read_write(tmp_path: Path, suffix: str) -> None:
    """Two rounds, since a unit applied twice shows only in the second."""
    volume = Volume.from_array(ARRAY, spacing_xyz=(0.0005, 0.005, 0.01), unit="um")
    for number in range(3):
        write(volume, tmp_path / f"{number}{suffix}")
        volume = read(tmp_path / f"{number}{suffix}")
        assert volume.geometry.unit == "um"
        np.testing.assert_allclose(volume.spacing_xyz, (0.0005, 0.005, 0.01), rtol=1e-6)
    if suffix in (".nrrd", ".mha", ".nii"):  # SimpleITK knows millimetres only
        image = sitk.ReadImage(str(tmp_path / f"1{suffix}"))
        np.testing.assert_allclose(image.GetSpacing(), (0.0005, 0.005, 0.01), rtol=1e-6)


def test_element_size_becomes_the_unit(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = ARRAY
        file["raw"].attrs["element_size_um"] = (10.0, 5.0, 5.0)
    write(read(tmp_path / "a.h5"), tmp_path / "b.nrrd")
    assert micro(tmp_path / "b.nrrd").spacing_xyz == pytest.approx((0.005, 0.005, 0.01))


def test_colour_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    content = (tmp_path / "a.nrrd").read_bytes()
    assert b"kinds: vector" in content
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"kinds: vector", b"kinds: RGB-color"))
    with pytest.raises(FileProblem, match="rgb-color"):
        read(tmp_path / "a.nrrd")
