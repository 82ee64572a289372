"""Folders of slices: order, calibration, gaps, and which folders are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from ctseg import plugins
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.convert import Conversion, convert, find_jobs
from ctseg.volume.formats.pictures import is_slices
from ctseg.volume.formats.units import read_spacing
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

STACK = np.random.default_rng(0).integers(0, 60000, (12, 7, 8)).astype(np.uint16)


def fill(
    folder: Path, suffix: str = ".tif", name: str = "scan_{}", numbers: range = range(12)
) -> Path:
    folder.mkdir(exist_ok=True)
    for plane, number in zip(STACK, numbers, strict=False):
        path = folder / (name.format(number) + suffix)
        if suffix == ".png":
            path.write_bytes(imagecodecs.png_encode(plane))
        else:
            tifffile.imwrite(path, plane, metadata=None)
    return folder


@pytest.mark.parametrize("suffix", [".tif", ".png", ".TIFF"])
def test_natural_order_and_single_slices(tmp_path: Path, suffix: str) -> None:
    folder = fill(tmp_path / "a", suffix)  # scan_10 comes before scan_2 in the alphabet
    with open_volume(folder, spacing="5 5 10um") as source:
        assert source.by_region
        assert source.geometry.unit == "um"
        assert source.geometry.spacing_xyz == pytest.approx((0.005, 0.005, 0.01))
        np.testing.assert_array_equal(source.read()[0], STACK)
        np.testing.assert_array_equal(
            source.read_box((9, 1, 2), (11, 3, 8))[0], STACK[9:11, 1:3, 2:]
        )
    if suffix != ".TIFF":  # SimpleITK reads the same numbers in the same order
        names = [str(folder / f"scan_{i}{suffix}") for i in range(12)]
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(names)), STACK)


def test_calibration_of_the_first_slice(tmp_path: Path) -> None:
    for number, plane in enumerate(STACK):
        tifffile.imwrite(
            tmp_path / f"{number:03d}.tif", plane, imagej=True, resolution=(1 / 2.5, 1 / 2.5),
            metadata={"unit": "micron"},
        )  # fmt: skip
    geometry = read(tmp_path).geometry
    assert geometry.spacing_xyz == pytest.approx((0.0025, 0.0025, 0.0025), rel=1e-6)
    assert geometry.unit == "um"


def test_grey_values_of_each_slice_are_calibrated(tmp_path: Path) -> None:
    for number, plane in enumerate(STACK):
        tifffile.imwrite(
            tmp_path / f"{number:03d}.tif", plane, imagej=True, metadata={"cf": 0, "c0": -32768.0, "c1": 1.0}
        )  # fmt: skip
    with open_volume(tmp_path) as source:
        assert source.dtype == np.int16
        np.testing.assert_array_equal(source.read()[0], STACK.astype(np.int32) - 32768)


def test_every_second_slice_is_a_scan_but_a_lost_one_is_told(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "a", numbers=range(0, 24, 2))).array.shape == (12, 7, 8)
    folder = fill(tmp_path / "b")
    (folder / "scan_5.tif").unlink()
    with pytest.raises(FileProblem, match=r"1 gaps.*scan_4\.tif and scan_6\.tif"):
        read(folder)
    assert read(folder, gaps="yes").array.shape == (11, 7, 8)
    with pytest.raises(BadInput, match="gaps"):
        read(folder, gaps="perhaps")


def test_two_files_of_one_number(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a")
    tifffile.imwrite(folder / "scan_05.tif", STACK[0], metadata=None)
    with pytest.raises(FileProblem, match="same number"):
        read(folder)


def named(folder: Path, *stems: str) -> Path:
    """A folder of slices with these names, in the order of the stack."""
    folder.mkdir()
    for plane, stem in zip(STACK, stems, strict=False):
        tifffile.imwrite(folder / f"{stem}.tif", plane, metadata=None)
    return folder


@pytest.mark.parametrize(
    "stems",
    [
        [f"z{number / 4}" for number in range(8)],
        ["z0.00", "z0.33", "z0.67", "z1.00"],
        [f"a1.{number}" for number in range(7, 13)],  # 1.10 is no number before 1.9
        [f"1.2.840.{number}" for number in range(7, 13)],
        [f"img.{number:03d}" for number in range(3)],
        [f"v1.5_{number:04d}" for number in range(3)],
        [f"{number}_z{number / 8}" for number in range(7, 13)],
        ["i1_z0.1", "i2_z0.15", "i3_z0.9"],  # positions may be uneven where an index has no gaps
        [f"t{2**70 + number}" for number in range(3)],
    ],
)
def test_numbers_of_all_kinds_are_in_order(tmp_path: Path, stems: list[str]) -> None:
    folder = named(tmp_path / "a", *stems)
    assert is_slices(folder)
    np.testing.assert_array_equal(read(folder).array, STACK[: len(stems)])


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        ([f"scan{n // 3 + 1}_{n % 3:03d}" for n in range(6)], "scan1_000.*are these several scans"),
        (["z0.0", "z0.5", "z1.0", "z1.5", "z2.5", "z3.0"], r"1 gaps.*z1\.5\.tif and z2\.5\.tif"),
        (["s0", "s1", "s3"], r"1 gaps.*s1\.tif and s3"),
        (["p1.001", "p1.002", "p1.003", "p2.001", "p2.002"], r"1 gaps.*p1\.003\.tif and p2"),
    ],
)
def test_two_scans_and_lost_positions_are_refused(
    tmp_path: Path, stems: list[str], message: str
) -> None:
    folder = named(tmp_path / "a", *stems)
    with pytest.raises(FileProblem, match=message) as error:
        read(folder)
    assert "gaps=yes" in str(error.value.hint)
    np.testing.assert_array_equal(read(folder, gaps="yes").array, STACK[: len(stems)])


def test_slices_that_differ(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a")
    tifffile.imwrite(folder / "scan_3.tif", STACK[3, :5], metadata=None)
    with open_volume(folder) as source:
        source.read((0, 3))
        with pytest.raises(FileProblem, match=r"scan_3\.tif has \(5, 8\)"):
            source.read()
    folder = fill(tmp_path / "b", ".png")
    (folder / "scan_0.png").write_bytes(imagecodecs.png_encode(np.zeros((7, 8, 3), np.uint8)))
    with pytest.raises(FileProblem, match="colour"):
        read(folder)
    (folder / "scan_0.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(FileProblem, match=r"scan_0\.png"):
        read(folder)


def test_which_folders_are_none(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    for number in range(2):  # several pages; and ImageJ's one page with many pictures
        tifffile.imwrite(stacks / f"a{number}.tif", STACK, compression="zlib", metadata=None)
    assert not is_slices(stacks)
    for number in range(2):
        tifffile.imwrite(stacks / f"a{number}.tif", STACK, imagej=True)
    assert not is_slices(stacks)
    mixed = fill(tmp_path / "mixed")
    assert is_slices(mixed)
    tifffile.imwrite(mixed / "overview.tif", STACK[0])
    assert not is_slices(mixed)
    with pytest.raises(FileProblem, match="numbered slices"):
        read(mixed)
    assert not is_slices(tmp_path / "nothing")
    twice = tmp_path / "twice"  # one picture in two formats
    twice.mkdir()
    tifffile.imwrite(twice / "scan.tif", STACK[0])
    (twice / "scan.png").write_bytes(imagecodecs.png_encode(STACK[0]))
    assert not is_slices(twice)
    assert not is_slices(named(tmp_path / "sign", "a1.5", "a#.5"))
    single = tmp_path / "big.tif"
    tifffile.imwrite(single, STACK[0], bigtiff=True)
    (tmp_path / "bigs").mkdir()
    for number in range(2):
        tifffile.imwrite(tmp_path / "bigs" / f"{number}.tif", STACK[0], bigtiff=True, byteorder=">")
    assert is_slices(tmp_path / "bigs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.7 0.7 2.5", ((0.7, 0.7, 2.5), "mm")),
        ("5um", ((0.005, 0.005, 0.005), "um")),
        ("5, 5, 10 µm", ((0.005, 0.005, 0.01), "um")),
        ("1x1x2cm", ((10.0, 10.0, 20.0), "mm")),
        ("1e-2", ((0.01, 0.01, 0.01), "mm")),
    ],
)
def test_spacing_as_people_write_it(text: str, expected: tuple[tuple[float, ...], str]) -> None:
    assert read_spacing(text)[0] == pytest.approx(expected[0])
    assert read_spacing(text)[1] == expected[1]


@pytest.mark.parametrize("text", ["", "big", "1 2", "0 1 1", "-1", "5 ells", "1 2 3 4"])
def test_no_spacing(text: str) -> None:
    with pytest.raises(BadInput, match="is not a spacing"):
        read_spacing(text)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    make = plugins.format_named("slices").writer
    assert make is not None
    geometry = Geometry((12, 7, 8), (0.005, 0.006, 0.02), unit="um")
    writer = make(tmp_path / "out", geometry, np.dtype("uint16"))
    writer.write(0, STACK[:5])
    assert not (tmp_path / "out").exists()
    writer.abort()
    assert list(tmp_path.iterdir()) == []
    writer = make(tmp_path / "out", geometry, np.dtype("uint16"))
    writer.write(0, STACK)
    writer.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    back = read(tmp_path / "out")
    assert back.geometry.difference(geometry) is None and back.geometry.unit == "um"
    np.testing.assert_array_equal(back.array, STACK)
    names = [str(tmp_path / "out" / f"slice_{i:04d}.tif") for i in range(12)]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(names)), STACK)
    with pytest.raises(FileProblem, match="there already"):
        make(tmp_path / "out", geometry, np.dtype("uint16"))
    with pytest.raises(BadInput, match="one channel"):
        make(tmp_path / "more", geometry, np.dtype("uint16"), channels=2)


def test_convert_to_slices_and_back(tmp_path: Path) -> None:
    write(Volume.from_array(STACK, spacing_xyz=(0.7, 0.8, 2.5)), tmp_path / "a.nrrd")
    jobs = find_jobs(tmp_path / "a.nrrd", tmp_path / "out", "slices", {})
    convert(jobs[0])
    convert(Conversion(tmp_path / "out" / "a", tmp_path / "b.mha"))
    back = read(tmp_path / "b.mha")
    np.testing.assert_array_equal(back.array, STACK)
    assert back.spacing_xyz == pytest.approx((0.7, 0.8, 2.5), rel=1e-6)
    write(Volume.from_array(np.stack([STACK, STACK])), tmp_path / "c.nrrd")
    with pytest.raises(BadInput, match="2 channels"):
        convert(find_jobs(tmp_path / "c.nrrd", tmp_path / "out", "slices", {})[0])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda png: png[:-70] + bytes([png[-70] ^ 1]) + png[-69:], "checksum"),
        (lambda png: png[:-12], "complete"),
        (lambda png: png[:-20], "ends beyond"),
        (lambda png: png[:8] + png[33:], "complete|beyond"),
    ],
)
def test_a_damaged_png_is_refused_without_noise(
    tmp_path: Path, damage: Any, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plane = np.random.default_rng(0).integers(0, 900, (20, 24)).astype(np.uint16)
    for index in range(3):
        (tmp_path / f"s{index}.png").write_bytes(imagecodecs.png_encode(plane))
    np.testing.assert_array_equal(read(tmp_path).array[1], plane)
    file = tmp_path / "s1.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FileProblem, match=told):
        read(tmp_path)
    assert capfd.readouterr() == ("", "")
