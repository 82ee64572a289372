"""Prediction file to file: formats and directions, degenerate scans, several channels; the same as in memory."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

import ctseg
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.prediction.folder import Listener, predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.request import Request

_spec = importlib.util.spec_from_file_location(
    "small_model", Path(__file__).parents[1] / "small_model.py"
)
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

TURNS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]]),
    "oblique and flipped": np.array([[0.96, 0.28, 0.0], [0.28, -0.96, 0.0], [0.0, 0.0, -1.0]]),
}
SPACING, ORIGIN = (0.9, 1.3, 2.1), (-31.7, 12.4, 803.2)


@pytest.fixture(scope="module")
def turning() -> Segmenter:
    """Turns every scan to one orientation first, so that results come in any order of slices."""
    from ctseg.config import PreprocessConfig

    return small.small_model(preprocess=PreprocessConfig(steps=({"kind": "orient"},)))


def centres(geometry_of, shape_zyx) -> np.ndarray:
    corners = itertools.product(*((0, n - 1) for n in shape_zyx[::-1]))
    return np.array([geometry_of(corner) for corner in corners])


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_map_lies_where_its_scan_lies(turning, tmp_path, suffix, turn):
    """Corners by SimpleITK, of NIfTI by nibabel too; voxels as predicted in memory."""
    scan = small.scan(spacing_xyz=SPACING, origin_xyz=ORIGIN, direction=TURNS[turn])
    src, dst = tmp_path / f"scan{suffix}", tmp_path / f"mask{suffix}"
    ctseg.write(scan, src)
    turning.predict_file(src, dst)
    one, two = sitk.ReadImage(str(src)), sitk.ReadImage(str(dst))
    shape = scan.array.shape
    np.testing.assert_allclose(
        centres(one.TransformIndexToPhysicalPoint, shape),
        centres(two.TransformIndexToPhysicalPoint, shape), atol=1e-3 * min(SPACING),
    )  # fmt: skip
    if suffix.startswith(".nii"):
        a, b = nibabel.load(src), nibabel.load(dst)
        np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)
        assert a.shape == b.shape
        assert (a.header["qform_code"] > 0) == (b.header["qform_code"] > 0)
    made = turning.predict(ctseg.read(src))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(two), made.array)
    assert set(np.unique(made.array)) == {0, 1, 2}


@pytest.mark.parametrize("turn", TURNS)
def test_hdf5_and_tiff_keep_what_they_can(turning, tmp_path, turn):
    scan = small.scan(spacing_xyz=SPACING, origin_xyz=ORIGIN, direction=TURNS[turn])
    ctseg.write(scan, tmp_path / "scan.h5")
    turning.predict_file(tmp_path / "scan.h5", tmp_path / "mask.h5")
    made = turning.predict(scan).array
    with h5py.File(tmp_path / "mask.h5") as file:
        stored = file["label"]
        np.testing.assert_array_equal(stored, made)
        np.testing.assert_allclose(stored.attrs["spacing_xyz"], SPACING)
        np.testing.assert_allclose(stored.attrs["origin_xyz"], ORIGIN)
        np.testing.assert_allclose(np.reshape(stored.attrs["direction"], (3, 3)), TURNS[turn])
    turning.predict_file(tmp_path / "scan.h5", tmp_path / "mask.tif")
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        np.testing.assert_array_equal(file.asarray(), made)
        assert float(file.imagej_metadata["spacing"]) == pytest.approx(2.1)
        across, pixels = file.pages[0].tags["XResolution"].value
        assert pixels / across == pytest.approx(0.9, rel=1e-4)


THIN = [(1, 20, 22), (12, 1, 22), (12, 20, 1), (3, 5, 4), (1, 1, 1), (1, 1, 30)]


@pytest.mark.parametrize("shape", THIN)
@pytest.mark.parametrize("suffix", [".nii.gz", ".h5"])
def test_thin_and_tiny_scans_from_file_to_file(turning, tmp_path, shape, suffix):
    ctseg.write(small.scan(shape=shape), tmp_path / f"a{suffix}")
    turning.predict_file(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    written = ctseg.read(tmp_path / f"b{suffix}")
    assert written.array.shape == shape
    expected = turning.predict(ctseg.read(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(written.array, expected.array)


@pytest.mark.parametrize("steps", [
    ({"kind": "normalise_case"},),
    ({"kind": "crop", "nonzero": True}, {"kind": "normalise_case"}),
    ({"kind": "resample", "spacing_xyz": [1.5, 1.5, 1.5]},),
])  # fmt: skip
@pytest.mark.parametrize("value", [0, 40])
def test_a_constant_scan_from_file_to_file(tmp_path, steps, value):
    from ctseg.config import PreprocessConfig

    model = small.small_model(preprocess=PreprocessConfig(steps=steps))
    ctseg.write(ctseg.Volume.from_array(np.full((9, 17, 18), value, np.int16)), tmp_path / "a.nii")
    model.predict_file(tmp_path / "a.nii", tmp_path / "b.nii")
    written = ctseg.read(tmp_path / "b.nii").array
    assert written.shape == (9, 17, 18)
    np.testing.assert_array_equal(written, model.predict(ctseg.read(tmp_path / "a.nii")).array)


def test_channels_by_comma_and_by_name_are_the_same(tmp_path):
    model = small.small_model(2)
    one, two = small.scan(1), small.scan(2)
    both = ctseg.Volume(np.stack([one.array, two.array]), one.geometry)
    expected = model.predict(both).array
    swapped = model.predict(ctseg.Volume(both.array[::-1].copy(), one.geometry)).array
    assert (expected != swapped).any()
    named = tmp_path / "named"
    ctseg.write(one, named / "head_0000.nii.gz")
    ctseg.write(two, named / "head_0001.nrrd")  # channels need not be of one format
    given = {
        "folder": [str(named)],
        "glob": sorted(map(str, named.iterdir()))[::-1],
        "comma": [f"{named / 'head_0000.nii.gz'},{named / 'head_0001.nrrd'}"],
    }
    for way, texts in given.items():
        summary = predict_folder(
            model.model, find_items(texts, channels=2), Request(tmp_path / way)
        )
        assert [r["case"] for r in summary.done] == ["head"], (way, summary.failed)
        np.testing.assert_array_equal(ctseg.read(tmp_path / way / "head.nii.gz").array, expected)
    turned = [f"{named / 'head_0001.nrrd'},{named / 'head_0000.nii.gz'}"]
    predict_folder(model.model, find_items(turned, channels=2), Request(tmp_path / "turned.nii"))
    np.testing.assert_array_equal(ctseg.read(tmp_path / "turned.nii").array, swapped)
    ctseg.write(both, tmp_path / "both.h5")
    model.predict_file(tmp_path / "both.h5", tmp_path / "mask.nii")
    np.testing.assert_array_equal(ctseg.read(tmp_path / "mask.nii").array, expected)


def test_channels_on_two_grids_are_refused(tmp_path):
    model = small.small_model(2)
    ctseg.write(small.scan(1), tmp_path / "a.nii")
    ctseg.write(small.scan(2, spacing_xyz=(0.9, 1.3, 2.2)), tmp_path / "b.nii")
    items = find_items([f"{tmp_path / 'a.nii'},{tmp_path / 'b.nii'}"], channels=2)
    summary = predict_folder(model.model, items, Request(tmp_path / "out"))
    assert "same grid: spacing" in summary.failed["a"].message


def test_dtypes_and_byte_orders_of_scans(turning, tmp_path):
    scan = small.scan()
    expected = turning.predict(scan).array
    for dtype in ("int16", "int32", "float32", "float64"):
        image = sitk.GetImageFromArray(scan.array.astype(dtype))
        image.SetSpacing(SPACING)
        path = tmp_path / f"{dtype}.nrrd"
        sitk.WriteImage(image, str(path), useCompression=dtype == "int32")
        turning.predict_file(path, tmp_path / "mask.nii")
        np.testing.assert_array_equal(ctseg.read(tmp_path / "mask.nii").array, expected)
    for dtype, suffix in itertools.product((">i2", ">f4"), (".nii", ".nii.gz")):
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(dtype)
        image = nibabel.Nifti1Image(scan.array.T, np.diag([-0.9, -1.3, 2.1, 1.0]), header)
        path = tmp_path / f"big{suffix}"
        nibabel.save(image, path)
        assert nibabel.load(path).header.endianness == ">"
        turning.predict_file(path, tmp_path / "mask.nii")
        np.testing.assert_array_equal(ctseg.read(tmp_path / "mask.nii").array, expected)
    for dtype in (">i2", ">f8"):
        volume = ctseg.Volume(scan.array.astype(dtype), scan.geometry)
        np.testing.assert_array_equal(turning.predict(volume).array, expected)


def test_dicom_series_one_by_one_and_in_a_folder(tmp_path):
    """Written by SimpleITK; the map of each lies where GDCM says its series lies."""
    _there = importlib.util.spec_from_file_location(
        "volume_conftest", Path(__file__).parents[2] / "volume" / "conftest.py"
    )
    assert _there is not None and _there.loader is not None
    volumes = importlib.util.module_from_spec(_there)
    _there.loader.exec_module(volumes)
    model = small.small_model()
    array = np.random.default_rng(0).integers(-300, 300, (6, 9, 10)).astype(np.int16)
    study = tmp_path / "study"
    for number, matrix in enumerate((np.eye(3), TURNS["oblique"])):
        uid = f"1.2.826.0.1.3680043.2.1125.{number + 1}"
        volumes._write_series(study / f"ct{number}", array + number, matrix=matrix, uid=uid)
    single = find_items([str(study / "ct1")], channels=1)
    predict_folder(model.model, single, Request(tmp_path / "single.nii"))
    summary = predict_folder(
        model.model, find_items([str(study)], channels=1), Request(tmp_path / "out")
    )
    assert [r["case"] for r in summary.done] == ["ct0", "ct1"], summary.failed
    one, two = ctseg.read(tmp_path / "single.nii"), ctseg.read(tmp_path / "out" / "ct1.nii.gz")
    np.testing.assert_array_equal(one.array, two.array)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "ct1")))
    series, mask = reader.Execute(), sitk.ReadImage(str(tmp_path / "out" / "ct1.nii.gz"))
    np.testing.assert_allclose(
        centres(series.TransformIndexToPhysicalPoint, array.shape),
        centres(mask.TransformIndexToPhysicalPoint, array.shape), atol=1e-3,
    )  # fmt: skip
    chosen = find_items([str(study)], channels=1, options={"series": "1125.2"})
    assert [item.id for item in chosen] == ["study"]
    predict_folder(model.model, chosen, Request(tmp_path / "chosen.nii"))
    np.testing.assert_array_equal(ctseg.read(tmp_path / "chosen.nii").array, one.array)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_mask_keeps_the_matrices_of_its_scan_and_tells_that_they_disagree(tmp_path, suffix):
    affine = np.diag([-0.8, 0.9, 2.5, 1.0])
    image = nibabel.Nifti1Image(small.scan().array.T, affine)
    elsewhere = affine.copy()
    elsewhere[:3, 3] = 5, 7, -9
    image.set_sform(affine, 2)
    image.set_qform(elsewhere, 1)
    nibabel.save(image, tmp_path / f"scan{suffix}")
    said: list[str] = []
    summary = predict_folder(
        small.small_model().model,
        find_items([str(tmp_path / f"scan{suffix}")], channels=1),
        Request(tmp_path / f"mask{suffix}", probabilities=True),
        listener=Listener(on_say=said.append),
    )
    assert not summary.failed
    assert any("sform (code 2) and qform (code 1) disagree" in line for line in said)
    mask = nibabel.load(tmp_path / f"mask{suffix}")
    for get, matrix, number in (("get_sform", affine, 2), ("get_qform", elsewhere, 1)):
        found, code = getattr(mask, get)(coded=True)
        np.testing.assert_allclose(found, matrix, atol=1e-6)
        assert code == number
    one, two = (sitk.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in ("scan", "mask"))
    np.testing.assert_allclose(one.GetOrigin(), two.GetOrigin(), atol=1e-5)


def test_a_tilted_scan_is_predicted_straightened(tmp_path):
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.6
    nibabel.save(nibabel.Nifti1Image(small.scan().array.T, affine), tmp_path / "scan.nii.gz")
    options = {"straighten": "yes"}
    summary = predict_folder(
        small.small_model().model, find_items([str(tmp_path / "scan.nii.gz")], channels=1, options=options),
        Request(tmp_path / "mask.nii.gz"),
    )  # fmt: skip
    assert not summary.failed
    made, wanted = (
        ctseg.read(tmp_path / "mask.nii.gz"),
        ctseg.read(tmp_path / "scan.nii.gz", **options),
    )
    assert made.geometry.difference(wanted.geometry) is None
