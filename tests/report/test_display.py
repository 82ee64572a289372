"""Scans reduced for a page: where their voxels lie, how they are averaged, what is counted at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ctseg
from ctseg.errors import BadInput, GeometryMismatch
from ctseg.report.display import block_means, factors_for, read_display, reduced
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

GRID = {"spacing_xyz": (0.7, 0.8, 3.0), "origin_xyz": (-10.0, 20.0, 5.0)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("display")
    z, y, x = np.mgrid[:20, :50, :61]
    inside = (z - 10) ** 2 * 9 + (y - 25) ** 2 + (x - 30) ** 2 < 300
    hu = np.where(inside, 40, -1000).astype(np.int16)
    scan, mask = folder / "scan.nii.gz", folder / "mask.nii.gz"
    ctseg.write(Volume.from_array(hu, **GRID), scan)
    ctseg.write(Volume.from_array(inside.astype(np.uint8) * 3, **GRID), mask)
    return scan, mask


def centre(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    return np.asarray(geometry.position(np.argwhere(array)[:, ::-1].mean(axis=0)))


def test_a_small_scan_is_shown_as_it_is(files: tuple[Path, Path]) -> None:
    scan, mask = files
    shown = read_display(scan, [mask])
    whole = ctseg.read(scan)
    np.testing.assert_array_equal(shown.volume.array, whole.array)
    assert shown.volume.geometry == whole.geometry and shown.note == ""
    (layer,) = shown.layers
    assert [(label.name, label.value) for label in layer.labels] == [("label 3", 3)]
    count = (ctseg.read(mask).array == 3).sum()
    assert layer.volumes_mm3 == {3: pytest.approx(count * 0.7 * 0.8 * 3)}


def test_a_reduced_scan_stays_in_place_and_volumes_are_counted_at_full_size(
    files: tuple[Path, Path],
) -> None:
    scan, mask = files
    full, less = read_display(scan, [mask]), read_display(scan, [mask], most=8000)
    assert less.volume.array.size <= 8000
    assert less.note == "Reduced 3 x 3 x 1 times along x, y, z, to 21 x 17 x 20 voxels."
    assert less.layers[0].volumes_mm3 == full.layers[0].volumes_mm3
    shift = centre(less.layers[0].array, less.volume.geometry) - centre(
        full.layers[0].array, full.volume.geometry
    )
    assert np.linalg.norm(shift) < 0.2
    blocks = full.volume.array[:, :48, :60].reshape(20, 16, 3, 20, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(less.volume.array[:, :16, :20], np.rint(blocks))


def test_a_region_keeps_its_voxels(files: tuple[Path, Path]) -> None:
    scan, mask = files
    part = read_display(scan, [mask], region=((5, 15), (10, 40), (0, 31)))
    whole = ctseg.read(scan)
    np.testing.assert_array_equal(part.volume.array, whole.array[5:15, 10:40, 0:31])
    assert part.volume.geometry.origin_xyz == pytest.approx((-10, 28, 20))
    inside = ctseg.read(mask).array[5:15, 10:40, 0:31] == 3
    assert part.layers[0].volumes_mm3[3] == pytest.approx(inside.sum() * 0.7 * 0.8 * 3)
    assert part.note == "Region 5:15,10:40,0:31 (z, y, x)."
    with pytest.raises(BadInput, match="no part of a scan"):
        read_display(scan, region=((5, 21), (10, 40), (0, 31)))


def test_masks_on_other_grids_and_files_that_are_no_masks(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    scan, _ = files
    coarse = np.zeros((10, 25, 30), np.uint8)
    coarse[4:6, 10:15, 12:18] = 1
    grid = {"spacing_xyz": (1.4, 1.6, 6.0), "origin_xyz": (-9.65, 20.4, 6.5)}
    ctseg.write(Volume.from_array(coarse, **grid), tmp_path / "coarse.nii.gz")
    shown = read_display(scan, [tmp_path / "coarse.nii.gz"])
    np.testing.assert_array_equal(shown.layers[0].array[8:12, 20:30, 24:36], 1)
    assert shown.layers[0].array.sum() == 4 * 10 * 12
    away = {**GRID, "origin_xyz": (900.0, 0.0, 0.0)}
    ctseg.write(Volume.from_array(coarse, **away), tmp_path / "away.nii.gz")
    with pytest.raises(GeometryMismatch, match="outside the grid"):
        read_display(scan, [tmp_path / "away.nii.gz"])
    ctseg.write(Volume.from_array(coarse / 3, **grid), tmp_path / "values.nii.gz")
    with pytest.raises(BadInput, match="values"):
        read_display(scan, [tmp_path / "values.nii.gz"])


def test_factors_make_voxels_isotropic_first_and_fit_a_texture() -> None:
    assert factors_for((100, 500, 500), (3.0, 0.7, 0.7), 2**24) == (1, 2, 1)
    assert factors_for((100, 500, 500), (3.0, 0.7, 0.7), 2**20) == (1, 5, 5)
    assert factors_for((3000, 20, 20), (1.0, 1.0, 1.0), 2**24) == (2, 1, 1)


def test_blocks_at_the_end_are_averaged_over_what_is_there() -> None:
    array = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    assert block_means(array, (1, 1, 2)).tolist() == [[[0.5, 2.5, 4.0]]]
    grid = reduced(Geometry((1, 1, 5), (2.0, 1.0, 1.0)), (1, 1, 2))
    assert grid.shape_zyx == (1, 1, 3)
    assert grid.spacing_xyz == (4.0, 1.0, 1.0) and grid.origin_xyz == (1.0, 0.0, 0.0)
