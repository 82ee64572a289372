"""DICOM series are placed by position; whatever would give a wrong grid is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.io import open_volume, read

MakeSeries = Callable[..., Path]


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def test_oblique_series_in_any_order_of_names(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    matrix = Rotation.from_euler("xyz", [30, 10, -20], degrees=True).as_matrix()
    folder = make_series(tmp_path / "ct", array, matrix=matrix)
    volume = read(folder)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.geometry.matrix, matrix, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_xyz, (0.8, 1.2, 2.5), atol=1e-6)
    np.testing.assert_allclose(volume.origin_xyz, (-10, 20, 30), atol=1e-6)
    reader = sitk.ImageSeriesReader()  # the oracle
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    oracle = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(oracle), volume.array)
    np.testing.assert_allclose(oracle.GetDirection(), volume.geometry.matrix.ravel(), atol=1e-6)
    np.testing.assert_allclose(oracle.GetSpacing(), volume.spacing_xyz, atol=1e-5)


def test_one_file_stands_for_its_series_and_slices_are_read_alone(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    source = open_volume(folder / "003.dcm")
    assert source.by_region
    np.testing.assert_array_equal(source.read((1, 3))[0], array[1:3])
    assert source.metadata["modality"] == "CT"
    assert len(source.metadata["files"]) == 5


def test_rescale_is_applied(tmp_path: Path, make_series: MakeSeries) -> None:
    hounsfield = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(np.int16) - 1000
    folder = make_series(tmp_path / "ct", hounsfield, rescale=(1, -1024))
    np.testing.assert_array_equal(read(folder).array, hounsfield)


def test_a_missing_slice(tmp_path: Path, make_series: MakeSeries, array: np.ndarray) -> None:
    offsets = [np.array([0, 0, z]) for z in (0, 2.5, 5.0, 10.0, 12.5)]
    folder = make_series(tmp_path / "ct", array, offsets=offsets)
    with pytest.raises(FileProblem, match=r"2\.5 mm apart, but 5 mm"):
        read(folder)


def test_doubled_slices(tmp_path: Path, make_series: MakeSeries, array: np.ndarray) -> None:
    offsets = [np.array([0, 0, z]) for z in (0, 2.5, 2.5, 5.0, 7.5)]
    with pytest.raises(FileProblem, match="same place"):
        read(make_series(tmp_path / "ct", array, offsets=offsets))


def test_tilted_gantry(tmp_path: Path, make_series: MakeSeries, array: np.ndarray) -> None:
    offsets = [np.array([0, 0.4 * i, 2.5 * i]) for i in range(5)]
    with pytest.raises(FileProblem, match="gantry"):
        read(make_series(tmp_path / "ct", array, offsets=offsets))


def test_several_series(tmp_path: Path, make_series: MakeSeries, array: np.ndarray) -> None:
    folder = make_series(tmp_path / "ct", array, prefix="a")
    make_series(folder, array[:3] + 1, uid="1.2.826.0.1.3680043.2.1125.77", prefix="b")
    with pytest.raises(FileProblem, match="2 image series") as found:
        read(folder)
    assert "1.2.826.0.1.3680043.2.1125.77  CT (3 files)" in str(found.value.hint).replace(
        "  (", " ("
    )
    np.testing.assert_array_equal(read(folder, series="1125.77").array, array[:3] + 1)
    np.testing.assert_array_equal(read(folder / "b000.dcm").array, array[:3] + 1)
    with pytest.raises(BadInput, match="no image series"):
        read(folder, series="1125.78")


def test_other_objects_beside_the_series_do_not_matter(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    make_series(folder, array[:1], uid="1.2.826.0.1.3680043.2.1125.5", modality="SEG", prefix="s")
    np.testing.assert_array_equal(read(folder).array, array)
    with pytest.raises(FileProblem, match="SEG object"):
        read(folder / "s000.dcm", format="dicom")


def test_slices_of_different_size(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    folder = make_series(tmp_path / "ct", array)
    make_series(folder, array[:1, :4], origin=(-10, 20, 60), prefix="x")
    with pytest.raises(FileProblem, match="differ in size"):
        read(folder)


def test_a_truncated_slice(
    tmp_path: Path,
    make_series: MakeSeries,
    array: np.ndarray,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = make_series(tmp_path / "ct", array)
    cut = folder / "001.dcm"
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(FileProblem) as found:
        read(folder)
    assert str(folder) in found.value.message
    assert capfd.readouterr().err == ""


def test_a_single_slice_has_its_thickness(
    tmp_path: Path, make_series: MakeSeries, array: np.ndarray
) -> None:
    volume = read(make_series(tmp_path / "ct", array[:1]))
    assert volume.array.shape == (1, 6, 7)
    assert volume.spacing_xyz[2] == 7.5


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(FileProblem, match="no DICOM files"):
        read(tmp_path)
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM either")
    with pytest.raises(FileProblem, match=r"bad\.dcm"):
        read(tmp_path / "bad.dcm")


@pytest.mark.real_data
def test_jpeg_2000_and_distance_instead_of_thickness(real_data: Path) -> None:
    scan = read(real_data / "dicom_jpeg2000" / "series")
    assert scan.array.shape == (20, 512, 512)
    assert scan.spacing_xyz[2] == pytest.approx(2.0)
    assert scan.array.min() == -1024


@pytest.mark.real_data
def test_dicom_and_nifti_of_one_scan_are_the_same(real_data: Path) -> None:
    dicom = read(real_data / "dicom_rtstruct" / "image")
    nifti = read(real_data / "sts_ct" / "imagesTr" / "sts_001.nii.gz")
    assert dicom.geometry.difference(nifti.geometry) is None
    np.testing.assert_array_equal(dicom.array, nifti.array)
