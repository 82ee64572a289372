"""Volumes and SimpleITK images: the same voxels at the same places in space."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.errors import BadInput

TURN = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, -1.0))
GRID = {"spacing_xyz": (0.7, 0.9, 2.5), "origin_xyz": (-3.0, 12.0, 40.0), "direction": TURN}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "bool", "float16"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 5, 6)])
def test_there_and_back(dtype, shape):
    array = (np.random.default_rng(0).random(shape) * 9).astype(dtype)
    volume = ctseg.Volume.from_array(array, **GRID)
    back = ctseg.from_sitk(ctseg.to_sitk(volume))
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.agrees(volume.geometry)


def test_a_voxel_lies_where_simpleitk_says(tmp_path):
    """SimpleITK writes the file, and its own physical point of a voxel is that of the volume."""
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    image = ctseg.to_sitk(ctseg.Volume.from_array(array, **GRID))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    read = ctseg.read(tmp_path / "a.mha")
    np.testing.assert_array_equal(read.array, array)
    assert image.GetPixel(5, 3, 2) == array[2, 3, 5]
    point = read.geometry.affine @ [5, 3, 2, 1]
    np.testing.assert_allclose(point[:3], image.TransformIndexToPhysicalPoint((5, 3, 2)), atol=1e-6)


def test_other_numbers_of_axes_are_refused():
    with pytest.raises(BadInput, match="2 axes"):
        ctseg.from_sitk(sitk.Image(4, 5, sitk.sitkUInt8))
