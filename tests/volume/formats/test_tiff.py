"""TIFF stacks as ImageJ, OME and tifffile write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from ctseg.errors import FileProblem
from ctseg.specs import Label
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

STACK = np.random.default_rng(0).integers(0, 60000, (6, 7, 8)).astype(np.uint16)


def test_imagej_calibration(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, resolution=(1 / 2.5, 1 / 2.5),
        metadata={"spacing": 4.0, "unit": "micron", "axes": "ZYX"},
    )  # fmt: skip
    volume = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, STACK)
    np.testing.assert_allclose(volume.spacing_xyz, (0.0025, 0.0025, 0.004), rtol=1e-6)
    assert volume.geometry.unit == "um"


HU = np.linspace(-32768, 32767, STACK.size).astype(np.int16).reshape(STACK.shape)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_signed_scans_that_imagej_stores_unsigned(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", (HU.astype(np.int32) + 32768).astype(np.uint16), imagej=True, compression=compression,
        metadata={"axes": "ZYX", "cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"},
    )  # fmt: skip
    with open_volume(tmp_path / "a.tif") as source:
        assert source.dtype == np.int16
        np.testing.assert_array_equal(source.read()[0], HU)
        np.testing.assert_array_equal(source.read_box((1, 2, 3), (4, 5, 6))[0], HU[1:4, 2:5, 3:6])


@pytest.mark.parametrize(
    ("offset", "slope", "dtype"),
    [
        (0.0, 1.0, np.uint16),
        (-1024.0, 1.0, np.int32),
        (65535.0, -1.0, np.uint16),
        (-0.5, 0.001, np.float32),
    ],
)
def test_calibrated_grey_values(tmp_path: Path, offset: float, slope: float, dtype: type) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX", "cf": 0, "c0": offset, "c1": slope}
    )  # fmt: skip
    array = read(tmp_path / "a.tif").array
    assert array.dtype == dtype
    np.testing.assert_allclose(array, STACK * slope + offset, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("more", [{"cf": 7, "c2": 1.0}, {"cf": 21}, {"cf": 0, "zeroclip": True}])
def test_other_calibrations_of_grey_values_are_refused(
    tmp_path: Path, more: dict[str, object]
) -> None:
    calibration = {"axes": "ZYX", "c0": 1.0, "c1": 2.0, **more}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=calibration)
    with pytest.raises(FileProblem, match="calibration of ImageJ") as caught:
        read(tmp_path / "a.tif")
    assert "32-bit" in str(caught.value.hint)


def test_ome_calibration(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", STACK, ome=True,
        metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.6,
                  "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 2, "PhysicalSizeZUnit": "µm"},
    )  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / "a.ome.tif").spacing_xyz, (5e-4, 6e-4, 2e-3))


def test_without_calibration_the_spacing_is_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, resolution=(72, 72), resolutionunit="INCH")
    volume = read(tmp_path / "a.tif")
    assert volume.spacing_xyz == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(volume.array, STACK)


def test_what_is_written_is_calibrated_for_imagej(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_imagej
        assert tif.imagej_metadata["spacing"] == 3.1
        assert tif.imagej_metadata["unit"] == "mm"
        x, y = tif.pages.first.tags["XResolution"].value, tif.pages.first.tags["YResolution"].value
        assert x[1] / x[0] == pytest.approx(0.7)
        assert y[1] / y[0] == pytest.approx(1.3)
        np.testing.assert_array_equal(tif.asarray(), oblique.array)


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX"])
def test_channels(tmp_path: Path, axes: str) -> None:
    array = np.random.default_rng(0).integers(0, 9, (3, 6, 7, 8)).astype(np.uint8)
    stored = np.moveaxis(array, 0, 1) if axes == "ZCYX" else array
    kind = {"imagej": True} if axes == "ZCYX" else {"ome": True}
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata={"axes": axes}, **kind)
    with open_volume(tmp_path / "a.tif") as source:
        assert source.channels == 3
        np.testing.assert_array_equal(source.read(), array)
        np.testing.assert_array_equal(source.read((2, 4)), array[:, 2:4])


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_compressed_and_big_endian_pages(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, compression=compression, byteorder=">")
    with open_volume(tmp_path / "a.tif") as source:
        assert source.by_region
        assert source.dtype.isnative
        np.testing.assert_array_equal(source.read()[0], STACK)
        np.testing.assert_array_equal(source.read((1, 2))[0], STACK[1:2])


def test_one_page_is_one_slice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0])
    assert read(tmp_path / "a.tif").array.shape == (1, 7, 8)


def test_colour_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 9, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(FileProblem, match="colour"):
        read(tmp_path / "a.tif")


def test_five_axes_are_refused(tmp_path: Path) -> None:
    array = np.zeros((2, 3, 2, 5, 5), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(FileProblem, match="axes"):
        read(tmp_path / "a.tif")


def test_pages_that_are_missing(tmp_path: Path) -> None:
    label = (Label("a", (1,), 1),)
    write(Volume.from_array(STACK), tmp_path / "a.tif", labels=label)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        fourth = tif.pages[3]
        link = fourth.offset + 2 + 12 * len(fourth.tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[link : link + 4] = bytes(4)  # the chain of pages ends here
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FileProblem, match="truncated"):
        read(tmp_path / "a.tif")


@pytest.mark.real_data
def test_imagej_stack_with_the_resolution_of_a_print(real_data: Path) -> None:
    volume = read(real_data / "weave_microct" / "raw.tif")
    assert volume.spacing_xyz == (1.0, 1.0, 1.0)
    hdf5 = read(real_data / "weave_microct" / "weave.h5")
    np.testing.assert_array_equal(volume.array, hdf5.array)


def test_pages_written_one_by_one_are_no_stack(tmp_path: Path) -> None:
    """Each is a picture of its own, and the first one would be taken for the scan."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in STACK:
            writer.write(plane)
    with pytest.raises(FileProblem, match="6 pictures or stacks"):
        read(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(STACK)
        writer.write(STACK[0, ::2, ::2])  # a thumbnail
    np.testing.assert_array_equal(read(tmp_path / "b.tif").array, STACK)
