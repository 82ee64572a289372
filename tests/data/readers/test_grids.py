"""Files of a case that lie beside its image by the rounding of a header."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import ctseg
from ctseg.data.lazy_survey import one_grid
from ctseg.data.load import load_extra, load_image, load_label
from ctseg.data.readers.find import open_dataset
from ctseg.data.readers.grids import on_one_grid, tolerated_offsets
from ctseg.errors import GeometryMismatch
from ctseg.specs import Case, ImageRef
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume


def test_a_label_a_little_aside_is_taken_where_the_tolerance_allows_it(tmp_path: Path) -> None:
    """An origin that was rounded to two decimals, as some programs write it."""
    affine = np.diag([0.7, 0.7, 3, 1.0])
    affine[:3, 3] = [-250.48828, -170.51172, -830.3237]
    rounded = affine.copy()
    rounded[:3, 3] = rounded[:3, 3].round(2)
    scan = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    for folder, array, matrix in (
        ("imagesTr", scan, affine),
        ("labelsTr", (scan > 1).astype("u1"), rounded),
    ):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, matrix), tmp_path / folder / "a.nii.gz")
    strict = open_dataset(tmp_path)
    with pytest.raises(GeometryMismatch, match=r"0\.0025 of a voxel apart") as caught:
        one_grid(strict.cases[0])
    assert "--grid-tolerance 0.0025" in caught.value.hint and "--like" in caught.value.hint
    assert tolerated_offsets(strict.cases) is None
    (case,) = open_dataset(tmp_path, grid_tolerance=0.003).cases
    image = load_image(case)
    label = load_label(case, classes_task({"a": 1}), image)
    assert label.geometry == image.geometry == one_grid(case)
    np.testing.assert_array_equal(label.array.transpose(2, 1, 0), (scan > 1))
    assert "up to 0.0025 of a voxel beside" in (tolerated_offsets([case]) or "")


def test_the_error_names_the_channel_whose_grid_it_is(tmp_path: Path) -> None:
    """Labels drawn on the PET, where the CT gives the grid: they are to be brought onto the CT."""
    grids = {
        "pet": Geometry((8, 9, 10), (4.0, 4.0, 4.0)),
        "ct": Geometry((12, 14, 16), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
        "label": Geometry((8, 9, 10), (4.0, 4.0, 4.0)),
    }
    for name, grid in grids.items():
        ctseg.write(Volume(np.zeros(grid.shape_zyx, np.uint8), grid), tmp_path / f"{name}.nii")
    images = on_one_grid([ImageRef(tmp_path / f"{name}.nii") for name in ("pet", "ct")], 1)
    label = ImageRef(tmp_path / "label.nii")
    case = Case("a", images, label, mask=label)
    image = load_image(case)
    checks = (
        lambda: load_label(case, classes_task({"a": 1}), image),
        lambda: load_extra(case, case.mask, image),
        lambda: one_grid(case),
    )
    for check in checks:
        with pytest.raises(GeometryMismatch) as caught:
            check()
        assert f"--like {tmp_path / 'ct.nii'}" in caught.value.hint
        assert "pet" not in caught.value.message
