"""Label TIFFs and slices that know no voxel size take the grid of their image, and say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from ctseg.data.inspection.dataset import inspect_dataset
from ctseg.data.readers.find import open_dataset
from ctseg.errors import FileProblem
from ctseg.volume.io import open_ref, open_volume
from ctseg.volume.volume import Volume

LABEL = np.random.default_rng(0).integers(0, 3, (6, 9, 11)).astype(np.uint8)


def pair(folder: Path, label: np.ndarray = LABEL, **options: object) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    image = sitk.GetImageFromArray(LABEL.astype(np.int16))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(folder / "images" / "a.nii.gz"))
    tifffile.imwrite(folder / "labels" / "a.tif", label, **options)
    return folder


def test_an_uncalibrated_label_takes_the_grid_of_its_image(tmp_path: Path) -> None:
    (case,) = open_dataset(pair(tmp_path / "a")).cases
    with open_ref(case.images[0]) as image, open_ref(case.label) as label:
        assert label.geometry == image.geometry
        assert image.geometry.spacing_xyz == pytest.approx((0.7, 0.8, 2.5))
        np.testing.assert_array_equal(label.read()[0], LABEL)
        assert "takes the grid of" in label.metadata["notes"][0]
    (report,) = inspect_dataset(open_dataset(tmp_path / "a")).cases
    assert not report.problems
    assert any("takes the grid of" in note for note in report.notes)


def test_a_calibrated_label_or_one_of_another_shape_keeps_its_own(tmp_path: Path) -> None:
    own = {
        "imagej": True,
        "resolution": (2, 2),
        "metadata": {"unit": "mm", "spacing": 3, "axes": "ZYX"},
    }
    (case,) = open_dataset(pair(tmp_path / "a", **own)).cases
    with open_ref(case.label) as label:
        assert label.geometry.spacing_xyz == (0.5, 0.5, 3)
    (case,) = open_dataset(pair(tmp_path / "b", LABEL[:5])).cases
    with open_ref(case.label) as label:
        assert label.geometry.spacing_xyz == (1, 1, 1)
        assert "another shape" in label.metadata["notes"][1]


def test_slices_take_it_too(tmp_path: Path) -> None:
    folder = pair(tmp_path / "a")
    (folder / "labels" / "a.tif").unlink()
    (folder / "labels" / "a").mkdir()
    for number, plane in enumerate(LABEL):
        tifffile.imwrite(folder / "labels" / "a" / f"{number}.tif", plane)
    path = folder / "labels" / "a"
    with open_volume(path, like=str(folder / "images" / "a.nii.gz")) as label:
        assert label.geometry.spacing_xyz == pytest.approx((0.7, 0.8, 2.5))
        assert label.geometry.origin_xyz == pytest.approx((10, 20, 30))


def test_a_lender_that_is_none(tmp_path: Path) -> None:
    folder = pair(tmp_path / "a")
    for name in ("nothing.nii.gz", "what.xyz"):
        with pytest.raises(FileProblem):
            open_volume(folder / "labels" / "a.tif", like=str(tmp_path / name))
    assert Volume.from_array(LABEL).geometry.spacing_xyz == (1, 1, 1)
