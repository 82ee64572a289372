"""Opening by reference, parts of a volume, and several channels of one case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import BadInput, GeometryMismatch, UnknownName
from ctseg.specs import ImageRef, frozen
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_ref, open_volume, read, read_images, write
from ctseg.volume.volume import Volume


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".h5", ".nrrd"])
def test_slices_move_the_geometry(tmp_path: Path, oblique: Volume, suffix: str) -> None:
    write(oblique, tmp_path / f"a{suffix}")
    source = open_ref(ImageRef(tmp_path / f"a{suffix}", slices=(2, 5)))
    np.testing.assert_array_equal(source.read()[0], oblique.array[2:5])
    np.testing.assert_array_equal(source.read((1, 2))[0], oblique.array[3:4])
    image = sitk.GetImageFromArray(oblique.array)  # the oracle cuts the part out itself
    image.SetSpacing(oblique.spacing_xyz)
    image.SetOrigin(oblique.origin_xyz)
    image.SetDirection(oblique.geometry.matrix.ravel().tolist())
    part = image[:, :, 2:5]
    np.testing.assert_allclose(source.geometry.origin_xyz, part.GetOrigin(), atol=1e-4)
    assert source.geometry.shape_zyx == (3, 7, 8)
    with pytest.raises(BadInput):
        source.read((2, 4))
    source.close()


@pytest.mark.parametrize("slices", [(2, 7), (-1, 3), (3, 3)])
def test_slices_that_are_not_there(
    tmp_path: Path, oblique: Volume, slices: tuple[int, int]
) -> None:
    write(oblique, tmp_path / "a.nii")
    with pytest.raises(BadInput, match="6 slices"):
        open_ref(ImageRef(tmp_path / "a.nii", slices=slices))


def test_channels_in_files_of_their_own(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nii.gz")
    write(Volume(oblique.array.astype(np.float32) + 0.5, oblique.geometry), tmp_path / "b.nrrd")
    both = read_images([ImageRef(tmp_path / "a.nii.gz"), ImageRef(tmp_path / "b.nrrd")])
    assert both.array.dtype == np.float32
    np.testing.assert_array_equal(both.array, np.stack([oblique.array, oblique.array + 0.5]))
    moved = Geometry((6, 7, 8), oblique.spacing_xyz, (0, 0, 0), oblique.direction)
    write(Volume(oblique.array, moved), tmp_path / "c.nii.gz")
    with pytest.raises(GeometryMismatch, match=r"c\.nii\.gz.*origin"):
        read_images([ImageRef(tmp_path / "a.nii.gz"), ImageRef(tmp_path / "c.nii.gz")])
    with pytest.raises(BadInput):
        read_images([])


def test_options_are_checked(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nrrd")
    with pytest.raises(BadInput, match="nrrd has no option 'dataset'"):
        open_ref(ImageRef(tmp_path / "a.nrrd", frozen({"dataset": "/raw"})))


def test_a_format_by_name(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").rename(tmp_path / "scan")
    np.testing.assert_array_equal(read(tmp_path / "scan", format="nrrd").array, oblique.array)
    with pytest.raises(UnknownName, match="Did you mean 'nrrd'"):
        open_volume(tmp_path / "scan", format="nrd")


def test_upper_case_suffix(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.NII.GZ")
    np.testing.assert_array_equal(read(tmp_path / "a.NII.GZ").array, oblique.array)
