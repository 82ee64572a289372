"""Which series a folder holds, and slices that lie oddly: copies, gaps, tilted gantries, scout views."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats.dicom.recognise import is_dicom
from ctseg.volume.formats.dicom.series import list_series
from ctseg.volume.io import open_volume, read

_spec = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).with_name("dicom_files.py")
)
assert _spec is not None and _spec.loader is not None
dicom_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dicom_files)
MakeSeries = Callable[..., Path]
ROOT = "1.2.826.0.1.3680043.2.1125"


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


def test_list(tmp_path: Path, make_series: MakeSeries, array: np.ndarray) -> None:
    folder = make_series(tmp_path / "study", array)
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
    make_series(folder / "deep", array[:3], uid=f"{ROOT}.2", matrix=sagittal)
    make_series(folder / "seg", array[:1], uid=f"{ROOT}.3", modality="SEG")
    found = list_series(folder)
    assert [one.uid for one in found] == [f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"]
    assert [one.slices for one in found] == [6, 3, 0]
    assert [one.orientation for one in found] == ["axial", "sagittal", ""]
    assert [one.image for one in found] == [True, True, False]
    assert (found[0].modality, found[0].shape_yx, found[0].study_uid) == ("CT", (7, 8), f"{ROOT}.9")
    assert len(found[0].files) == 6
    assert "6 slices of 8 x 7 axial" in found[0].line


def test_a_series_spread_over_folders(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "study" / "1", array)
    (tmp_path / "study" / "2").mkdir()
    for name in sorted(folder.iterdir())[::2]:
        shutil.move(name, tmp_path / "study" / "2" / name.name)
    assert is_dicom(tmp_path / "study")
    np.testing.assert_array_equal(read(tmp_path / "study").array, array)


def test_a_study_with_several_series_in_folders(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    make_series(tmp_path / "study" / "a", array)
    make_series(tmp_path / "study" / "b", array + 1, uid=f"{ROOT}.2")
    assert is_dicom(tmp_path / "study")
    with pytest.raises(FileProblem, match="2 image series"):
        read(tmp_path / "study")
    np.testing.assert_array_equal(read(tmp_path / "study", series="1125.2").array, array + 1)


def test_a_file_of_another_series_is_refused(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    make_series(folder, array + 1, uid=f"{ROOT}.2", prefix="b")
    np.testing.assert_array_equal(read(folder / "b000.dcm").array, array + 1)
    np.testing.assert_array_equal(read(folder / "b000.dcm", series="1125.2").array, array + 1)
    with pytest.raises(BadInput, match=rf"b000\.dcm belongs to the series {ROOT}\.2, not to"):
        read(folder / "b000.dcm", series=f"{ROOT}.1")


def test_a_folder_of_patients_is_no_scan(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    make_series(tmp_path / "a", array)
    make_series(tmp_path / "b", array)
    for file in (tmp_path / "b").iterdir():
        content = file.read_bytes()
        file.write_bytes(content.replace(f"{ROOT}.9".encode(), f"{ROOT}.4".encode()))
    assert not is_dicom(tmp_path)
    assert is_dicom(tmp_path / "a")


def test_what_lies_beside_counts_before_what_lies_deeper(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    make_series(folder / "old", array[:2], uid=f"{ROOT}.5")
    np.testing.assert_array_equal(read(folder).array, array)


def test_copies_of_slices_are_left_out_and_told(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    shutil.copy(folder / "003.dcm", folder / "copy of 003.dcm")
    with open_volume(folder) as source:
        np.testing.assert_array_equal(source.read()[0], array)
        assert "1 copies of slices" in source.metadata["notes"][0]
        assert len(source.metadata["files"]) == 6


def test_scout_views_are_left_out(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    sagittal = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
    extra = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    make_series(folder, array[:1, :4], matrix=sagittal, prefix="s", tags=extra)
    make_series(folder, array[:1, :4], matrix=sagittal, prefix="t", tags=extra, uid=f"{ROOT}.6")
    np.testing.assert_array_equal(read(folder).array, array)
    assert read(folder, series=f"{ROOT}.6").array.shape == (1, 4, 8)


def test_the_numbers_of_missing_and_doubled_slices(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    holes = [np.array([0, 0, 2.5 * z]) for z in (0, 1, 4, 5, 7, 8)]
    with pytest.raises(FileProblem, match=r"2\.5 mm apart, but 7\.5 mm.*3 slices are missing"):
        read(make_series(tmp_path / "a", array, offsets=holes))
    phases = [np.array([0, 0, 2.5 * (z // 2)]) for z in range(6)]
    with pytest.raises(FileProblem, match="6 slices lie at 3 places"):
        read(make_series(tmp_path / "b", array, offsets=phases))


def test_uneven_slices_are_put_on_an_even_grid_on_demand(
    tmp_path: Path, make_series: MakeSeries
) -> None:
    heights = [0.0, 2.5, 5.0, 10.0, 12.5]
    ramp = np.stack([np.full((7, 8), 100 * z, np.int16) for z in heights])
    folder = make_series(tmp_path / "a", ramp, offsets=[np.array([0, 0, z]) for z in heights])
    with pytest.raises(FileProblem, match="straighten=yes"):
        read(folder)
    with pytest.raises(BadInput, match="'yes' or 'no'"):
        read(folder, straighten="maybe")
    volume = read(folder, straighten="yes")
    assert volume.array[:, 3, 3].tolist() == [0, 250, 500, 750, 1000, 1250]
    assert volume.geometry.spacing_xyz == pytest.approx((0.8, 1.2, 2.5))
    assert "straightened" in volume.metadata["notes"][-1]
    with open_volume(folder, straighten="yes") as source:
        np.testing.assert_array_equal(
            source.read_box((2, 1, 2), (4, 5, 6))[0], volume.array[2:4, 1:5, 2:6]
        )


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_tilted_gantry_is_straightened_as_simpleitk_does(
    tmp_path: Path, make_series: MakeSeries, degrees: float
) -> None:
    shape, spacing = (9, 24, 20), np.array([0.8, 1.2, 2.5])
    shift = 2.5 * math.tan(math.radians(degrees))
    origin = np.array([-10.0, 20.0, 30.0])

    def scene(points: np.ndarray) -> np.ndarray:  # smooth, so that interpolation loses little
        x, y, z = np.moveaxis(points - origin, -1, 0)
        return 300 * np.sin(x / 6) + 300 * np.cos(y / 9) + 20 * z

    k, j, i = np.meshgrid(*map(np.arange, shape), indexing="ij")
    points = origin + np.stack([i * 0.8, j * 1.2 + k * shift, k * 2.5], axis=-1)
    offsets = [np.array([0, shift * n, 2.5 * n]) for n in range(9)]
    folder = make_series(tmp_path / "a", scene(points).astype(np.int16), offsets=offsets)
    with pytest.raises(FileProblem, match=rf"tilted by {abs(degrees):.3g} degrees"):
        read(folder)
    volume = read(folder, straighten="yes")
    geometry = volume.geometry
    np.testing.assert_allclose(geometry.matrix, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(geometry.spacing_xyz, spacing)
    zz, yy, xx = np.meshgrid(*map(np.arange, geometry.shape_zyx), indexing="ij")
    places = geometry.position(np.stack([xx, yy, zz], axis=-1))
    inside = (places[..., 1] >= 20 + zz * shift) & (places[..., 1] <= 20 + zz * shift + 23 * 1.2)
    error = np.abs(volume.array - scene(places))[inside]
    assert inside.mean() > 0.7
    assert error.max() < 4  # of a range of 1000; the values were cut to whole numbers before
    assert (volume.array[~inside] < 0).mean() > 0.5  # air where no slice reaches
    # the oracle: ITK's resampling of one slice by the same shift
    one = sitk.GetImageFromArray(scene(points)[4].astype(np.int16).astype(np.float64))
    one.SetSpacing((0.8, 1.2))
    one.SetOrigin((points[4, 0, 0, 0], points[4, 0, 0, 1]))
    grid = sitk.Image(geometry.shape_zyx[2], geometry.shape_zyx[1], sitk.sitkFloat64)
    grid.SetSpacing((0.8, 1.2))
    grid.SetOrigin(geometry.origin_xyz[:2])
    oracle = sitk.GetArrayFromImage(
        sitk.Resample(one, grid, sitk.Transform(), sitk.sitkLinear, -1024.0)
    )
    far = slice(2, -2)
    keep = inside[4][far] & np.roll(inside[4], 1, 0)[far] & np.roll(inside[4], -1, 0)[far]
    np.testing.assert_allclose(volume.array[4][far][keep], oracle[far][keep], atol=0.51)


@pytest.mark.parametrize(
    ("digits", "size"),
    [(3, (0.5, 0.6, 0.5)), (2, (0.8, 0.9, 0.625)), (2, (0.8, 0.9, 2.5))],
)
def test_positions_of_few_digits_are_an_even_stack(
    tmp_path: Path,
    make_series: MakeSeries,
    array: np.ndarray,
    digits: int,
    size: tuple[float, float, float],
) -> None:
    """Oblique slices whose positions were rounded: no shear, and their distance is that of all, as ITK has it."""
    matrix = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    origin, deep = np.array([-10.0, 20.0, 30.0]), np.concatenate([array] * 8)
    exact = [matrix[:, 2] * size[2] * k for k in range(len(deep))]
    offsets = [np.round(origin + step, digits) - origin for step in exact]
    make = {"matrix": matrix, "spacing_xyz": size, "offsets": offsets}
    volume = read(make_series(tmp_path / "ct", deep, **make))
    np.testing.assert_array_equal(volume.array, deep)
    last = volume.geometry.position((0, 0, len(deep) - 1))
    np.testing.assert_allclose(last, origin + exact[-1], atol=3 * 10**-digits)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    oracle = reader.Execute()
    np.testing.assert_allclose(volume.spacing_xyz, oracle.GetSpacing(), rtol=1e-5)


def test_cosines_of_few_digits(tmp_path: Path, array: np.ndarray) -> None:
    """Their normal is not of length 1; the distance of slices is in millimetres all the same."""
    matrix = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    cosines = np.round(matrix, 3).T[:2].ravel()
    assert abs(np.linalg.norm(np.cross(cosines[:3], cosines[3:])) - 1) > 1e-4
    for index, plane in enumerate(array):
        place = [float(f"{v:.6f}") for v in matrix[:, 2] * 2.5 * index]
        out = dicom_files.dataset(
            plane, position=place, cosines=cosines.tolist(), instance=index + 1
        )
        dicom_files.save(out, tmp_path / f"{index}.dcm", plane)
    volume = read(tmp_path)
    np.testing.assert_allclose(volume.spacing_xyz[2], 2.5, rtol=1e-5)
    np.testing.assert_array_equal(volume.array, array)
